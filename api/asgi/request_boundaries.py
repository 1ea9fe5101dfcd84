"""Splits received bytes at possible HTTP request ends, because httptools cannot pause between pipelined requests.

llhttp parses everything it is given, and httptools cannot pause it: 256 KiB may hold 10,000 requests. So it is given
bytes in pieces that end where a request may end. llhttp alone decides where a request does end; a cut too many only
costs a call.
"""

from typing import Final

BOUNDARY: Final = b"\n\r\n"  # ends every head and every chunked body: llhttp refuses a line that ends without CR
_OVERLAP: Final = len(BOUNDARY) - 1


class RequestSplitter:
    """The bytes of one connection, in order."""

    def __init__(self) -> None:
        self._body_bytes = 0  # of a declared length that are yet to come
        self._tail = b""  # the last bytes of a piece that has not come to an END, where one may have begun

    def expect_body(self, size_bytes: int) -> None:
        """Take in a request's Content-Length, once its head has been parsed."""
        self._body_bytes = size_bytes

    def next_boundary(self, data: bytes, start: int) -> int:
        """Give the end of the piece that begins at `start` of what came; it is parsed next, so it is taken as gone."""
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
