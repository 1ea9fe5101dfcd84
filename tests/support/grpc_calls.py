"""Calls of the Open Inference Protocol over gRPC: a gateway with its port, requests, and the errors they get."""

from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import grpc
import numpy as np
import orjson

from api.grpc_server.generated import open_inference_pb2 as pb
from api.grpc_server.generated import open_inference_pb2_grpc as pb_grpc
from jobs.contract.job import ClaimedJob, Outcome
from jobs.contract.lifecycle import State
from tests.support.gateways import GatewayProcess, Worker
from tests.support.servers import Server, free_port
from tests.support.waiting import wait_until_async

VALUES = np.arange(4, dtype=np.float32)
CARD = {
    "kinds": ["tensors", "raw"],
    "task": "tensor",
    "outputs": [{"name": "y", "datatype": "FP32", "shape": [4]}],
    "max_rows": 8,
    "batchable": True,
}


class GrpcGateway(GatewayProcess):
    """A gateway that serves gRPC too."""

    def __init__(self, server: Server, env: Mapping[str, str] | None = None) -> None:
        self.grpc_port = free_port()
        super().__init__(server, {"JITNEY_GRPC_PORT": str(self.grpc_port), **(env or {})})


@asynccontextmanager
async def connected(port: int, *options: tuple[str, int]) -> AsyncIterator[Any]:
    """A stub of the protocol on a connection of its own."""
    own = ("grpc.use_local_subchannel_pool", 1)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=[own, *options]) as channel:
        stub = pb_grpc.GRPCInferenceServiceStub(channel)
        stub.channel = channel
        yield stub


def request(*rows: np.ndarray[Any, Any], model: str = "m", **fields: Any) -> Any:
    """A request with the input `x` as raw bytes."""
    array = np.stack(rows or (VALUES,))
    asked = pb.ModelInferRequest(model_name=model, **fields)
    asked.inputs.add(name="x", datatype="FP32", shape=array.shape)
    asked.raw_input_contents.append(array.tobytes())
    return asked


def values(response: Any) -> list[list[float]]:
    """The rows of the output `y`."""
    (output,) = response.outputs
    assert (output.name, output.datatype) == ("y", "FP32")
    array = np.frombuffer(response.raw_output_contents[0], np.float32)
    rows: list[list[float]] = array.reshape(output.shape).tolist()
    return rows


async def error_of(call: Awaitable[Any]) -> Any:
    """The error that a call ends with."""
    try:
        answer = await call
    except grpc.aio.AioRpcError as error:
        return error
    raise AssertionError(f"no error: {answer}")


def trailer(error: Any, name: str) -> str:
    """A field of an error's trailing metadata, or an empty string."""
    return next((str(value) for key, value in error.trailing_metadata() or () if key == name), "")


async def claim(worker: Worker, count: int = 1, model: str = "m") -> list[ClaimedJob]:
    """Claim this number of jobs."""
    jobs: list[ClaimedJob] = []

    async def claimed() -> bool:
        jobs.extend(await worker.claim(model=model))
        return len(jobs) >= count

    await wait_until_async(claimed, f"{count} jobs are queued")
    return jobs


async def double(worker: Worker, count: int = 1) -> list[ClaimedJob]:
    """Answer this number of jobs with twice their values."""
    jobs = await claim(worker, count)
    await worker.store.finish("w1", [doubled(job) for job in jobs])
    return jobs


def doubled(job: ClaimedJob) -> Outcome:
    """The outcome of a job whose output is twice its input."""
    rows = job.rows or 1
    array = np.frombuffer((job.input or b"")[-16 * rows :], np.float32)
    tensor = {
        "datatype": "FP32",
        "shape": [4] if rows == 1 else [rows, 4],
        "b64": b64encode((2 * array).tobytes()).decode(),
    }
    return Outcome(job.id, job.attempt, State.SUCCEEDED, orjson.dumps({"tensors": {"y": tensor}}))


async def until_states(worker: Worker, *states: str) -> None:
    async def reached() -> bool:
        return tuple(await worker.states()) == states

    await wait_until_async(reached, f"the jobs are {states}")
