"""Finds how far received bytes may be parsed so that the parser stops at the end of a request.

llhttp parses everything it is given, and httptools cannot pause it: 256 KiB may hold 10,000 requests. So it is given
bytes in pieces that end where a request may end. llhttp alone decides where a request does end; a cut too many only
costs a call.
"""

from typing import Final

END: Final = b"\n\r\n"  # ends every head and every chunked body: llhttp refuses a line that ends without CR
_REACH: Final = len(END) - 1


class Framing:
    """The bytes of one connection, in order."""

    def __init__(self) -> None:
        self._body_bytes = 0  # of a declared length that are yet to come
        self._tail = b""  # the last bytes of what came before, where an END may have begun

    def expect_body(self, size_bytes: int) -> None:
        """Take in a request's Content-Length, once its head has been parsed."""
        self._body_bytes = size_bytes

    def end_of_piece(self, data: bytes, start: int) -> int:
        """Give the end of the piece that begins at `start` of what came; it is parsed next, so it is taken as gone."""
        size = len(data)
        if self._body_bytes:
            end = min(size, start + self._body_bytes)
            self._body_bytes -= end - start
        else:
            end = self._find(data, start) or size
        self._tail = b"" if end < size else data[-_REACH:] if size >= _REACH else (self._tail + data)[-_REACH:]
        return end

    def _find(self, data: bytes, start: int) -> int:
        """Give where the next END ends; 0 where there is none."""
        if start == 0 and self._tail:
            across = (self._tail + data[:_REACH]).find(END)
            if across >= 0:
                return across + len(END) - len(self._tail)
        at = data.find(END, max(start - 1, 0))
        return at + len(END) if at >= 0 else 0
