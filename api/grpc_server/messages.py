"""Converts messages of the protocol to requests of `api.open_inference`, and its answers to messages.

In a large message the raw tensors are found without protobuf, so that their bytes are neither copied nor decoded.
"""

import sys
from array import array
from collections.abc import Mapping, Sequence
from typing import Any, Final

from google.protobuf import json_format
from google.protobuf.message import DecodeError, Message

from api.asgi.tenant_budgets import BudgetShare
from api.grpc_server.generated import open_inference_pb2 as pb
from api.open_inference.inference import InferInput, InferRequest, InferResponse, RequestedOutput
from jobs.contract.errors import Refused

LARGE_BYTES: Final = 64 << 10  # from which on raw tensors are not parsed by protobuf
MAX_FIELDS: Final = 4096  # at the top of a large message
# Memory for a byte of a message that is not a raw tensor: small numbers and empty texts take that much when parsed.
PARSED_FACTOR: Final = 16
MAX_TENSORS: Final = 1000  # inputs, or requested outputs
SHARED_MEMORY: Final = "shared_memory_region"  # a parameter of inputs and outputs
_VARINT_BYTES: Final = 10  # of the largest one
_RAW_INPUT_TAG: Final = 7 << 3 | 2  # raw_input_contents
_RAW_OUTPUT_TAG: Final = bytes([6 << 3 | 2])  # raw_output_contents
_FIXED_BYTES: Final = {1: 8, 5: 4}  # by wire type
# datatype → (field of InferTensorContents, type code of its little-endian bytes)
_CONTENTS: Final[Mapping[str, tuple[str, str]]] = {
    "BOOL": ("bool_contents", "B"),
    "INT8": ("int_contents", "b"),
    "INT16": ("int_contents", "h"),
    "INT32": ("int_contents", "i"),
    "INT64": ("int64_contents", "q"),
    "UINT8": ("uint_contents", "B"),
    "UINT16": ("uint_contents", "H"),
    "UINT32": ("uint_contents", "I"),
    "UINT64": ("uint64_contents", "Q"),
    "FP32": ("fp32_contents", "f"),
    "FP64": ("fp64_contents", "d"),
}


def parse(kind: type[Any], data: bytes) -> Any:
    """Parse a message. Raises Refused."""
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise Refused("malformed_request", f"the message is not a {kind.DESCRIPTOR.name}: {error}") from error


def read_infer_request(data: bytes, share: BudgetShare) -> InferRequest:
    """Read a ModelInferRequest. Raises JitneyError. `share` grows by the memory that parsing takes."""
    if len(data) < LARGE_BYTES:
        message = parse(pb.ModelInferRequest, data)
        raw: Sequence[bytes | memoryview] = message.raw_input_contents
    else:
        head, raw = split_message(data)
        if len(head) >= LARGE_BYTES:
            share.grow(PARSED_FACTOR * len(head))
        message = parse(pb.ModelInferRequest, head)
    inputs, outputs = message.inputs, message.outputs
    if len(inputs) > MAX_TENSORS or len(outputs) > MAX_TENSORS:
        raise Refused("invalid_request", f"a request may name {MAX_TENSORS} tensors", limit=MAX_TENSORS)
    if raw and len(raw) != len(inputs):
        counts = f"the request has {len(inputs)} inputs and {len(raw)} raw_input_contents"
        raise Refused("invalid_request", f"{counts}: send as many of each, or none of the latter")
    return InferRequest(
        message.model_name,
        message.model_version,
        message.id,
        read_parameters(message.parameters) if message.parameters else {},
        [
            InferInput(each.name, each.datatype, list(each.shape), raw[at] if raw else _read_contents(each))
            if not raw or not (each.parameters or each.HasField("contents"))
            else _read_unusual(each, raw[at])
            for at, each in enumerate(inputs)
        ],
        [_read_output(each) for each in outputs],
    )


def split_message(data: bytes) -> tuple[bytes, list[memoryview]]:
    """Return a ModelInferRequest without its raw tensors, and these. Raises Refused for malformed bytes."""
    view, size = memoryview(data), len(data)
    rest: list[memoryview] = []
    raw: list[memoryview] = []
    at = fields = 0
    while at < size:
        fields += 1
        if fields > MAX_FIELDS:
            raise Refused("invalid_request", f"a message may have {MAX_FIELDS} fields", limit=MAX_FIELDS)
        start = at
        tag, at = _read_varint(data, at)
        kind = tag & 7
        length = _FIXED_BYTES.get(kind, -1)
        if kind == 2:
            length, at = _read_varint(data, at)
        elif kind == 0:
            _, at = _read_varint(data, at)
            length = 0
        end = at + length
        if length < 0 or end > size:
            raise _malformed()
        if tag == _RAW_INPUT_TAG:
            raw.append(view[at:end])
        else:
            rest.append(view[start:end])
        at = end
    return b"".join(rest), raw


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for index, byte in enumerate(data[at : at + _VARINT_BYTES]):
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, at + index + 1
    raise _malformed()


def _malformed() -> Refused:
    return Refused("malformed_request", "the message is not a ModelInferRequest")


def read_parameters(parameters: Mapping[str, pb.InferParameter]) -> dict[str, Any]:
    """Return parameters as Python values; one without a value is None."""
    found = {}
    for name, value in parameters.items():
        choice = value.WhichOneof("parameter_choice")
        found[name] = getattr(value, choice) if choice else None
    return found


def _read_unusual(tensor: Any, raw: bytes | memoryview) -> InferInput:
    """Read an input that has raw bytes and parameters or contents. Raises Refused."""
    _refuse_shared_memory(tensor)
    if tensor.HasField("contents"):
        message = f"input {tensor.name[:80]!r} has contents besides raw_input_contents: send one of them"
        raise Refused("invalid_request", message)
    return InferInput(tensor.name, tensor.datatype, list(tensor.shape), raw)


def _read_contents(tensor: Any) -> bytes | list[bytes]:
    """Return the values of `contents` as little-endian bytes, or as a list for BYTES. Raises Refused."""
    _refuse_shared_memory(tensor)
    name, datatype, contents = tensor.name[:80], tensor.datatype, tensor.contents
    field, code = ("bytes_contents", "") if datatype == "BYTES" else _CONTENTS.get(datatype, ("", ""))
    if not field:
        message = f"input {name!r}: values of {datatype[:20]!r} are sent as raw_input_contents"
        raise Refused("invalid_input", message)
    if others := [each.name for each, _ in contents.ListFields() if each.name != field]:
        raise Refused("invalid_input", f"input {name!r} of {datatype} has {others[0]}: send {field}")
    values = getattr(contents, field)
    if not code:
        return list(values)
    try:
        numbers = array(code, values)
    except OverflowError as error:
        raise Refused("invalid_input", f"input {name!r}: a value is out of the range of {datatype}") from error
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tobytes()


def _refuse_shared_memory(tensor: Any) -> None:
    if SHARED_MEMORY in tensor.parameters:
        raise Refused("invalid_request", f"tensor {tensor.name[:80]!r}: shared memory is not supported")


def _read_output(output: Any) -> RequestedOutput:
    """Read a requested output. Raises Refused."""
    _refuse_shared_memory(output)
    if "classification" not in output.parameters:
        return RequestedOutput(output.name)
    count = read_parameters(output.parameters)["classification"]
    if type(count) is not int:
        raise Refused("invalid_request", f"output {output.name[:80]!r}: classification must be a whole number")
    return RequestedOutput(output.name, count)


def build_infer_response(response: InferResponse) -> bytes:
    """Return a ModelInferResponse with raw outputs. Their bytes are appended, so that protobuf does not copy them."""
    message = pb.ModelInferResponse(model_name=response.model, model_version=response.version, id=response.id)
    for tensor in response.outputs:
        output = message.outputs.add()
        output.name, output.datatype = tensor.name, tensor.datatype
        output.shape.extend(tensor.shape)
    parts: list[bytes] = [message.SerializeToString()]
    for tensor in response.outputs:
        parts += _RAW_OUTPUT_TAG, encode_varint(len(tensor.data)), tensor.data
    return b"".join(parts)


def encode_varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def fill(message: Message, values: Mapping[str, Any]) -> Message:
    """Set the fields of a message from plain values. Fields that the message does not have are left out."""
    return json_format.ParseDict(values, message, ignore_unknown_fields=True)
