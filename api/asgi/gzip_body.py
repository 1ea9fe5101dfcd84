"""Decompresses request bodies with `Content-Encoding: gzip` or `deflate` in bounded steps.

A step yields at most `STEP_BYTES`, and other tasks run between two steps. The reader counts the decompressed bytes, so
a small body cannot exceed the size limit.
"""

import asyncio
import zlib
from typing import Any, Final

from api.asgi.responses import Receive
from jobs.contract.errors import Refused

STEP_BYTES: Final = 256 << 10
CHUNK_BYTES: Final = 16 << 10  # passed to zlib at a time, because it copies what it does not consume
GZIP: Final = 16 + zlib.MAX_WBITS
DEFLATE: Final = zlib.MAX_WBITS  # in zlib's form (RFC 9110, 8.4.1.2)
# Content-Encoding → its form; x-gzip is an old alias (RFC 9110, 8.4.1.3).
ENCODINGS: Final = {"gzip": GZIP, "x-gzip": GZIP, "deflate": DEFLATE}
# A body may have several members (RFC 1952). Small ones are limited, because an empty member of 20 bytes costs as much
# to start as a large one. Each `MEMBER_BYTES` of output allow one more.
MAX_SMALL_MEMBERS: Final = 100
MEMBER_BYTES: Final = 1 << 10


class GzipReceiver:
    """An ASGI `receive` that decompresses the body of another one."""

    def __init__(self, receive: Receive, form: int = GZIP) -> None:
        self._receive, self._form, self._name = receive, form, "gzip" if form == GZIP else "deflate"
        self._compressed, self._offset, self._more = b"", 0, True
        self._member = zlib.decompressobj(form)
        self._is_inside = True  # a member; a body has at least one
        self._has_buffered = False  # zlib holds output of earlier input
        self._members, self._output_bytes = 1, 0

    async def __call__(self) -> Any:
        """Return the next step as an ASGI message; raises Refused if the body is not valid."""
        if self._offset == len(self._compressed) and self._more and not self._has_buffered:
            message = await self._receive()
            if message["type"] != "http.request":
                return message
            self._compressed, self._offset, self._more = message.get("body", b""), 0, message.get("more_body", False)
        else:
            await asyncio.sleep(0)
        output = self._step()
        more = self._more or self._has_buffered or self._offset < len(self._compressed)
        if not more and self._is_inside:
            raise Refused("malformed_request", f"the {self._name} body is truncated")
        return {"type": "http.request", "body": output, "more_body": more}

    def _step(self) -> bytes:
        if not self._is_inside and self._offset < len(self._compressed):
            self._begin_member()
        if not self._is_inside:
            return b""
        piece = self._compressed[self._offset : self._offset + CHUNK_BYTES]
        try:
            output = self._member.decompress(piece, STEP_BYTES)
        except zlib.error as error:
            raise Refused("malformed_request", f"the body is not valid {self._name}: {error}") from error
        self._offset += len(piece) - len(self._member.unused_data) - len(self._member.unconsumed_tail)
        self._is_inside = not self._member.eof
        self._has_buffered = self._is_inside and len(output) == STEP_BYTES
        self._output_bytes += len(output)
        return output

    def _begin_member(self) -> None:
        self._members += 1
        if self._members > MAX_SMALL_MEMBERS + self._output_bytes // MEMBER_BYTES:
            message = f"the {self._name} body has {self._members} members for {self._output_bytes} bytes"
            raise Refused("malformed_request", f"{message}: send it as one member")
        self._member, self._is_inside = zlib.decompressobj(self._form), True
