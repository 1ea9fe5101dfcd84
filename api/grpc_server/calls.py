"""Admits calls by the same keys, limits and budgets as HTTP requests, receives their messages, and ends them.

gRPC receives a whole message before it tells its size. One that takes longer than `RECEIVE_GRACE_S` counts as the
largest message allowed while it is received. What was answered stays in memory until the caller has read it: it counts
until then.
"""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable
from enum import Enum
from typing import Any, Final

import grpc
from grpc.aio import EOF, AbortError

from api.asgi.request import Request
from api.asgi.responses import INTERNAL_ERROR
from api.asgi.tenant_budgets import RETRY_AFTER_S, BudgetShare
from api.auth.authentication import Caller
from api.gateway.gateway import Gateway
from api.grpc_server import status_codes
from api.grpc_server.submit_delay import SubmitDelay
from jobs.contract.errors import JitneyError, OverLimit, Refused

log = logging.getLogger("jitney.api")

RECEIVE_GRACE_S: Final = 0.5
SWEEP_S: Final = 0.25
SENT_UNREAD_BYTES: Final = 64 << 10  # of an answer, not counted as output in memory; a caller's first window
# Fields of a call's metadata that are read, as headers of an HTTP request.
FIELDS: Final = frozenset(
    {"authorization", "x-api-key", "api-key", "idempotency-key", "triton_grpc_error"}
)  # the last one of streams
PUBLIC_TENANT: Final = ""  # of calls without a key; no tenant has this name


class Access(Enum):
    """Who may call a method."""

    PUBLIC = "anyone"
    KEY = "a caller with an API key"
    ADMIN = "an admin"


class Call:
    """One call, from its admission to its end."""

    __slots__ = ("_answer", "_calls", "_context", "_requests", "_task", "caller", "error", "request")

    def __init__(self, calls: "Calls", context: Any, method: str, access: Access) -> None:
        """Admit a call in its own task. Raises JitneyError."""
        gateway = calls.gateway
        self._calls, self._context, self._task = calls, context, asyncio.current_task(calls.loop)
        self.error: JitneyError | None = None  # set by `fail`
        self._answer: BudgetShare | None = None
        fields = context.invocation_metadata()
        headers = [(name.encode(), value.encode("latin-1")) for name, value in fields if name in FIELDS]
        scope: dict[str, Any] = {
            "path": method,
            "method": "POST",
            "query_string": b"",
            "headers": headers,
            "caller": None,
        }
        self.request = Request(scope)
        self.request.evict = self._evict
        self.caller = Caller(PUBLIC_TENANT, is_admin=False)
        if access is not Access.PUBLIC:
            self.caller = gateway.callers.find(self.request)
            self.count_request()
            if access is Access.ADMIN and not self.caller.is_admin:
                raise Refused("forbidden", f"{method} needs an API key with the role admin")
        scope["caller"] = self.caller
        self._requests = gateway.requests.hold(self.caller.tenant, self._evict)
        self._requests.grow(1)
        calls.in_progress += 1
        context.add_done_callback(self._on_end)

    @property
    def tenant(self) -> str:
        return self.caller.tenant

    @property
    def is_cancelling(self) -> bool:
        """Whether the caller has gone, or the call ends with an error from another task."""
        return self._task is not None and self._task.cancelling() > 0

    def header(self, name: str) -> str:
        """Return a field of the metadata, or an empty string."""
        return self.request.header(name.encode())

    def count_request(self) -> None:
        """Count a request of the tenant. Raises OverLimit if it is over its limit."""
        headers, refusal = self._calls.gateway.access_control.count_request(self.caller, time.monotonic())
        if headers:
            self._context.set_trailing_metadata(tuple((name.decode(), value.decode()) for name, value in headers))
        if refusal is not None:
            raise refusal

    def hold_requests(self, count: int) -> None:
        """Count this number of requests in progress, at least 1. Raises OverLimit if there is no room."""
        self._requests.resize(max(1, count))

    def wait_limit_s(self) -> float:
        """Return how long the call may wait for a job: up to its deadline, in whole seconds, so that timers are shared.

        gRPC ends the call at the deadline itself.
        """
        limit_s, left_s = self._calls.gateway.settings.max_wait_s, self._context.time_remaining()
        return limit_s if left_s is None else min(limit_s, float(math.ceil(left_s) or 1))

    def deadline_us(self) -> int | None:
        """Return the µs until the deadline of the call, at least 1; None without one."""
        left_s = self._context.time_remaining()
        return None if left_s is None else max(1, int(left_s * 1e6))

    async def join_submits(self) -> None:
        """Wait for calls that arrive at the same time, so that their jobs are submitted together."""
        await self._calls.submit_delay.join(self._calls.in_progress)

    async def receive(self, share: BudgetShare) -> bytes:
        """Return the message of a call that has one; `share`, of the budget of bodies, holds its size then.

        Raises JitneyError.
        """
        receptions = self._calls.receptions
        receptions[self] = (time.monotonic(), share)
        try:
            message = await self._context.read()
        finally:
            del receptions[self]
        if message is EOF:
            raise Refused("malformed_request", "the call has no message")
        share.keep()
        share.resize(len(message))
        data: bytes = message
        return data

    async def receive_small(self) -> bytes:
        """Return the message of a call, whose memory is not counted any more."""
        with self._calls.gateway.bodies.hold(self.tenant, self._evict) as share:
            return await self.receive(share)

    async def receive_next(self) -> bytes | None:
        """Return the next message of a stream, or None at its end."""
        message = await self._context.read()
        return None if message is EOF else message

    async def send_next(self, answer: bytes) -> None:
        """Send an answer of a stream; returns once the caller has made room for it."""
        await self._context.write(answer)

    def finish(self, answer: bytes) -> bytes:
        """Return the answer of the call, counted until the caller has read it. Raises OverLimit."""
        if len(answer) > SENT_UNREAD_BYTES:
            self._answer = self._calls.gateway.outputs.hold(self.tenant, None)
            self._answer.grow(len(answer))
        self._task = None
        return answer

    def fail(self, error: JitneyError) -> None:
        """End the call with an error, from another task, unless its answer is being sent."""
        if self.error is None and self._task is not None:
            self.error = error
            self._task.cancel()

    def _evict(self) -> None:
        message = "other tenants need the resources of this call: send it again later"
        self.fail(OverLimit("rate_limited", message, retry_after_s=RETRY_AFTER_S))

    def _on_end(self, _context: Any) -> None:
        self._calls.in_progress -= 1
        self._requests.release()
        if self._answer is not None:
            self._answer.release()


class Calls:
    """The calls of one gateway."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.is_ending = False  # the server is being stopped
        self.loop = asyncio.get_running_loop()  # kept, as Python 3.11 makes a system call for each look-up
        self.submit_delay, self.in_progress = SubmitDelay(self.loop), 0
        self.receptions: dict[Call, tuple[float, BudgetShare]] = {}  # since when, in seconds; the oldest first

    def unary(self, method: str, access: Access, answer: Callable[[Call], Awaitable[bytes]]) -> grpc.RpcMethodHandler:
        """Return the handler of a method with one message, which `answer` receives itself."""

        async def run(_messages: object, context: Any) -> bytes:
            return await self._run(context, method, access, answer)

        # As a stream of requests, so that a call is admitted before its message is received.
        return grpc.stream_unary_rpc_method_handler(run)

    def stream(self, method: str, access: Access, serve: Callable[[Call], Awaitable[None]]) -> grpc.RpcMethodHandler:
        """Return the handler of a method with streams of messages, which `serve` receives and sends."""

        async def answer(call: Call) -> bytes:
            await serve(call)
            return b""

        async def run(_messages: object, context: Any) -> None:
            await self._run(context, method, access, answer)

        return grpc.stream_stream_rpc_method_handler(run)

    async def sweep(self) -> None:
        """Count slow messages as large, and end those that take too long, until cancelled."""
        while True:
            await asyncio.sleep(SWEEP_S)
            self._check_receptions(time.monotonic())

    def _check_receptions(self, now: float) -> None:
        settings = self.gateway.settings
        for call, (since, share) in list(self.receptions.items()):
            if now - since < RECEIVE_GRACE_S:
                return
            try:
                if now - since >= settings.body_timeout_s:
                    message = f"the message did not arrive within {settings.body_timeout_s:g} s"
                    raise Refused("request_timeout", message, limit_s=settings.body_timeout_s)
                if not share.size:
                    share.grow(settings.max_body_bytes)
            except JitneyError as error:
                call.fail(error)

    async def _run(
        self, context: Any, method: str, access: Access, answer: Callable[[Call], Awaitable[bytes]]
    ) -> bytes:
        """Admit a call and return its answer; any error becomes the status of the call."""
        call: Call | None = None
        try:
            call = Call(self, context, method, access)
            return call.finish(await answer(call))
        except asyncio.CancelledError:
            if call is None or call.error is None:  # the caller has gone
                raise
            error = call.error
            _uncancel()
        except AbortError:
            raise
        except JitneyError as refused:
            error = refused
        except Exception:
            log.exception("unexpected error while handling %s", method)
            error = JitneyError("internal_error", INTERNAL_ERROR)
        code = status_codes.status_code(error)
        if error.code == "wait_over" and self.gateway.is_draining:
            code = grpc.StatusCode.UNAVAILABLE
            error = JitneyError(error.code, "this gateway is shutting down: send the request again")
        fields = (*(context.trailing_metadata() or ()), *status_codes.trailing_metadata(error))
        await context.abort(code, status_codes.details_of(error), fields)
        raise AssertionError  # `abort` has raised


def _uncancel() -> None:
    task = asyncio.current_task()
    if task is not None:
        task.uncancel()
