"""Checks an inference request of the Open Inference Protocol, runs it as a job, and returns the outputs as tensors.

HTTP and gRPC share it. Tensors stay raw bytes: only their sizes are checked, and the worker maps arrays onto them. A
request with one row is an ordinary job; one with more is a job of several rows.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from heapq import nlargest
from itertools import chain
from math import prod
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import orjson
import pybase64

from api.asgi.tenant_budgets import BudgetShare
from api.gateway.gateway import Gateway
from api.open_inference.model_tensors import ANSWER, ModelTensors, ServedTensor
from api.submission.single_submit import SingleSubmit
from jobs.contract import tensors
from jobs.contract.errors import JitneyError, Refused, StoreUnavailable
from jobs.contract.input_fields import read_text
from jobs.contract.job import Job, Submission
from jobs.contract.job_request import JobRequest
from jobs.contract.json_reader import MAX_VALUES, describe_value
from jobs.contract.lifecycle import State
from jobs.contract.tensors import TEXTS, Tensor
from jobs.models.catalog import ModelCard

_NONE: Final[Mapping[str, Any]] = MappingProxyType({})
_BASE64: Final = {"encoding": "base64"}  # outputs as exact bytes
MAX_ID_CHARS: Final = 256
# How a score is written, so that the same number is read: significant digits of floats.
_DIGITS: Final = {"FP16": ".5g", "BF16": ".5g", "FP32": ".9g", "FP64": ".17g"}
_LENGTH_BYTES: Final = 4  # before each text of a BYTES tensor


class InferInput(NamedTuple):
    """An input tensor. `data`: little-endian bytes, row-major, or its values as a flat or nested list.

    Bytes of BYTES: each value after its length, an unsigned integer of 32 bits. Their list may have text or bytes.
    """

    name: str
    datatype: str
    shape: Sequence[int]
    data: bytes | memoryview | list[Any]


class RequestedOutput(NamedTuple):
    """An output that the caller asks for. `classification`: the number of best classes, instead of the values."""

    name: str
    classification: int = 0


class InferRequest(NamedTuple):
    """A request. `version` "": the one that takes the model's jobs. No `outputs`: all.

    `parameters`: `timeout` in µs and `priority` count; `sequence_id` is refused, others are ignored.
    """

    model: str
    version: str = ""
    id: str = ""
    parameters: Mapping[str, Any] = _NONE
    inputs: Sequence[InferInput] = ()
    outputs: Sequence[RequestedOutput] = ()


class OutputTensor(NamedTuple):
    """An output tensor, `data` as in the bytes of InferInput."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: bytes


class InferResponse(NamedTuple):
    """The outputs of a request, in the model's order, or in the order requested. `id`: as in the request."""

    model: str
    version: str
    id: str
    outputs: list[OutputTensor]


class PendingInference:
    """A request whose job is submitted. `await response()` once; `cancel()` when the caller has gone."""

    __slots__ = ("_gateway", "_id", "_is_keyed", "_model_tensors", "_outputs", "_submit", "_tenant", "_wait_s")

    def __init__(
        self,
        gateway: Gateway,
        job: Submission,
        model_tensors: ModelTensors,
        request: InferRequest,
        share: BudgetShare,
        *,
        wait_s: float,
    ) -> None:
        """Submit the job of a request. Raises JitneyError.

        `share`: that of the body in `gateway.bodies`; it is released with the result of the submit, or by the caller if
        this raises. The inputs are not kept.
        """
        self._gateway, self._tenant, self._model_tensors, self._wait_s = gateway, job.tenant, model_tensors, wait_s
        self._id, self._outputs, self._is_keyed = request.id, request.outputs, bool(job.idempotency_key)
        self._submit = SingleSubmit(gateway, job, wait_s=wait_s, share=share)

    def end(self) -> None:
        """End the wait early, because the caller has gone: `response` then cancels the job, and raises."""
        self._submit.end()

    async def response(self, evict: Callable[[], None] | None = None) -> InferResponse:
        """Return the outputs once the job is final. Raises JitneyError, also if the job failed.

        A job without a key is canceled if the wait is over. `evict`: ends the request if the memory for its output is
        needed for other tenants.
        """
        job = await self._submit.outcome()
        if not job.is_final:
            await self.cancel()
            if self._gateway.is_draining:
                raise Refused("wait_over", "this gateway is shutting down: send the request again")
            raise Refused("wait_over", f"the request was not done within {self._wait_s:g} s", limit_s=self._wait_s)
        if job.output is not None or not job.output_bytes:
            return self._read(job)
        with self._gateway.outputs.hold(self._tenant, evict) as share:
            share.grow(job.output_bytes)
            return self._read(await self._gateway.store.with_output(job))

    async def cancel(self) -> None:
        """Cancel the job, unless it is final or has a key, with which it may be asked for again."""
        if not self._is_keyed:
            with suppress(Refused, StoreUnavailable):
                await self._gateway.store.cancel(self._submit.id, self._tenant)

    def _read(self, job: Job) -> InferResponse:
        found, asked = read_outputs(job, self._model_tensors), self._outputs
        if asked and not (len(asked) == len(found) == 1 and asked[0] == (found[0].name, 0)):  # all that there is
            found = [choose_output(found, requested) for requested in asked]
        return InferResponse(job.model, job.version, self._id, found)


def longest_wait_ms(gateway: Gateway, card: ModelCard, key: str, wait_s: float) -> float:
    """Return the longest time until the deadline of a job that is waited for.

    Nobody could get the result of a job without an idempotency key after the wait.
    """
    if key:
        return math.inf
    return min(wait_s * 1000, card.get("deadline_ms") or math.inf, gateway.settings.max_deadline_ms)


def read_outputs(job: Job, model_tensors: ModelTensors) -> list[OutputTensor]:
    """Return the outputs of a final job, which has its output. Raises JitneyError if it failed."""
    if job.state != State.SUCCEEDED or job.output is None:
        error = orjson.loads(job.error or b"{}")
        code = error.get("code", "canceled")
        raise JitneyError(code, error.get("message", f"the job is {job.state.value}"))
    if not model_tensors.gives_tensors:
        length = len(job.output).to_bytes(_LENGTH_BYTES, "little")
        return [OutputTensor(ANSWER, TEXTS, (1,), length + job.output)]
    outputs, served = orjson.loads(job.output)["tensors"], model_tensors.outputs
    return [
        OutputTensor(
            name,
            tensor["datatype"],
            _served_shape(served.get(name), tensor["shape"]),
            pybase64.b64decode(tensor["b64"], validate=True),
        )
        for name, tensor in outputs.items()
    ]


def to_job(model_tensors: ModelTensors, request: InferRequest, most_ms: float = math.inf) -> JobRequest:
    """Check a request against the tensors of its model, and return its job. Raises JitneyError.

    `most_ms`: the longest time until its deadline. Nothing is allocated by the sizes that the request claims before
    they are compared with the bytes that it has.
    """
    if len(request.id) > MAX_ID_CHARS:
        raise Refused("invalid_request", f"id may have at most {MAX_ID_CHARS} characters", limit=MAX_ID_CHARS)
    inputs = _by_name(model_tensors, request.inputs)
    rows = _count_rows(model_tensors, inputs)
    _check_outputs(model_tensors, request.outputs)
    lane, asked_ms = _read_parameters(request.parameters)
    deadline_ms = None if asked_ms is None and most_ms == math.inf else max(1, int(min(asked_ms or math.inf, most_ms)))
    job_request = JobRequest(
        model=model_tensors.card["name"],
        parameters=_BASE64 if model_tensors.gives_tensors else _NONE,
        lane=lane,
        deadline_ms=deadline_ms,
        rows=rows if rows > 1 else None,
        version=request.version,
        card=model_tensors.card,
    )
    # One row is an ordinary job, whose tensors have no dimension of rows.
    values = {name: _read_tensor(each, served, rows) for name, (each, served) in inputs.items()}
    if model_tensors.kind == "tensors":
        return job_request._replace(tensors=values)
    (tensor,) = values.values()
    if model_tensors.kind == "raw":
        return job_request._replace(raw=bytes(tensor.data))
    return _with_file(job_request, model_tensors.kind, bytes(tensor.data)[_LENGTH_BYTES:])


def _with_file(job_request: JobRequest, kind: str, data: bytes) -> JobRequest:
    if kind == "text":
        return job_request._replace(text=read_text(data, "input 'text'"))
    return job_request._replace(image=data) if kind == "image" else job_request._replace(audio=data)


def _by_name(model_tensors: ModelTensors, inputs: Sequence[InferInput]) -> dict[str, tuple[InferInput, ServedTensor]]:
    """Return the inputs with what the model takes, in the model's order. Raises Refused unless they are the same."""
    given = {each.name: each for each in inputs}
    if len(given) != len(inputs):
        raise Refused("invalid_request", "an input appears twice")
    if given.keys() != model_tensors.inputs.keys():
        names = ", ".join(map(describe_value, [*given][:20])) or "none"
        message = f"model {model_tensors.card['name']} takes the inputs {[*model_tensors.inputs]}, and got {names}"
        raise Refused("invalid_input", message)
    return {name: (given[name], served) for name, served in model_tensors.inputs.items()}


def _count_rows(model_tensors: ModelTensors, inputs: Mapping[str, tuple[InferInput, ServedTensor]]) -> int:
    """Check datatypes and shapes, and return the number of rows. Raises Refused."""
    rows = 0
    for each, served in inputs.values():
        shape, expected = each.shape, served.row_shape
        if each.datatype != served.datatype:
            message = f"input {each.name!r} must have the datatype {served.datatype}"
            raise Refused("invalid_input", f"{message}, not {describe_value(each.datatype)}")
        tensors.check_shape(each.name, shape)
        first = 1 if served.has_rows else 0
        if len(shape) != first + len(expected) or any(
            size not in (-1, given) for size, given in zip(expected, shape[first:], strict=True)
        ):
            message = f"input {each.name!r} must have the shape {model_tensors.shape(served)}, not {[*shape[:20]]}"
            hint = "; -1 is any size, and the first dimension is that of the rows" if first else "; -1 is any size"
            raise Refused("invalid_input", message + hint)
        if first:
            if rows not in (0, shape[0]):
                raise Refused("invalid_input", f"inputs have {rows} and {shape[0]} rows: send as many of each")
            rows = shape[0]
            if not 1 <= rows <= max(1, model_tensors.max_rows):
                most = max(1, model_tensors.max_rows)
                message = f"a request for model {model_tensors.card['name']} has 1 to {most} rows, not {rows}"
                raise Refused("invalid_input", message, limit=most)
    return rows or 1


def _read_tensor(given: InferInput, served: ServedTensor, rows: int) -> Tensor:
    """Return the values of an input as bytes, without the dimension of rows if there is one row. Raises Refused."""
    name, datatype, data, shape = served.name, served.datatype, given.data, tuple(given.shape)
    count = prod(shape)
    if datatype == TEXTS:
        data = _read_texts(name, shape, count, data)
    elif isinstance(data, list):
        data = tensors.from_numbers(name, datatype, shape, data).data
    else:
        if len(data) != count * tensors.DATATYPES[datatype][0]:
            size = count * tensors.DATATYPES[datatype][0]
            message = f"input {name!r}: {datatype} of shape {[*shape]} takes {size} bytes, not {len(data)}"
            raise Refused("invalid_input", message)
        if datatype == "BOOL":
            tensors.check_tensor_bytes(name, datatype, bytes(data))
    return Tensor(datatype, shape[1:] if served.has_rows and rows == 1 else shape, data)


def _read_texts(name: str, shape: tuple[int, ...], count: int, data: bytes | memoryview | list[Any]) -> bytes:
    """Return the values of a BYTES tensor as bytes. Raises Refused."""
    if count > MAX_VALUES:
        message = f"input {name!r} may have at most {MAX_VALUES} values of BYTES"
        raise Refused("body_too_large", message, limit=MAX_VALUES)
    if not isinstance(data, list):
        data = bytes(data)
        _check_lengths(name, count, data)
        return data
    if data and not {*map(type, data)} <= {bytes}:
        return bytes(tensors.from_numbers(name, TEXTS, shape, data).data)
    if len(data) != count:
        raise Refused("invalid_input", f"input {name!r}: shape {[*shape]} takes {count} values, not {len(data)}")
    return b"".join(chain.from_iterable((len(value).to_bytes(_LENGTH_BYTES, "little"), value) for value in data))


def _check_lengths(name: str, count: int, data: bytes) -> None:
    """Raise Refused unless the bytes are as many values, each after its length."""
    at = found = 0
    while at < len(data) and found <= count:
        at, found = at + _LENGTH_BYTES + int.from_bytes(data[at : at + _LENGTH_BYTES], "little"), found + 1
    if at != len(data) or found != count:
        message = f"input {name!r}: its {len(data)} bytes are not {count} values of BYTES, each after its length"
        raise Refused("invalid_input", message)


def _check_outputs(model_tensors: ModelTensors, outputs: Sequence[RequestedOutput]) -> None:
    for output in outputs:
        served = model_tensors.outputs.get(output.name)
        if served is None:
            message = f"model {model_tensors.card['name']} has the outputs {[*model_tensors.outputs]}, not"
            raise Refused("invalid_input", f"{message} {describe_value(output.name)}")
        if output.classification < 0 or (output.classification and served.datatype in (TEXTS, "BOOL")):
            message = f"output {output.name!r}: classification must be at least 1, and needs an output of numbers"
            raise Refused("invalid_request", message)
    if len({output.name for output in outputs}) < len(outputs):
        raise Refused("invalid_request", "an output appears twice")


def _read_parameters(parameters: Mapping[str, Any]) -> tuple[str, int | None]:
    """Return the lane and the deadline in ms of a request's parameters. Raises Refused."""
    if not parameters:
        return "interactive", None
    timeout_us, priority = (_whole_number(parameters, name) for name in ("timeout", "priority"))
    if parameters.get("sequence_id"):
        raise Refused("invalid_request", "sequences are not supported: each request is by itself")
    lane = "interactive" if priority < 2 else "bulk"
    return lane, -(-timeout_us // 1000) or None


def _whole_number(parameters: Mapping[str, Any], name: str) -> int:
    value = parameters.get(name, 0)
    if type(value) is str and value.isascii() and value.isdigit() and len(value) < 20:
        value = int(value)
    if type(value) is not int or not 0 <= value < 1 << 64:
        raise Refused("invalid_request", f"parameter {name!r} must be a whole number from 0")
    return value


def _served_shape(served: ServedTensor | None, shape: Sequence[int]) -> tuple[int, ...]:
    """Return the shape of an output. That of a job of one row has no dimension of rows."""
    has_no_rows = served is not None and served.has_rows and len(shape) == len(served.row_shape)
    return (1, *shape) if has_no_rows else tuple(shape)


def choose_output(found: Sequence[OutputTensor], requested: RequestedOutput) -> OutputTensor:
    """Return an output as it is asked for: its values, or its best classes."""
    tensor = next((tensor for tensor in found if tensor.name == requested.name), None)
    if tensor is None:  # the job of an earlier request with this key ran another version
        names = [tensor.name for tensor in found]
        message = f"the job of this Idempotency-Key has the outputs {names}, not {describe_value(requested.name)}"
        raise Refused("invalid_input", message)
    return _best_classes(tensor, requested.classification) if requested.classification else tensor


def _best_classes(tensor: OutputTensor, count: int) -> OutputTensor:
    """Return the best classes of each row, the best first, as texts `score:index`."""
    values = tensors.to_numbers(Tensor(tensor.datatype, tensor.shape, tensor.data))
    rows = tensor.shape[0] if len(tensor.shape) > 1 else 1
    width = prod(tensor.shape[1:]) if len(tensor.shape) > 1 else len(values)
    digits = _DIGITS.get(tensor.datatype, "")
    texts: list[str] = []
    for start in range(0, rows * width, width or 1):
        row = [
            (-math.inf if math.isnan(value) else value, -at) for at, value in enumerate(values[start : start + width])
        ]
        texts += [f"{values[start - at]:{digits}}:{-at}" for _, at in nlargest(count, row)]
    shape = (rows, min(count, width)) if len(tensor.shape) > 1 else (min(count, width),)
    return OutputTensor(tensor.name, TEXTS, shape, tensors.pack_texts(texts))
