"""Splits received bytes at possible HTTP request ends, because httptools cannot pause between pipelined requests.

One read of 256 KiB may hold 10,000 requests, which httptools would parse all at once. So the parser gets pieces that
end where a request may end. llhttp still decides where a request does end, so an extra cut only costs a call.
"""

from typing import Final

BOUNDARY: Final = b"\n\r\n"  # ends every head and every chunked body, because llhttp refuses lines without CR
_OVERLAP: Final = len(BOUNDARY) - 1


class RequestSplitter:
    """Finds possible request ends in the byte stream of one connection."""

    def __init__(self) -> None:
        self._body_bytes = 0  # bytes of a declared body that have not arrived
        self._tail = b""  # the last bytes of a piece without a boundary, where one may have begun

    def expect_body(self, size_bytes: int) -> None:
        """Set the Content-Length of a request whose head has been parsed."""
        self._body_bytes = size_bytes

    def next_boundary(self, data: bytes, start: int) -> int:
        """Return the end of the piece of `data` that begins at `start`, and count the piece as parsed."""
        size = len(data)
        if self._body_bytes:
            end = min(size, start + self._body_bytes)
            self._body_bytes -= end - start
            return end
        if self._tail:
            tail, self._tail = self._tail, b""
            across = (tail + data[:_OVERLAP]).find(BOUNDARY)
            if across >= 0:
                return across + len(BOUNDARY) - len(tail)
            if size < _OVERLAP:
                self._tail = (tail + data)[-_OVERLAP:]
                return size
        at = data.find(BOUNDARY, start)
        if at >= 0:
            return at + len(BOUNDARY)
        self._tail = data[-_OVERLAP:]
        return size
