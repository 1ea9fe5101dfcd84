"""Records a span for each request that submits jobs, or that has a place in a trace, as the parent of its jobs' spans.

It wraps the app only where spans are exported.
"""

from collections.abc import MutableMapping
from typing import Any, Final

from api.asgi.responses import App, Receive, Scope, Send
from api.asgi.single_write import WHOLE_RESPONSE
from jobs.contract.request_context import read_traceparent
from jobs.tracing.tracer import Tracer

HEADER: Final = b"traceparent"
SERVER_ERROR: Final = 500


class TracedApp:
    """An ASGI app around another. The app finds the request's span in place of the caller's `traceparent`."""

    def __init__(self, app: App, tracer: Tracer) -> None:
        self._app, self._tracer = app, tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request and record its span."""
        given = dict(scope["headers"]).get(HEADER, b"") if scope["type"] == "http" else b""
        parent = read_traceparent(given.decode("latin-1"))
        if scope["type"] != "http" or not (parent or scope["method"] == "POST"):
            return await self._app(scope, receive, send)
        begun = self._tracer.begin(scope["method"], parent, "server")
        others = [field for field in scope["headers"] if field[0] != HEADER]
        own = [(HEADER, begun.traceparent.encode())] if begun.traceparent else []
        scope["headers"] = [*others, *own]
        for name in ("header_map", "head_memo"):  # made from the caller's headers
            scope.pop(name, None)
        status = 0

        async def send_and_look(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] in ("http.response.start", WHOLE_RESPONSE):
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_and_look)
        finally:
            route = scope.get("route", "")
            path = route if isinstance(route, str) else route.path
            begun.span.update_name(f"{scope['method']} {path}" if path else scope["method"])
            attributes = {
                "http.request.method": scope["method"],
                "http.route": path,
                "http.response.status_code": status,
            }
            if scope.get("request_id"):
                attributes["jitney.request_id"] = scope["request_id"].decode()
            self._tracer.end(begun, attributes, failed=f"status {status}" if status >= SERVER_ERROR else "")
