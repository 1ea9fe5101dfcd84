"""Sends a response of known length in pieces; resets the connection if a piece can no longer be read."""

import logging
from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

from api.asgi.responses import SECURITY_HEADERS, Header, Scope, Send
from api.asgi.single_write import WHOLE_RESPONSE
from api.asgi.tenant_budgets import BudgetShare
from jobs.contract.errors import StoreUnavailable
from jobs.store.outputs import OutputGone

log = logging.getLogger("jitney.api")


class StreamedResponse(NamedTuple):
    """A response whose body of `length` bytes arrives in pieces. It holds `share` of a budget until it is sent."""

    status: int
    pieces: AsyncIterator[bytes]
    length: int
    share: BudgetShare
    headers: Sequence[Header] = ()
    content_type: bytes = b"application/json"

    async def send(self, scope: Scope, send: Send) -> None:
        """Send the response over ASGI. If a piece cannot be read, the connection is reset: no end would be correct."""
        extension = scope.get("extensions", {}).get(WHOLE_RESPONSE, {})
        length = (b"content-length", b"%d" % self.length)
        headers = [(b"content-type", self.content_type), length, *SECURITY_HEADERS, *self.headers]
        with self.share:
            await send({"type": "http.response.start", "status": self.status, "headers": headers})
            try:
                async for piece in self.pieces:
                    if "is_closing" in extension and extension["is_closing"]():
                        return
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
            except (OutputGone, StoreUnavailable) as error:
                log.warning("cannot send the rest of an output: %s", error)
                if "evict" in extension:
                    extension["evict"]()
                return
            await send({"type": "http.response.body", "body": b""})
