"""ModelInfer: a request is a job of the queue; deadlines, cancellation, keys for repeats, bad input, large messages."""

import asyncio
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import StatusCode

from api.grpc_server.generated import open_inference_pb2 as pb
from jobs.contract.lifecycle import State
from tests.support.gateways import Worker
from tests.support.grpc_calls import (
    CARD,
    VALUES,
    GrpcGateway,
    claim,
    connected,
    double,
    error_of,
    request,
    trailer,
    until_states,
    values,
)
from tests.support.waiting import wait_until_async

DOUBLED = [0.0, 2.0, 4.0, 6.0]


async def test_a_request_is_a_job(stub: Any, worker: Worker) -> None:
    answer, jobs = await asyncio.gather(stub.ModelInfer(request(id="a", model_version="1")), double(worker))
    assert (answer.model_name, answer.model_version, answer.id, values(answer)) == ("m", "1", "a", [DOUBLED])
    assert jobs[0].rows == 0
    answer, jobs = await asyncio.gather(stub.ModelInfer(request(VALUES, VALUES + 1)), double(worker))
    assert (values(answer), jobs[0].rows, answer.id) == ([DOUBLED, [2.0, 4.0, 6.0, 8.0]], 2, "")
    listed = await worker.store.newest("default", 1 << 60, 10)
    assert [job.state for job in listed[0]] == [State.SUCCEEDED] * 2


async def test_typed_contents_are_the_same_job_as_raw_ones(stub: Any, worker: Worker) -> None:
    typed = request()
    del typed.raw_input_contents[:]
    typed.inputs[0].contents.fp32_contents.extend(VALUES.tolist())
    answer, jobs = await asyncio.gather(stub.ModelInfer(typed), double(worker))
    _, raw = await asyncio.gather(stub.ModelInfer(request()), double(worker))
    assert values(answer) == [DOUBLED]
    assert jobs[0].input == raw[0].input


async def test_compressed_messages(stub: Any, worker: Worker) -> None:
    call = stub.ModelInfer(request(), compression=grpc.Compression.Gzip)
    answer, _ = await asyncio.gather(call, double(worker))
    assert values(answer) == [DOUBLED]


async def test_the_deadline_of_the_call_is_that_of_the_job(stub: Any, worker: Worker) -> None:
    call = asyncio.ensure_future(error_of(stub.ModelInfer(request(), timeout=30)))
    (job,) = await claim(worker)
    assert 25_000 < job.deadline_ms - job.created_us / 1000 <= 30_100
    await worker.fail([job])
    error = await call
    assert (error.code(), trailer(error, "jitney-code")) == (StatusCode.INTERNAL, "inference_failed")
    error = await error_of(stub.ModelInfer(request(), timeout=1))
    assert error.code() == StatusCode.DEADLINE_EXCEEDED

    async def none_is_open() -> bool:  # canceled, or expired first
        return not {"queued", "running"} & set(await worker.states())

    await wait_until_async(none_is_open, "the job ends with its call")


async def test_a_call_that_is_cancelled_cancels_its_job_unless_it_has_a_key(stub: Any, worker: Worker) -> None:
    call = stub.ModelInfer(request())
    await until_states(worker, "queued")
    call.cancel()
    await until_states(worker, "canceled")
    keyed = (("idempotency-key", "k1"),)
    call = stub.ModelInfer(request(), metadata=keyed)
    await until_states(worker, "queued", "canceled")
    call.cancel()
    answer, _ = await asyncio.gather(stub.ModelInfer(request(), metadata=keyed), double(worker))
    assert values(answer) == [DOUBLED]
    assert values(await stub.ModelInfer(request(), metadata=keyed)) == [DOUBLED]
    await until_states(worker, "succeeded", "canceled")
    error = await error_of(stub.ModelInfer(request(VALUES + 1), metadata=keyed))
    assert (error.code(), trailer(error, "jitney-code")) == (StatusCode.INVALID_ARGUMENT, "idempotency_mismatch")


def _tensor(change: Callable[[Any], object]) -> Any:
    asked = request()
    change(asked)
    return asked


def _typed(datatype: str, field: str, *numbers: Any) -> Any:
    asked = request()
    del asked.raw_input_contents[:]
    asked.inputs[0].datatype = datatype
    getattr(asked.inputs[0].contents, field).extend(numbers)
    return asked


def _shape(*sizes: int) -> Callable[[Any], None]:
    def change(asked: Any) -> None:
        del asked.inputs[0].shape[:]
        asked.inputs[0].shape.extend(sizes)

    return change


LIES = {
    "no model": (request(model="nothing"), StatusCode.NOT_FOUND),
    "no version": (request(model_version="7"), StatusCode.NOT_FOUND),
    "no input": (pb.ModelInferRequest(model_name="m"), StatusCode.INVALID_ARGUMENT),
    "other input": (_tensor(lambda asked: setattr(asked.inputs[0], "name", "z")), StatusCode.INVALID_ARGUMENT),
    "output": (_tensor(lambda asked: asked.outputs.add(name="z")), StatusCode.INVALID_ARGUMENT),
    "datatype": (_tensor(lambda asked: setattr(asked.inputs[0], "datatype", "FP64")), StatusCode.INVALID_ARGUMENT),
    "bytes": (_tensor(lambda asked: asked.raw_input_contents.insert(0, b"1")), StatusCode.INVALID_ARGUMENT),
    "shape": (_tensor(_shape(2, 4)), StatusCode.INVALID_ARGUMENT),
    "negative shape": (_tensor(_shape(-1, 4)), StatusCode.INVALID_ARGUMENT),
    "huge shape": (_tensor(_shape(1 << 40, 4)), StatusCode.INVALID_ARGUMENT),
    "rank": (_tensor(_shape(4)), StatusCode.INVALID_ARGUMENT),
    "both": (_tensor(lambda asked: asked.inputs[0].contents.fp32_contents.append(1)), StatusCode.INVALID_ARGUMENT),
    "contents of FP16": (_typed("FP16", "fp32_contents", 1), StatusCode.INVALID_ARGUMENT),
    "other contents": (_typed("FP32", "int_contents", 1, 2, 3, 4), StatusCode.INVALID_ARGUMENT),
    "too few": (_typed("FP32", "fp32_contents", 1, 2, 3), StatusCode.INVALID_ARGUMENT),
    "range": (_typed("INT8", "int_contents", 1, 2, 3, 400), StatusCode.INVALID_ARGUMENT),
    "text": (_typed("BYTES", "bytes_contents", b"a"), StatusCode.INVALID_ARGUMENT),
    "shared memory": (
        _tensor(lambda asked: asked.inputs[0].parameters["shared_memory_region"].MergeFrom(pb.InferParameter())),
        StatusCode.INVALID_ARGUMENT,
    ),
    "classes": (
        _tensor(lambda asked: asked.outputs.add(name="y").parameters["classification"].MergeFrom(pb.InferParameter())),
        StatusCode.INVALID_ARGUMENT,
    ),
    "long id": (request(id="a" * 300), StatusCode.INVALID_ARGUMENT),
}


@pytest.mark.parametrize("name", LIES)
async def test_a_request_that_lies_is_refused(stub: Any, worker: Worker, name: str) -> None:
    asked, code = LIES[name]
    error = await error_of(stub.ModelInfer(asked))
    assert (error.code(), bool(error.details())) == (code, True)
    assert await worker.states() == []


async def test_bytes_that_are_no_message_are_refused(stub: Any) -> None:
    send = stub.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
    large = b"\x3a\x05" + bytes(70_000)  # ends within a field
    many = b"\x3a\x00" * 40_000
    for sent in (b"\xff", b"\x0a\x05ab", large, b"\xff" * 70_000, many, b"\x03" * 70_000):
        error = await error_of(send(sent))
        assert error.code() == StatusCode.INVALID_ARGUMENT, sent[:5]
    none = stub.channel.stream_unary("/inference.GRPCInferenceService/ModelInfer")
    assert (await error_of(none(iter(())))).code() == StatusCode.INVALID_ARGUMENT


async def test_a_message_above_the_limit_is_refused_before_it_is_in_memory(stub: Any, gateway: GrpcGateway) -> None:
    await stub.ServerLive(pb.ServerLiveRequest())
    before = _memory_mib(gateway.process.pid)
    async with connected(gateway.grpc_port, ("grpc.max_send_message_length", -1)) as large:
        send = large.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        for sent, packed in ((bytes(200 << 20), None), (bytes(50 << 20), grpc.Compression.Gzip)):
            error = await error_of(send(sent, compression=packed))
            assert error.code() == StatusCode.RESOURCE_EXHAUSTED
    assert _memory_mib(gateway.process.pid) < before + 24


async def test_memory_of_parsed_values_counts(stub: Any) -> None:
    """A message of small numbers takes many times its size once it is parsed."""
    asked = request()
    asked.inputs[0].contents.int64_contents.extend([1] * 900_000)
    error = await error_of(stub.ModelInfer(asked))
    assert error.code() == StatusCode.UNAVAILABLE, error.details()


async def test_a_large_tensor_is_passed_on_as_it_came(stub: Any, worker: Worker, gateway: GrpcGateway) -> None:
    wide = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [50_000]}], "raw_bytes": 200_000}
    await worker.announce(gateway, **{**CARD, **wide, "name": "wide"})
    data = struct.pack("<50000f", *range(50_000))
    asked = pb.ModelInferRequest(model_name="wide", id="w")
    asked.inputs.add(name="x", datatype="FP32", shape=[1, 50_000])
    asked.raw_input_contents.append(data)
    call = asyncio.ensure_future(error_of(stub.ModelInfer(asked)))
    jobs = await claim(worker, model="wide")
    assert (jobs[0].input or b"").endswith(data)
    await worker.fail(jobs)
    assert (await call).code() == StatusCode.INTERNAL


async def test_a_full_queue_and_a_queue_that_is_gone(own: tuple[Any, Any]) -> None:
    server, connection = own
    del connection
    with GrpcGateway(server, {"JITNEY_MAX_JOBS": "1", "JITNEY_REDIS_TIMEOUT_S": "0.5"}) as gateway:
        worker = Worker(server)
        await worker.announce(gateway, **CARD)
        async with connected(gateway.grpc_port) as stub:
            first = stub.ModelInfer(request())
            await until_states(worker, "queued")
            error = await error_of(stub.ModelInfer(request()))
            assert (error.code(), trailer(error, "jitney-code")) == (StatusCode.UNAVAILABLE, "queue_full")
            assert int(trailer(error, "retry-after")) >= 1
            assert trailer(error, "grpc-retry-pushback-ms") == trailer(error, "retry-after") + "000"
            first.cancel()
            server.kill()
            error = await error_of(stub.ModelInfer(request()))
            assert (error.code(), trailer(error, "jitney-code")) == (StatusCode.UNAVAILABLE, "store_unavailable")
            assert not (await stub.ServerReady(pb.ServerReadyRequest())).ready
        await worker.connection.aclose()


def _memory_mib(pid: int) -> float:
    """The largest memory that the process has had."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024
