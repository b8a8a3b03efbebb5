"""Pictures that scripts and tests both draw (`tests/it/support/noise.rs`), and checksums of results. Imported by the scripts."""

import zlib

import numpy


def noise(height, width, smooth):
    """Level i of the interleaved picture: a hash of i; smooth pictures add slow waves."""
    index = numpy.arange(height * width * 3, dtype=numpy.uint64)
    mask = numpy.uint64(0xFFFFFFFF)
    value = index * numpy.uint64(2654435761) & mask
    value ^= value >> numpy.uint64(15)
    value = value * numpy.uint64(2246822519) & mask
    value ^= value >> numpy.uint64(13)
    level = value >> numpy.uint64(24)
    if smooth:
        channel, column, row = index % 3, index // 3 % width, index // 3 // width
        level = (column * 3 + row * 5 + channel * 40) % 256 // 2 + level // 16
    return level.astype(numpy.uint8).reshape(height, width, 3)


def crc(array):
    return zlib.crc32(numpy.ascontiguousarray(array).tobytes())
