"""Serves `ModelStreamInfer`: the requests of a stream run at the same time, and are answered in their order.

Clients of the protocol match answers by their order or by their id. An error is an answer too, and the stream goes on.
"""

import asyncio
import logging
from typing import Final, NamedTuple

from api.asgi.tenant_budgets import BudgetShare
from api.grpc_server import messages, service, status_codes
from api.grpc_server.calls import Call, Calls
from api.grpc_server.generated import open_inference_pb2 as pb
from jobs.contract.errors import JitneyError, OverLimit, Refused, to_jitney_error

log = logging.getLogger("jitney.api")

MAX_IN_PROGRESS: Final = 128  # requests of one stream; further ones are not received until one is answered
RETRY_AFTER_S: Final = 5
_RESPONSE_TAG: Final = bytes([2 << 3 | 2])  # infer_response


class StreamInfer:
    """The streams of one gateway."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._open: dict[str, int] = {}  # streams by tenant
        self._readers: set[asyncio.Task[None]] = set()

    async def serve(self, call: Call) -> None:
        """Serve a stream until its end. Raises JitneyError."""
        limit, is_open = self._calls.gateway.settings.max_streams, self._open.get(call.tenant, 0)
        if is_open >= limit:
            message = f"this tenant has reached its limit of {limit} open streams at this gateway"
            raise OverLimit("rate_limited", message, limit=limit, retry_after_s=RETRY_AFTER_S)
        self._open[call.tenant] = is_open + 1
        stream = _Stream(self._calls, call)
        reader = asyncio.create_task(stream.read_requests())
        self._readers.add(reader)
        try:
            await stream.send_answers()
            await reader
        except asyncio.CancelledError:
            if reader.cancelled() and not call.is_cancelling:
                message = "this gateway is shutting down: send further requests in a new stream"
                raise Refused("wait_over", message) from None
            raise
        finally:
            self._readers.discard(reader)
            reader.cancel()
            stream.close()
            self._open[call.tenant] -= 1
            if not self._open[call.tenant]:
                del self._open[call.tenant]

    def end(self) -> None:
        """Receive no more requests. Each stream ends once those received are answered."""
        for reader in self._readers:
            reader.cancel()


class _Answer(NamedTuple):
    """A message, and how much of it counts as output in memory."""

    message: bytes
    counted_bytes: int


class _Stream:
    """One stream: its requests in progress, in the order of their answers."""

    def __init__(self, calls: Calls, call: Call) -> None:
        self._gateway, self._call = calls.gateway, call
        self._is_strict = call.header("triton_grpc_error") == "true"  # an error ends the stream with its status
        self._answers: asyncio.Queue[asyncio.Task[_Answer] | None] = asyncio.Queue()
        self._room = asyncio.Semaphore(MAX_IN_PROGRESS)
        self._in_progress: set[asyncio.Task[_Answer]] = set()
        # Of answers that are not sent yet.
        self._outputs = self._gateway.outputs.hold(call.tenant, None)

    async def read_requests(self) -> None:
        """Start each request that arrives."""
        try:
            while True:
                await self._room.acquire()
                message = await self._call.receive_next()
                if message is None:
                    return
                share = self._gateway.bodies.hold(self._call.tenant, self._call.request.evict)
                refusal: JitneyError | None = None
                try:
                    share.grow(len(message))
                except JitneyError as error:
                    refusal, message = error, b""
                task = asyncio.create_task(self._answer([message], share, refusal))
                message = None
                self._in_progress.add(task)
                task.add_done_callback(self._on_answered)
                self._answers.put_nowait(task)
        finally:
            self._answers.put_nowait(None)

    async def send_answers(self) -> None:
        """Send the answers in the order of the requests. Raises JitneyError if an error ends the stream."""
        while (task := await self._answers.get()) is not None:
            answer = await task
            await self._call.send_next(answer.message)
            self._outputs.resize(self._outputs.size - answer.counted_bytes)
            del answer, task
            self._room.release()

    def close(self) -> None:
        """Cancel what is in progress."""
        for task in self._in_progress:
            task.cancel()
        self._outputs.release()

    def _on_answered(self, task: asyncio.Task[_Answer]) -> None:
        self._in_progress.discard(task)
        if not task.cancelled():
            task.exception()  # else asyncio logs that of a task whose stream has ended

    async def _answer(self, message: list[bytes], share: BudgetShare, refusal: JitneyError | None) -> _Answer:
        """Return the message that answers a request. Raises JitneyError if an error is to end the stream.

        `message` is emptied, so that its bytes are freed. `refusal`: the request was refused when it arrived.
        """
        request_id, call = "", self._call
        try:
            with share:
                self._admit(refusal)
                request = messages.read_infer_request(message.pop(), share)
                request_id = request.id
                response = await service.run(self._gateway, call, request, share, "")
                answer = _wrap(messages.build_infer_response(response))
                self._outputs.grow(len(answer))
                return _Answer(answer, len(answer))
        except JitneyError as error:
            failure = error
        except Exception as error:
            log.exception("unexpected error while handling a request of a stream")
            failure = to_jitney_error(error)
        if self._is_strict:
            raise failure
        return _Answer(_build_error(failure, request_id), 0)

    def _admit(self, refusal: JitneyError | None) -> None:
        """Raise JitneyError unless a request may begin. `refusal`: the request was refused when it arrived."""
        refusal = refusal or self._gateway.watermark.refusal("interactive")
        if refusal is not None:
            raise refusal
        if not self._gateway.callers.is_known(self._call.caller):
            raise Refused("unauthorized", "the API key has been revoked")
        self._call.hold_requests(len(self._in_progress))
        self._call.count_request()


def _wrap(response: bytes) -> bytes:
    """Return a ModelStreamInferResponse with the bytes of a ModelInferResponse."""
    return b"".join((_RESPONSE_TAG, messages.encode_varint(len(response)), response))


def _build_error(error: JitneyError, request_id: str) -> bytes:
    """Return a ModelStreamInferResponse with an error, and the request's id, the code and when to retry."""
    fields = [(name, pb.InferParameter(string_param=value)) for name, value in status_codes.trailing_metadata(error)]
    response = pb.ModelInferResponse(id=request_id, parameters=dict(fields))
    message = pb.ModelStreamInferResponse(error_message=status_codes.details_of(error), infer_response=response)
    encoded: bytes = message.SerializeToString()
    return encoded
