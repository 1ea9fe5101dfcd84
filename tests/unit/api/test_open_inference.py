"""Requests of the Open Inference Protocol: what is read and refused, and what is answered."""

import asyncio
import random
import struct
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import orjson
import pytest

from api.asgi.request import Request
from api.asgi.responses import HttpResponse, error_response
from api.open_inference.http_messages import ParsedRequest, read_request, write_raw_response, write_response
from api.open_inference.inference import (
    InferInput,
    InferRequest,
    InferResponse,
    OutputTensor,
    RequestedOutput,
    choose_output,
    read_outputs,
    to_job,
)
from api.open_inference.metadata import EXTENSIONS, server_metadata
from api.open_inference.model_tensors import model_tensors_of
from jobs.contract import tensors
from jobs.contract.errors import JitneyError, Refused
from jobs.contract.job import Job
from jobs.contract.lifecycle import State
from jobs.contract.tensors import DATATYPES, Tensor

X: Final = {"name": "x", "datatype": "FP32", "shape": [4]}
Y: Final = {"name": "y", "datatype": "FP32", "shape": [2]}
VALUES: Final = struct.pack("<4f", 1, 2, 3, 4)
HUGE: Final = 10**12
INFER: Final = "/v2/models/m/infer"


def card(inputs: Sequence[Mapping[str, Any]] = (X,), **fields: Any) -> dict[str, Any]:
    """A card as a worker announces it."""
    is_raw = len(inputs) == 1 and -1 not in inputs[0]["shape"] and inputs[0]["datatype"] != "BYTES"
    kinds = ["raw", "tensors"] if is_raw else ["tensors"]
    raw = tensors.size_bytes(inputs[0]["datatype"], inputs[0]["shape"]) if "raw" in kinds else None
    base = {"name": "m", "version": "1", "task": "tensor", "kinds": kinds, "inputs": [*inputs], "outputs": [Y]}
    return {**base, "raw_bytes": raw, "max_rows": 8, **fields}


TEXT: Final = card([{"name": "t", "datatype": "BYTES", "shape": [2]}])
TWO: Final = card([X, {"name": "n", "datatype": "INT64", "shape": [-1, 3]}])
IMAGE: Final = card(kinds=["image"], task="image-classification", max_rows=None, raw_bytes=None)
PLAIN: Final = card()


def http(header_length: str | None = None) -> Request:
    fields = [] if header_length is None else [(b"inference-header-content-length", header_length.encode())]
    return Request({"path": INFER, "method": "POST", "query_string": b"", "headers": fields})


def tensor(**fields: Any) -> dict[str, Any]:
    return {"name": "x", "datatype": "FP32", "shape": [1, 4], **fields}


def binary(*sizes: int | object, shape: Sequence[Any] = (1, 4), **fields: Any) -> list[dict[str, Any]]:
    return [tensor(shape=[*shape], parameters={"binary_data_size": size}, **fields) for size in sizes]


def read(value: Any, behind: bytes = b"", model: dict[str, Any] = PLAIN, length: str | None = None) -> ParsedRequest:
    """Read a body of a JSON value and what is behind it."""
    text = value if isinstance(value, bytes) else orjson.dumps(value)
    if length is None and behind:
        length = str(len(text))
    found, raw = read_request(http(length), text + behind, model, "")
    return found if raw is None else found._replace(job_request=found.job_request._replace(raw=bytes(raw)))


def infer(*inputs: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"inputs": [*inputs], **fields}


def test_json_and_binary_tensors_make_the_same_job() -> None:
    flat = read(infer(tensor(data=[1, 2, 3, 4])))
    nested = read(infer(tensor(data=[[1, 2, 3, 4]])))
    raw = read(infer(*binary(16)), VALUES)
    again = read(infer(*binary(16)), VALUES[::-1])
    assert flat.job_request.raw == nested.job_request.raw == raw.job_request.raw == VALUES
    assert again.job_request.raw == VALUES[::-1]
    assert raw.job_request.rows is None
    assert raw.job_request.parameters == {"encoding": "base64"}


def test_a_batch_dimension_is_rows() -> None:
    read_rows = read(infer(*binary(48, shape=(3, 4))), VALUES * 3)
    assert (read_rows.job_request.rows, read_rows.job_request.raw) == (3, VALUES * 3)


def test_a_body_without_json_is_the_only_input() -> None:
    whole = read(b"", VALUES, length="0")
    assert (whole.job_request.raw, whole.binary_by_default) == (VALUES, True)
    free = card([{**X, "shape": [-1]}])
    sent = read(b"", VALUES * 2, free, length="0").job_request.tensors or {}
    assert sent["x"] == Tensor("FP32", (8,), VALUES * 2)
    text = card([{"name": "t", "datatype": "BYTES", "shape": [1]}])
    assert (read(b"", b"word", text, length="0").job_request.tensors or {})["t"].data == b"\4\0\0\0word"
    image = read(b"", b"\x89PNG", IMAGE, length="0").job_request
    assert (image.image, image.parameters) == (b"\x89PNG", {})


def test_several_inputs_take_their_bytes_in_order() -> None:
    numbers = struct.pack("<6q", *range(6))
    body = infer(
        {"name": "n", "datatype": "INT64", "shape": [1, 2, 3], "parameters": {"binary_data_size": 48}}, *binary(16)
    )
    sent = read(body, numbers + VALUES, TWO).job_request.tensors or {}
    assert {name: (each.shape, bytes(each.data)) for name, each in sent.items()} == {
        "x": ((4,), VALUES),
        "n": ((2, 3), numbers),
    }


def test_texts_come_as_text_or_with_their_lengths() -> None:
    packed = b"\2\0\0\0ab\0\0\0\0"
    as_json = read(infer({"name": "t", "datatype": "BYTES", "shape": [1, 2], "data": ["ab", ""]}), model=TEXT)
    entry = {"name": "t", "datatype": "BYTES", "shape": [1, 2], "parameters": {"binary_data_size": len(packed)}}
    as_bytes = read(infer(entry), packed, TEXT)
    assert (as_json.job_request.tensors or {})["t"].data == packed
    assert (as_bytes.job_request.tensors or {})["t"] == Tensor("BYTES", (2,), packed)
    of_grpc = InferRequest("m", inputs=[InferInput("t", "BYTES", (1, 2), [b"ab", b""])])
    assert (to_job(model_tensors_of(TEXT), of_grpc).tensors or {})["t"].data == packed


def test_timeout_and_priority_become_deadline_and_lane() -> None:
    def job(**parameters: Any) -> tuple[str, int | None]:
        found = read(infer(tensor(data=[1, 2, 3, 4]), parameters=parameters)).job_request
        return found.lane, found.deadline_ms

    assert job() == ("interactive", None)
    assert job(timeout=0, priority=1) == ("interactive", None)
    assert job(timeout=1, priority=2) == ("bulk", 1)
    assert job(timeout=1_500_001, priority="3") == ("bulk", 1501)


def test_a_model_whose_tensors_have_no_batch_dimension_has_its_own_shape() -> None:
    model = card(unbatched=["x", "y"])
    model_tensors = model_tensors_of(model)
    tensors = (*model_tensors.inputs.values(), *model_tensors.outputs.values())
    assert [model_tensors.shape(each) for each in tensors] == [[4], [2]]
    assert read(infer(tensor(shape=[4], data=[1, 2, 3, 4])), model=model).job_request.rows is None
    with pytest.raises(Refused, match=r"must have the shape \[4\]"):
        read(infer(tensor(data=[1, 2, 3, 4])), model=model)
    mixed = model_tensors_of(card([X, {"name": "s", "datatype": "FP32", "shape": []}], unbatched=["s"]))
    assert [mixed.shape(each) for each in mixed.inputs.values()] == [[1, 4], []]


DEEP: Final = b'{"inputs":' + b"[" * 5000 + b"]" * 5000 + b"}"
# what is wrong → the body, what is behind its JSON, the model, the header's length if it is another one
BAD: Final[dict[str, tuple[Any, bytes, dict[str, Any], str | None]]] = {
    "not an object": ([], b"", PLAIN, None),
    "no JSON": (b"{", b"", PLAIN, None),
    "NaN in JSON": (b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,4],"data":[NaN,1,2,3]}]}', b"", PLAIN, None),
    "deep nesting": (DEEP, b"", PLAIN, None),
    "deep data": (infer(tensor(data=orjson.loads(b"[" * 200 + b"]" * 200))), b"", PLAIN, None),
    "no inputs": ({}, b"", PLAIN, None),
    "empty inputs": (infer(), b"", PLAIN, None),
    "inputs are an object": ({"inputs": {}}, b"", PLAIN, None),
    "an input is a text": ({"inputs": ["x"]}, b"", PLAIN, None),
    "too many inputs": (infer(*[tensor(data=[1])] * 1001), b"", PLAIN, None),
    "no name": (infer({"datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}), b"", PLAIN, None),
    "unknown input": (infer(tensor(name="z", data=[1, 2, 3, 4])), b"", PLAIN, None),
    "a missing input": (infer(tensor(data=[1, 2, 3, 4])), b"", TWO, None),
    "an input twice": (infer(*binary(16, 16)), VALUES * 2, PLAIN, None),
    "no datatype": (infer({"name": "x", "shape": [1, 4], "data": [1, 2, 3, 4]}), b"", PLAIN, None),
    "another datatype": (infer(tensor(datatype="INT32", data=[1, 2, 3, 4])), b"", PLAIN, None),
    "an unknown datatype": (infer(*binary(16, datatype="FP8")), VALUES, PLAIN, None),
    "no shape": (infer({"name": "x", "datatype": "FP32", "data": [1, 2, 3, 4]}), b"", PLAIN, None),
    "no batch dimension": (infer(tensor(shape=[4], data=[1, 2, 3, 4])), b"", PLAIN, None),
    "another shape": (infer(tensor(shape=[1, 2, 2], data=[1, 2, 3, 4])), b"", PLAIN, None),
    "negative dimensions": (infer(*binary(16, shape=(-1, -4))), VALUES, PLAIN, None),
    "a negative free dimension": (infer(tensor(data=[1]), {**TWO["inputs"][1], "shape": [1, -1, 3]}), b"", TWO, None),
    "a huge batch": (infer(*binary(16, shape=(HUGE, 4))), VALUES, PLAIN, None),
    "a huge dimension": (
        infer(
            *binary(16),
            {"name": "n", "datatype": "INT64", "shape": [1, 10**9, 3], "parameters": {"binary_data_size": 8}},
        ),
        VALUES + bytes(8),
        TWO,
        None,
    ),
    "no rows": (infer(*binary(0, shape=(0, 4))), b"", PLAIN, "110"),
    "more rows than allowed": (infer(*binary(144, shape=(9, 4))), VALUES * 9, PLAIN, None),
    "a size of text": (infer(*binary(16, shape=("1", 4))), VALUES, PLAIN, None),
    "a size that is true": (infer(*binary(16, shape=(True, 4))), VALUES, PLAIN, None),
    "different rows": (
        infer(*binary(16), {"name": "n", "datatype": "INT64", "shape": [2, 1, 3], "data": [0] * 6}),
        VALUES,
        TWO,
        None,
    ),
    "too few bytes": (infer(*binary(12)), VALUES[:12], PLAIN, None),
    "too many bytes": (infer(*binary(20)), VALUES + b"abcd", PLAIN, None),
    "a size beyond the body": (infer(*binary(17)), VALUES, PLAIN, None),
    "a negative size": (infer(*binary(-1)), VALUES, PLAIN, None),
    "a size that is no number": (infer(*binary("16")), VALUES, PLAIN, None),
    "overlapping sizes": (
        infer(
            *binary(16), {"name": "n", "datatype": "INT64", "shape": [1, 1, 3], "parameters": {"binary_data_size": 24}}
        ),
        VALUES + bytes(16),
        TWO,
        None,
    ),
    "bytes that no input takes": (infer(*binary(16)), VALUES + b"x", PLAIN, None),
    "bytes behind JSON tensors": (infer(tensor(data=[1, 2, 3, 4])), b"x", PLAIN, None),
    "data and a size": (infer(*binary(16, data=[1, 2, 3, 4])), VALUES, PLAIN, None),
    "neither data nor a size": (infer(tensor()), b"", PLAIN, None),
    "data is a number": (infer(tensor(data=1)), b"", PLAIN, None),
    "too few values": (infer(tensor(data=[1, 2, 3])), b"", PLAIN, None),
    "a text among numbers": (infer(tensor(data=[1, 2, 3, "4"])), b"", PLAIN, None),
    "a number out of range": (infer(tensor(data=[1, 2, 3, 1e39])), b"", PLAIN, None),
    "ragged data": (infer(tensor(data=[[1, 2], [3, 4]])), b"", PLAIN, None),
    "a header length beyond the body": (infer(*binary(16)), VALUES, PLAIN, "99999"),
    "a header length within the JSON": (infer(*binary(16)), VALUES, PLAIN, "20"),
    "a negative header length": (infer(*binary(16)), VALUES, PLAIN, "-1"),
    "a header length that is no number": (infer(*binary(16)), VALUES, PLAIN, "x"),
    "a huge header length": (infer(*binary(16)), VALUES, PLAIN, "9" * 40),
    "a body without JSON of another size": (b"", VALUES + b"x", PLAIN, "0"),
    "a body without JSON for two inputs": (b"", VALUES, TWO, "0"),
    "unknown output": (infer(tensor(data=[1, 2, 3, 4]), outputs=[{"name": "z"}]), b"", PLAIN, None),
    "an output twice": (infer(tensor(data=[1, 2, 3, 4]), outputs=[{"name": "y"}] * 2), b"", PLAIN, None),
    "outputs are an object": (infer(tensor(data=[1, 2, 3, 4]), outputs={}), b"", PLAIN, None),
    "a negative classification": (
        infer(tensor(data=[1, 2, 3, 4]), outputs=[{"name": "y", "parameters": {"classification": -1}}]),
        b"",
        PLAIN,
        None,
    ),
    "binary_data is a number": (
        infer(tensor(data=[1, 2, 3, 4]), outputs=[{"name": "y", "parameters": {"binary_data": 1}}]),
        b"",
        PLAIN,
        None,
    ),
    "shared memory": (infer(tensor(parameters={"shared_memory_region": "r"})), b"", PLAIN, None),
    "parameters are a list": (infer(tensor(data=[1, 2, 3, 4]), parameters=[]), b"", PLAIN, None),
    "a negative timeout": (infer(tensor(data=[1, 2, 3, 4]), parameters={"timeout": -1}), b"", PLAIN, None),
    "a timeout of text": (infer(tensor(data=[1, 2, 3, 4]), parameters={"timeout": "soon"}), b"", PLAIN, None),
    "a sequence": (infer(tensor(data=[1, 2, 3, 4]), parameters={"sequence_id": 7}), b"", PLAIN, None),
    "the id is a number": (infer(tensor(data=[1, 2, 3, 4]), id=7), b"", PLAIN, None),
    "a long id": (infer(tensor(data=[1, 2, 3, 4]), id="i" * 257), b"", PLAIN, None),
    **{
        f"texts: {what}": (
            infer({"name": "t", "datatype": "BYTES", "shape": [1, 2], "parameters": {"binary_data_size": len(packed)}}),
            packed,
            TEXT,
            None,
        )
        for what, packed in {
            "a length beyond the bytes": b"\1\0\0\0a\xff\xff\xff\xffb",
            "a cut length": b"\1\0\0\0a\0\0\0",
            "too few": b"\1\0\0\0a",
            "too many": b"\0\0\0\0" * 3,
            "nothing": b"\0",
        }.items()
    },
    "huge texts": (
        infer({"name": "t", "datatype": "BYTES", "shape": [1, HUGE], "parameters": {"binary_data_size": 4}}),
        bytes(4),
        card([{"name": "t", "datatype": "BYTES", "shape": [-1]}]),
        None,
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_request_is_refused_with_status_400_or_413(what: str) -> None:
    value, behind, model, length = BAD[what]
    with pytest.raises(Refused) as refused:
        read(value, behind, model, length)
    answer = error_response(refused.value, INFER)
    assert answer.status == (413 if what == "huge texts" else 400), refused.value
    assert [*orjson.loads(answer.body)] == ["error"]


def test_bool_bytes_are_0_or_1() -> None:
    model = card([{"name": "b", "datatype": "BOOL", "shape": [2]}])
    entry = {"name": "b", "datatype": "BOOL", "shape": [1, 2], "parameters": {"binary_data_size": 2}}
    assert read(infer(entry), b"\0\1", model).job_request.raw == b"\0\1"
    with pytest.raises(Refused, match="must be 0 or 1"):
        read(infer(entry), b"\0\2", model)


def test_a_kept_request_is_not_mistaken_for_another_model_version_or_size() -> None:
    body = infer(*binary(16))
    assert read(body, VALUES).job_request.version == ""
    pinned, _ = read_request(http(str(len(orjson.dumps(body)))), orjson.dumps(body) + VALUES, PLAIN, "1")
    assert pinned.job_request.version == "1"
    with pytest.raises(Refused, match="the body has 12"):
        read(body, VALUES[:12])
    other = card([{**X, "shape": [2, 2]}])
    with pytest.raises(Refused, match=r"must have the shape \[-1, 2, 2\]"):
        read(body, VALUES, other)


def test_arbitrary_bytes_are_read_or_refused() -> None:
    """Bytes of a valid request are changed at random: the answer is a request or an error of the caller."""
    chaos, statuses = random.Random(7), set[int]()
    bodies = [orjson.dumps(infer(*binary(16))) + VALUES, orjson.dumps(infer(tensor(data=[1, 2, 3, 4]), outputs=[]))]
    for _ in range(3000):
        body = bytearray(chaos.choice(bodies))
        for _ in range(chaos.randrange(1, 4)):
            at = chaos.randrange(len(body))
            body[at : at + chaos.randrange(3)] = chaos.randbytes(chaos.randrange(3))
        length = chaos.choice([None, str(max(0, len(body) - 16)), str(chaos.randrange(200))])
        try:
            read_request(http(length), bytes(body), PLAIN, "")
        except JitneyError as error:
            statuses.add(error_response(error, INFER).status)
    assert statuses <= {400, 413}


def answer(outputs: list[OutputTensor], *, as_bytes: bool, request_id: str = "") -> HttpResponse:
    read_ = ParsedRequest(InferRequest("m"), read(infer(tensor(data=[1, 2, 3, 4]))).job_request, {}, as_bytes)
    response = InferResponse("m", "1", request_id, outputs)
    written = asyncio.run(write_response(response, read_))
    for _ in range(2):  # its header is kept
        assert write_raw_response(response, read_) == (written if as_bytes else None)
    return written


@pytest.mark.parametrize("datatype", [*DATATYPES, "BYTES"])
def test_outputs_are_written_as_json_and_as_bytes(datatype: str) -> None:
    special: dict[str, list[Any]] = {"BOOL": [True, False], "BYTES": ["ä", ""]}
    values = special.get(datatype, [0, 3])
    data = bytes(tensors.from_numbers("y", datatype, (1, 2), values).data)
    output = OutputTensor("y", datatype, (1, 2), data)
    in_json = orjson.loads(answer([output], as_bytes=False, request_id="i").body)
    assert in_json == {
        "model_name": "m",
        "model_version": "1",
        "outputs": [{"name": "y", "datatype": datatype, "shape": [1, 2], "data": values}],
        "id": "i",
    }
    packed = answer([output, output], as_bytes=True)
    length = int(dict(packed.headers)[b"inference-header-content-length"])
    assert packed.body[length:] == data * 2
    head = orjson.loads(packed.body[:length])["outputs"][0]
    assert head == {"name": "y", "datatype": datatype, "shape": [1, 2], "parameters": {"binary_data_size": len(data)}}
    assert "id" not in orjson.loads(packed.body[:length])


def test_classes_of_no_rows_are_none() -> None:
    empty = choose_output([OutputTensor("y", "FP32", (0, 3), b"")], RequestedOutput("y", 2))
    assert (empty.shape, empty.data) == ((0, 2), b"")


def test_an_output_that_the_job_of_an_earlier_version_lacks_is_named() -> None:
    with pytest.raises(Refused, match=r"has the outputs \['y'\], not 'z'"):
        choose_output([OutputTensor("y", "FP32", (1, 1), bytes(4))], RequestedOutput("z"))


def test_nan_and_infinity_are_null_in_json() -> None:
    output = OutputTensor("y", "FP32", (3,), struct.pack("<3f", float("nan"), float("inf"), 1))
    assert orjson.loads(answer([output], as_bytes=False).body)["outputs"][0]["data"] == [None, None, 1]


def test_many_values_are_written_in_slices() -> None:
    values = np.arange(100_001, dtype="<i4")
    output = OutputTensor("y", "INT32", (100_001,), values.tobytes())
    assert orjson.loads(answer([output], as_bytes=False).body)["outputs"][0]["data"] == values.tolist()


def job(output: dict[str, Any] | None = None, error: dict[str, Any] | None = None) -> Job:
    state = State.SUCCEEDED if output else State.FAILED
    bodies = [orjson.dumps(value) if value else None for value in (output, error)]
    return Job("00a", state, "m", "1", "interactive", "t", 1, 1, b"{}", output=bodies[0], error=bodies[1])


def test_outputs_of_one_row_get_their_batch_dimension() -> None:
    model_tensors = model_tensors_of(PLAIN)
    one = job({"tensors": {"y": {"datatype": "FP32", "shape": [2], "b64": "AACAPwAAAEA="}}})
    assert read_outputs(one, model_tensors) == [OutputTensor("y", "FP32", (1, 2), struct.pack("<2f", 1, 2))]
    two = job({"tensors": {"y": {"datatype": "FP32", "shape": [2, 1], "b64": "AACAPwAAAEA="}}})
    many = model_tensors_of(card(outputs=[{**Y, "shape": [1]}]))
    assert read_outputs(two, many)[0].shape == (2, 1)


def test_a_failed_job_is_an_error() -> None:
    with pytest.raises(JitneyError, match="too deep") as failed:
        read_outputs(job(error={"code": "inference_failed", "message": "too deep"}), model_tensors_of(PLAIN))
    assert error_response(failed.value, INFER).status == 400


def test_the_answer_of_another_task_is_json_text() -> None:
    output = {"predictions": [{"label": "7"}]}
    (found,) = read_outputs(job(output), model_tensors_of(IMAGE))
    assert (found.name, found.datatype, found.shape) == ("output", "BYTES", (1,))
    assert orjson.loads(found.data[4:]) == output
    encoded = read(infer({"name": "image", "datatype": "BYTES", "shape": [1], "data": ["iVBORw=="]}), model=IMAGE)
    assert encoded.job_request.image == b"\x89PNG"


def test_tasks_without_tensors_are_refused() -> None:
    with pytest.raises(Refused, match="use POST /v1/jobs"):
        model_tensors_of(card(kinds=["json"], task="tabular", raw_bytes=None))


@pytest.mark.parametrize(
    ("shape", "values", "count", "expected", "classes"),
    [
        ((2, 3), [1, 3, 2, 0, -1, 0.5], 2, (2, 2), ["3:1", "2:2", "0.5:2", "0:0"]),
        ((3,), [1, 3, 2], 1, (1,), ["3:1"]),
        ((1, 3), [1, float("nan"), 2], 9, (1, 3), ["2:2", "1:0", "nan:1"]),
        ((1, 2), [0.1, 0.1], 1, (1, 1), ["0.100000001:0"]),
    ],
)
def test_the_best_classes_are_texts(
    shape: tuple[int, ...], values: list[float], count: int, expected: tuple[int, ...], classes: list[str]
) -> None:
    data = struct.pack(f"<{len(values)}f", *values)
    chosen = choose_output([OutputTensor("y", "FP32", shape, data)], RequestedOutput("y", count))
    assert (chosen.datatype, chosen.shape) == ("BYTES", expected)
    assert tensors.unpack_texts("y", Tensor("BYTES", expected, chosen.data)) == classes


def test_the_server_names_its_extensions() -> None:
    assert server_metadata()["extensions"] == [*EXTENSIONS]
    assert "async_jobs" in EXTENSIONS
