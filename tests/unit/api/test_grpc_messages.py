"""Messages of gRPC: raw tensors found without protobuf, conversion of values, statuses of errors."""

import asyncio
from typing import Any

import numpy as np
from grpc import StatusCode
from hypothesis import given
from hypothesis import strategies as st

from api.asgi.tenant_budgets import TenantBudget
from api.grpc_server import messages, status_codes
from api.grpc_server.generated import open_inference_pb2 as pb
from api.grpc_server.submit_delay import LIMIT_S, SubmitDelay
from api.open_inference.inference import InferResponse, OutputTensor
from jobs.contract.errors import CODES, JitneyError, QueueFull, Refused

MIB = 1 << 20


def share() -> Any:
    return TenantBudget(MIB, "bytes", QueueFull).hold("t")


RAW = st.lists(st.binary(max_size=300), max_size=4)


@given(RAW, st.text(max_size=300), st.integers(0, (1 << 63) - 1))
def test_raw_tensors_are_found_without_protobuf(raw: list[bytes], name: str, number: int) -> None:
    message = pb.ModelInferRequest(model_name=name, id="7")
    message.parameters["timeout"].uint64_param = number
    message.inputs.add(name="x", shape=[number])
    message.raw_input_contents.extend(raw)
    message.outputs.add(name="y")
    head, found = messages.split_message(message.SerializeToString())
    assert [bytes(each) for each in found] == raw
    del message.raw_input_contents[:]
    assert pb.ModelInferRequest.FromString(head) == message


@given(st.binary(max_size=200))
def test_any_bytes_are_split_or_refused(data: bytes) -> None:
    try:
        head, raw = messages.split_message(data)
    except Refused:
        return
    assert len(head) + sum(map(len, raw)) <= len(data)


def test_a_large_request_reads_as_a_small_one() -> None:
    small = pb.ModelInferRequest(model_name="m")
    small.inputs.add(name="x", datatype="UINT8", shape=[4], parameters={"any": pb.InferParameter(int64_param=1)})
    small.outputs.add(name="y", parameters={"classification": pb.InferParameter(int64_param=2)})
    large = pb.ModelInferRequest.FromString(small.SerializeToString())
    small.raw_input_contents.append(b"1234")
    large.raw_input_contents.append(b"1234" * 50_000)
    requests = [messages.read_infer_request(each.SerializeToString(), share()) for each in (small, large)]
    assert [bytes(request.inputs[0].data) for request in requests] == [b"1234", b"1234" * 50_000]
    assert requests[0].outputs == requests[1].outputs == [("y", 2)]
    assert requests[0]._replace(inputs=()) == requests[1]._replace(inputs=())


def test_typed_contents_are_little_endian() -> None:
    kinds = {
        "BOOL": ("bool_contents", np.bool_),
        "INT8": ("int_contents", np.int8),
        "UINT16": ("uint_contents", np.uint16),
        "INT64": ("int64_contents", np.int64),
        "UINT64": ("uint64_contents", np.uint64),
        "FP32": ("fp32_contents", np.float32),
        "FP64": ("fp64_contents", np.float64),
    }
    for datatype, (field, kind) in kinds.items():
        message = pb.ModelInferRequest()
        tensor = message.inputs.add(datatype=datatype)
        getattr(tensor.contents, field).extend([1, 0, 1])
        (read,) = messages.read_infer_request(message.SerializeToString(), share()).inputs
        assert read.data == np.array([1, 0, 1], kind).tobytes()
    message = pb.ModelInferRequest()
    message.inputs.add(datatype="BYTES").contents.bytes_contents.extend([b"a", b""])
    (read,) = messages.read_infer_request(message.SerializeToString(), share()).inputs
    assert read.data == [b"a", b""]


def test_parameters_are_python_values() -> None:
    message = pb.ModelInferRequest()
    message.parameters["a"].bool_param = True
    message.parameters["b"].string_param = "x"
    message.parameters["c"].double_param = 0.5
    message.parameters["d"].SetInParent()
    assert messages.read_parameters(message.parameters) == {"a": True, "b": "x", "c": 0.5, "d": None}


@given(RAW)
def test_an_answer_has_its_outputs_as_raw_bytes(raw: list[bytes]) -> None:
    outputs = [OutputTensor(f"y{at}", "UINT8", (len(data),), data) for at, data in enumerate(raw)]
    message = pb.ModelInferResponse.FromString(messages.build_infer_response(InferResponse("m", "1", "i", outputs)))
    assert (message.model_name, message.model_version, message.id) == ("m", "1", "i")
    assert list(message.raw_output_contents) == raw
    assert [(output.name, list(output.shape)) for output in message.outputs] == [
        (f"y{at}", [len(data)]) for at, data in enumerate(raw)
    ]


def test_every_error_has_a_status() -> None:
    codes = {code: status_codes.status_code(JitneyError(code, "")) for code in CODES}
    assert {code for code, found in codes.items() if found is StatusCode.UNAVAILABLE} == {
        code for code, (http, _) in CODES.items() if http == 503
    }
    assert codes["unauthorized"] is StatusCode.UNAUTHENTICATED
    assert set(status_codes.BY_CODE) <= set(CODES)
    assert status_codes.trailing_metadata(QueueFull("", retry_after_s=0.2)) == (
        ("jitney-code", "queue_full"),
        ("retry-after", "1"),
        ("grpc-retry-pushback-ms", "1000"),
    )


async def _gather() -> tuple[list[int], list[int]]:
    """Let calls join one after another; return who was let go by the group, and who by its time."""
    submit_delay, order = SubmitDelay(asyncio.get_running_loop()), list[int]()

    async def join(number: int, in_progress: int) -> None:
        await submit_delay.join(in_progress)
        order.append(number)

    await join(0, 1)  # alone
    tasks = [asyncio.create_task(join(number, 6)) for number in (1, 2, 3)]
    await asyncio.gather(*tasks)
    together = list(order)
    canceled = asyncio.create_task(join(4, 8))
    late = asyncio.create_task(join(5, 8))
    await asyncio.wait([canceled], timeout=LIMIT_S / 10)
    canceled.cancel()
    await late
    return together, order


def test_calls_submit_together() -> None:
    together, order = asyncio.run(_gather())
    assert together == [0, 3, 1, 2]  # the third one completes the group
    assert order[4:] == [5]
