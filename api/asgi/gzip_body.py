"""Unpacks request bodies that come with `Content-Encoding: gzip`, step by step.

A step gives at most `STEP_BYTES`, and others have their turn between two. The receiver of the steps counts and bounds
what has been unpacked, so that a small body cannot become a large one unnoticed.
"""

import asyncio
import zlib
from typing import Any, Final

from api.asgi.responses import Receive
from jobs.contract.errors import Refused

ENCODINGS: Final = ("gzip", "x-gzip")  # the second is the first one's old name (RFC 9110, 8.4.1.3)
STEP_BYTES: Final = 256 << 10
CHUNK_BYTES: Final = 16 << 10  # handed to zlib at a time: it copies what it leaves over
GZIP: Final = 16 + zlib.MAX_WBITS
# A body may have several members (RFC 1952). So many at most, beside those of this size: an empty one has 20 bytes and
# costs as much to begin as a large one.
MAX_SMALL_MEMBERS: Final = 100
MEMBER_BYTES: Final = 1 << 10


class GzipReceiver:
    """A `receive` that gives an unpacked body in place of a packed one."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._packed, self._at, self._more = b"", 0, True
        self._member = zlib.decompressobj(GZIP)
        self._is_inside = True  # a member; it has at least one
        self._has_buffered = False  # of what was handed in already
        self._members, self._unpacked_bytes = 1, 0

    async def __call__(self) -> Any:
        """Give the next step as an ASGI message; raises Refused where the body is no gzip."""
        if self._at == len(self._packed) and self._more and not self._has_buffered:
            message = await self._receive()
            if message["type"] != "http.request":
                return message
            self._packed, self._at, self._more = message.get("body", b""), 0, message.get("more_body", False)
        else:
            await asyncio.sleep(0)
        unpacked = self._step()
        more = self._more or self._has_buffered or self._at < len(self._packed)
        if not more and self._is_inside:
            raise Refused("malformed_request", "the gzip body ends before its end")
        return {"type": "http.request", "body": unpacked, "more_body": more}

    def _step(self) -> bytes:
        if not self._is_inside and self._at < len(self._packed):
            self._begin_member()
        if not self._is_inside:
            return b""
        piece = self._packed[self._at : self._at + CHUNK_BYTES]
        try:
            unpacked = self._member.decompress(piece, STEP_BYTES)
        except zlib.error as error:
            raise Refused("malformed_request", f"the body is no gzip: {error}") from error
        self._at += len(piece) - len(self._member.unused_data) - len(self._member.unconsumed_tail)
        self._is_inside = not self._member.eof
        self._has_buffered = self._is_inside and len(unpacked) == STEP_BYTES
        self._unpacked_bytes += len(unpacked)
        return unpacked

    def _begin_member(self) -> None:
        self._members += 1
        if self._members > MAX_SMALL_MEMBERS + self._unpacked_bytes // MEMBER_BYTES:
            message = f"the gzip body has {self._members} members for {self._unpacked_bytes} bytes: send it as one"
            raise Refused("malformed_request", message)
        self._member, self._is_inside = zlib.decompressobj(GZIP), True
