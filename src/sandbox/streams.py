"""Standard output and error of model code: text kept up to a limit, counted beyond it. Both are streams as Python's own are."""
import codecs
import io


class Printed:
    """What one round printed, in the order in which it came."""

    def __init__(self, limit):
        self.limit = limit
        self.clear()

    def clear(self):
        self.count, self.kept, self.pieces = 0, 0, []

    def add(self, text):
        room = self.limit - self.kept
        if room > 0:
            piece = text[:room]
            self.pieces.append(piece)
            self.kept += len(piece)
        self.count += len(text)

    def text(self):
        note = f"\n[output cut: {self.kept} of {self.count} characters]" if self.count > self.kept else ""
        return "".join(self.pieces) + note


class Bytes(io.BufferedIOBase):
    """The `buffer` of a stream: UTF-8, whose characters may come in pieces."""

    def __init__(self, printed, name):
        self.printed, self.name, self.mode = printed, name, "wb"
        self.decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")

    def writable(self):
        return True

    def write(self, data):
        if isinstance(data, str):
            raise TypeError("a bytes-like object is required, not 'str'")
        data = memoryview(data).tobytes()
        self.printed.add(self.decoder.decode(data))
        return len(data)

    def finish(self):
        """Adds what is left of a character that was not ended."""
        self.printed.add(self.decoder.decode(b"", final=True))


class Stream(io.TextIOBase):
    encoding, errors, mode, line_buffering, write_through = "utf-8", "backslashreplace", "w", True, False

    def __init__(self, printed, name):
        self.printed, self.name, self.buffer = printed, name, Bytes(printed, name)

    def writable(self):
        return True

    def write(self, text):
        if self.closed:
            raise ValueError("I/O operation on closed file.")
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        # A subclass of str may slice itself as it likes.
        text = str.__str__(text)
        self.printed.add(text)
        return len(text)

    def reconfigure(self, *, encoding=None, errors=None, newline=None, line_buffering=None, write_through=None):
        """Has no effect: nothing is encoded or held back."""

    def detach(self):
        return self.buffer
