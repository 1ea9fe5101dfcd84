"""Reads and writes the bodies of the protocol over HTTP: JSON, and JSON followed by raw tensors.

Binary tensor data: the header `Inference-Header-Content-Length` has the length of the JSON. The raw bytes of tensors
follow it, in the order of the tensors that have the parameter `binary_data_size`.
"""

import asyncio
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from math import prod
from typing import Any, Final, NamedTuple

import orjson

from api.asgi.request import Request
from api.asgi.responses import Header, HttpResponse
from api.open_inference.inference import InferInput, InferRequest, InferResponse, OutputTensor, RequestedOutput, to_job
from api.open_inference.model_tensors import model_tensors_of
from jobs.contract import tensors
from jobs.contract.base64_reader import read_base64_or_url
from jobs.contract.errors import Refused
from jobs.contract.job_request import JobRequest
from jobs.contract.json_reader import describe_value, read_object
from jobs.contract.tensors import DATATYPES, TEXTS, Tensor
from jobs.models.catalog import ModelCard

LENGTH_HEADER: Final = b"inference-header-content-length"
BINARY: Final = b"application/octet-stream"
MAX_KEPT_BYTES: Final = 1024  # the largest JSON that is kept
MAX_KEPT: Final = 256  # requests
UNCOPIED_BYTES: Final = 16 << 10  # smaller inputs are copied: a view keeps the whole body in memory
MAX_TENSORS: Final = 1000  # of a request; a model has fewer
SLICE_VALUES: Final = 1 << 15  # JSON values that are written before other tasks run: about 1 ms
_FILE_KINDS: Final = ("image", "audio")  # inputs whose JSON values are base64
_NOT_SUPPORTED: Final = ("shared_memory_region", "shared_memory_byte_size", "shared_memory_offset")


class ParsedRequest(NamedTuple):
    """A request and its job, and which outputs the caller takes as raw bytes: by name, and those without a name.

    The request is without its inputs. `raw_bytes`: the size of the raw input, which `read_request` returns apart; None:
    `job_request` contains its input.
    """

    request: InferRequest
    job_request: JobRequest
    binary_outputs: Mapping[str, bool]
    binary_by_default: bool
    raw_bytes: int | None = None


class _Template(NamedTuple):
    """A parsed request, kept for requests with the same JSON; valid for this version and this deadline limit."""

    read: ParsedRequest
    version: str
    most_ms: float


_templates: Final[dict[bytes, _Template]] = {}  # by the JSON


def read_request(
    http: Request, body: bytes, card: ModelCard, version: str, most_ms: float = math.inf
) -> tuple[ParsedRequest, bytes | memoryview | None]:
    """Read the body of an inference request for a model, and check it against the model's card. Raises Refused.

    Return also the raw input, if `job_request` is without it: then the same JSON gives the same object again. Other
    requests contain their input. `most_ms`: the longest time until the deadline of the job.
    """
    length = _header_length(http, len(body))
    header = body[:length] if length and length <= MAX_KEPT_BYTES else b""
    template = _templates.get(header) if header else None
    if template is not None and template.version == version and template.most_ms == most_ms:
        read = template.read
        if read.job_request.card is card and len(body) - len(header) == read.raw_bytes:
            return read, memoryview(body)[length:] if read.raw_bytes >= UNCOPIED_BYTES else body[length:]
    request, binary_outputs, by_default = _read(body, length, card, version)
    model_tensors = model_tensors_of(card)
    job_request = to_job(model_tensors, request, most_ms)
    request, (first, *_) = request._replace(inputs=()), request.inputs
    raw = job_request.raw
    # Values in JSON, and those that must be checked, are read each time.
    if not header or raw is None or isinstance(first.data, list) or first.datatype == "BOOL":
        return ParsedRequest(request, job_request, binary_outputs, by_default), None
    if len(_templates) >= MAX_KEPT:
        _templates.clear()
    read = ParsedRequest(request, job_request._replace(raw=None), binary_outputs, by_default, len(raw))
    _templates[header] = _Template(read, version, most_ms)
    return read, raw


def _read(
    body: bytes, length: int | None, card: ModelCard, version: str
) -> tuple[InferRequest, Mapping[str, bool], bool]:
    """Read a body; return the request, and which outputs are to be raw bytes, as in ParsedRequest. Raises Refused."""
    if length == 0:
        return _read_raw(body, card, version), {}, True
    fields = read_object(body if length is None else body[:length], "the JSON of the body")
    binary = memoryview(b"" if length is None else body)[length or 0 :]
    parameters = _object(fields, "parameters", "the request")
    by_default = _boolean(parameters, "binary_data_output")
    requested, binary_outputs = _read_outputs(fields.get("outputs"), by_default=by_default)
    request_id = fields.get("id", "")
    if not isinstance(request_id, str):
        raise Refused("invalid_request", f'field "id" must be text, not {describe_value(request_id)}')
    inputs = _read_inputs(fields.get("inputs"), binary, card)
    return InferRequest(card["name"], version, request_id, parameters, inputs, requested), binary_outputs, by_default


def write_raw_response(response: InferResponse, read: ParsedRequest) -> HttpResponse | None:
    """Return the answer to a request that asks for all outputs as raw bytes; None for another one."""
    outputs, by_default, asked = response.outputs, read.binary_by_default, read.binary_outputs
    for tensor in outputs:
        if not asked.get(tensor.name, by_default):
            return None
    heads = tuple([(tensor.name, tensor.datatype, tensor.shape, len(tensor.data)) for tensor in outputs])
    write = _write_raw_header if response.id else _keep_raw_header
    header, length = write(response.model, response.version, response.id, heads)
    return HttpResponse(200, b"".join((header, *[tensor.data for tensor in outputs])), (length,), BINARY)


_OutputHead = tuple[str, str, tuple[int, ...], int]  # name, datatype, shape, bytes


def _write_raw_header(model: str, version: str, request_id: str, heads: Sequence[_OutputHead]) -> tuple[bytes, Header]:
    """Return the JSON before raw outputs, and the header of HTTP with its length."""
    entries = [
        {"name": name, "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": size}}
        for name, datatype, shape, size in heads
    ]
    header = _write_json(model, version, request_id, entries)
    return header, (LENGTH_HEADER, b"%d" % len(header))


_keep_raw_header: Final = lru_cache(MAX_KEPT)(_write_raw_header)  # those without an id repeat


def _write_json(model: str, version: str, request_id: str, entries: list[dict[str, Any]]) -> bytes:
    fields: dict[str, Any] = {"model_name": model, "model_version": version, "outputs": entries}
    if request_id:
        fields["id"] = request_id
    return orjson.dumps(fields)


async def write_response(response: InferResponse, read: ParsedRequest) -> HttpResponse:
    """Return the answer to a request, each output as raw bytes or as JSON values, as the request asks."""
    entries: list[dict[str, Any]] = []
    raw: list[bytes] = []
    for tensor in response.outputs:
        entry: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}
        if read.binary_outputs.get(tensor.name, read.binary_by_default):
            entry["parameters"] = {"binary_data_size": len(tensor.data)}
            raw.append(tensor.data)
        else:
            entry["data"] = orjson.Fragment(await _write_values(tensor))
        entries.append(entry)
    header = _write_json(response.model, response.version, response.id, entries)
    if not raw:
        return HttpResponse(200, header)
    length: Header = (LENGTH_HEADER, b"%d" % len(header))
    return HttpResponse(200, b"".join((header, *raw)), (length,), BINARY)


def _header_length(http: Request, body_bytes: int) -> int | None:
    """Return the length of the JSON at the beginning of a body; None: all of it. Raises Refused."""
    text = http.headers.get(LENGTH_HEADER)
    if text is None:
        return None
    if not text.isdigit() or len(text) > 19:
        raise Refused("malformed_request", "Inference-Header-Content-Length must be a whole number")
    if (length := int(text)) > body_bytes:
        message = f"Inference-Header-Content-Length is {length}, and the body has {body_bytes} bytes"
        raise Refused("malformed_request", message)
    return length


def _read_raw(body: bytes, card: ModelCard, version: str) -> InferRequest:
    """Read a body without JSON: the bytes of the model's only input, as one row. Raises Refused."""
    model_tensors = model_tensors_of(card)
    if len(model_tensors.inputs) != 1:
        message = f"model {card['name']} has the inputs {[*model_tensors.inputs]}: a body without JSON is for one input"
        raise Refused("invalid_input", message)
    (served,) = model_tensors.inputs.values()
    row, name, datatype = served.row_shape, served.name, served.datatype
    first = (1,) if served.has_rows else ()
    if datatype == TEXTS:  # one value, without its length
        if prod(row) != 1:
            raise Refused("invalid_input", f"input {name!r} has the shape {model_tensors.shape(served)}: send JSON")
        body = len(body).to_bytes(4, "little") + body
    elif row.count(-1) == 1:
        known_bytes = tensors.size_bytes(datatype, [size for size in row if size != -1])
        row = tuple(len(body) // (known_bytes or 1) if size == -1 else size for size in row)
    elif -1 in row:
        raise Refused("invalid_input", f"input {name!r} has the shape {model_tensors.shape(served)}: send it with JSON")
    return InferRequest(card["name"], version, inputs=[InferInput(name, datatype, (*first, *row), body)])


def _read_inputs(entries: Any, binary: memoryview, card: ModelCard) -> list[InferInput]:
    """Return the inputs, whose raw bytes are parts of `binary`. Raises Refused unless they take all of it."""
    if not isinstance(entries, list) or not 1 <= len(entries) <= MAX_TENSORS:
        raise Refused("invalid_request", f'field "inputs" must be a list of 1 to {MAX_TENSORS} tensors')
    takes_files = any(kind in card["kinds"] for kind in _FILE_KINDS) and "tensors" not in card["kinds"]
    inputs, at = [], 0
    for entry in entries:
        name = _name(entry, "input")
        parameters = _object(entry, "parameters", f"input {describe_value(name)}")
        _refuse_shared_memory(parameters, name)
        shape, datatype = entry.get("shape"), entry.get("datatype")
        if not isinstance(datatype, str) or not isinstance(shape, list):
            raise Refused("invalid_request", f"input {describe_value(name)} must have a datatype and a shape")
        size = parameters.get("binary_data_size")
        if ("data" in entry) == (size is not None):
            message = f"input {describe_value(name)} must have one of data and the parameter binary_data_size"
            raise Refused("invalid_request", message)
        if size is None:
            data = entry["data"]
            if not isinstance(data, list):
                raise Refused("invalid_request", f"input {describe_value(name)}: data must be a list")
            inputs.append(InferInput(name, datatype, shape, _decode_files(data) if takes_files else data))
            continue
        if type(size) is not int or not 0 <= size <= len(binary) - at:
            message = f"input {describe_value(name)}: binary_data_size is {describe_value(size)}, and the body has"
            raise Refused("invalid_request", f"{message} {len(binary) - at} more bytes")
        inputs.append(InferInput(name, datatype, shape, binary[at : at + size]))
        at += size
    if at != len(binary):
        message = f"the body has {len(binary)} bytes after its JSON, and its inputs take {at}: see binary_data_size"
        raise Refused("invalid_request", message)
    return inputs


def _decode_files(data: list[Any]) -> list[Any]:
    """Return JSON values of files, which are base64, as bytes. Raises Refused."""
    return [read_base64_or_url(value, "a value of data") if isinstance(value, str) else value for value in data]


def _read_outputs(entries: Any, *, by_default: bool) -> tuple[list[RequestedOutput], dict[str, bool]]:
    """Return the outputs that are asked for, and which of them as raw bytes. Raises Refused."""
    if entries is None:
        return [], {}
    if not isinstance(entries, list) or len(entries) > MAX_TENSORS:
        raise Refused("invalid_request", f'field "outputs" must be a list of at most {MAX_TENSORS} outputs')
    requested, binary_outputs = [], {}
    for entry in entries:
        name = _name(entry, "output")
        parameters = _object(entry, "parameters", f"output {describe_value(name)}")
        _refuse_shared_memory(parameters, name)
        classes = parameters.get("classification", 0)
        if type(classes) is not int or not 0 <= classes < 1 << 31:
            raise Refused("invalid_request", "parameter 'classification' must be a whole number from 0")
        requested.append(RequestedOutput(name, classes))
        binary_outputs[name] = _boolean(parameters, "binary_data", default=by_default)
    return requested, binary_outputs


def _name(entry: Any, what: str) -> str:
    name = entry.get("name") if isinstance(entry, dict) else None
    if not isinstance(name, str):
        raise Refused("invalid_request", f"each {what} must be an object with a name")
    return name


def _object(fields: Mapping[str, Any], field: str, what: str) -> Mapping[str, Any]:
    value = fields.get(field)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise Refused("invalid_request", f'field "{field}" of {what} must be an object')
    return value


def _boolean(parameters: Mapping[str, Any], name: str, *, default: bool = False) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise Refused("invalid_request", f"parameter {name!r} must be true or false, not {describe_value(value)}")
    return value


def _refuse_shared_memory(parameters: Mapping[str, Any], name: str) -> None:
    if parameters and any(each in parameters for each in _NOT_SUPPORTED):
        raise Refused("invalid_request", f"{describe_value(name)}: shared memory is not supported: send the bytes")


async def _write_values(tensor: OutputTensor) -> bytes:
    """Return the values of a tensor as a flat JSON list. NaN and infinity become null, as JSON has neither."""
    whole = Tensor(tensor.datatype, tensor.shape, tensor.data)
    if tensor.datatype == TEXTS:
        return orjson.dumps(tensors.unpack_texts(tensor.name, whole))
    size, count = DATATYPES[tensor.datatype][0], prod(tensor.shape)
    if count <= SLICE_VALUES:
        return orjson.dumps(tensors.to_numbers(whole))
    parts: list[bytes] = []
    for first in range(0, count, SLICE_VALUES):
        data = tensor.data[first * size : (first + SLICE_VALUES) * size]
        parts.append(orjson.dumps(tensors.to_numbers(Tensor(tensor.datatype, (len(data) // size,), data)))[1:-1])
        await asyncio.sleep(0)
    return b"[" + b",".join(parts) + b"]"
