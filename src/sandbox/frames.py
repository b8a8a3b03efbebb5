"""Frames on a wire: a little-endian u32 length, a JSON header of that length, and the blobs whose lengths the header's "blobs" lists."""
import json
import os
import socket
import struct

HEADER = struct.Struct("<I")


class Closed(Exception):
    """The other end is gone."""


def read_exactly(wire, count):
    pieces = []
    while count:
        piece = os.read(wire, min(count, 1 << 20))
        if not piece:
            raise Closed
        pieces.append(piece)
        count -= len(piece)
    return b"".join(pieces)


def read_frame(wire):
    (length,) = HEADER.unpack(read_exactly(wire, HEADER.size))
    header = json.loads(read_exactly(wire, length))
    return header, [read_exactly(wire, count) for count in header.get("blobs", [])]


def read_first_frame(wire):
    """(header, descriptor) of a frame without blobs, whose first byte comes with a descriptor."""
    connection = socket.socket(fileno=os.dup(wire))
    with connection:
        length, descriptors, _, _ = socket.recv_fds(connection, HEADER.size, 1)
    if not descriptors:
        raise Closed
    length += read_exactly(wire, HEADER.size - len(length))
    return json.loads(read_exactly(wire, *HEADER.unpack(length))), descriptors[0]


def write_frame(wire, header, blobs=()):
    header["blobs"] = [len(blob) for blob in blobs]
    line = json.dumps(header).encode("utf-8", "replace")
    for part in (HEADER.pack(len(line)) + line, *blobs):
        view = memoryview(part)
        while view:
            view = view[os.write(wire, view):]
