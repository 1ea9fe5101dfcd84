"""Large outputs over HTTP: streamed exactly, in the form asked for, with few bytes in memory for slow readers."""

import base64
import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from jobs.contract.job import Outcome
from jobs.contract.lifecycle import State
from jobs.redis_client import keys
from jobs.store.outputs import OutputWriter
from tests.support.api_keys import callers
from tests.support.gateways import PNG, GatewayProcess, Worker
from tests.support.servers import Server
from tests.support.sockets import connect, rss_bytes
from tests.support.waiting import pass_time, wait_until

pytestmark = pytest.mark.anyio

CHUNK = 64 << 10
RAW = bytes(range(256)) * 1000
IMAGE = {"content-type": "image/png"}
OCTETS = {"accept": "application/octet-stream"}


def tensor(**fields: Any) -> dict[str, Any]:
    return {"datatype": "UINT8", "shape": [1000, 256], **fields}


B64 = {"tensors": {'a "b\\': tensor(b64=base64.b64encode(RAW).decode())}}
NUMBERS = {"tensors": {"a": tensor(data=list(RAW))}}


@pytest.fixture(scope="module")
def gateway(queue: Server) -> Iterator[GatewayProcess]:
    settings = {"JITNEY_OUTPUT_CHUNK_BYTES": str(CHUNK), "JITNEY_MAX_BUFFERED_OUTPUT_BYTES": str(20 * CHUNK)}
    with GatewayProcess(queue, {**settings, "JITNEY_ALLOW_ANONYMOUS": "anyone"}) as process:
        yield process


async def finish(worker: Worker, output: Any, chunk_bytes: int = CHUNK) -> str:
    """Finish the next job as a worker does, and return its id."""
    (job,) = await worker.claim(1)
    body = json.dumps(output, separators=(",", ":")).encode()
    chunks = [body[first : first + chunk_bytes] for first in range(0, len(body), chunk_bytes)]
    outcome = Outcome(job.id, job.attempt, State.SUCCEEDED, body, 1.0, 2.0, 3.0, 1)
    if len(chunks) > 1:
        written = await OutputWriter(worker.connection, 20).write(
            outcome._replace(body=b"", chunks=chunks), lambda: True
        )
        assert written is not None
        outcome = written
    assert await worker.store.finish("w1", [outcome]) == 0
    return job.id


async def job_with(gateway: GatewayProcess, worker: Worker, output: Any) -> str:
    assert gateway.submit().status_code == 202
    return await finish(worker, output)


@pytest.mark.parametrize("output", [B64, NUMBERS, {"a": 1}, {"text": "x" * 20_000}])
async def test_an_output_of_any_size_is_answered_alone_and_with_its_job(
    gateway: GatewayProcess, worker: Worker, output: Any
) -> None:
    job_id = await job_with(gateway, worker, output)
    whole, alone = gateway.http.get(f"/v1/jobs/{job_id}"), gateway.http.get(f"/v1/jobs/{job_id}/output")
    assert (whole.status_code, alone.status_code) == (200, 200)
    assert whole.json()["output"] == alone.json() == output
    assert {**whole.json(), "output": None}.keys() == gateway.http.get("/v1/jobs").json()["jobs"][0].keys() | {"output"}
    assert int(alone.headers["content-length"]) == len(alone.content)
    assert alone.headers["cache-control"] == "no-store"
    assert gateway.http.get(f"/v1/jobs/{job_id}/output?wait=5").json() == output
    head = gateway.http.head(f"/v1/jobs/{job_id}/output")
    assert (head.status_code, head.headers["content-length"]) == (200, alone.headers["content-length"])


async def test_one_tensor_in_base64_is_answered_as_its_bytes(gateway: GatewayProcess, worker: Worker) -> None:
    job_id = await job_with(gateway, worker, B64)
    answer = gateway.http.get(f"/v1/jobs/{job_id}/output", headers=OCTETS)
    assert answer.content == RAW
    fields = ("content-type", "content-length", "jitney-datatype", "jitney-shape")
    assert [answer.headers[name] for name in fields] == ["application/octet-stream", str(len(RAW)), "UINT8", "1000,256"]
    small = {"tensors": {"y": {"datatype": "FP32", "shape": [], "b64": "AACAPw=="}}}
    job_id = await job_with(gateway, worker, small)
    assert gateway.http.get(f"/v1/jobs/{job_id}/output", headers=OCTETS).content == b"\0\0\x80?"


@pytest.mark.parametrize("output", [NUMBERS, {"tensors": {**B64["tensors"], **NUMBERS["tensors"]}}, {"a": 1}])
async def test_other_outputs_have_no_bytes_and_the_answer_says_what_to_do(
    gateway: GatewayProcess, worker: Worker, output: Any
) -> None:
    job_id = await job_with(gateway, worker, output)
    answer = gateway.http.get(f"/v1/jobs/{job_id}/output", headers=OCTETS)
    assert (answer.status_code, answer.json()["code"]) == (406, "not_acceptable")
    assert '"encoding": "base64"' in answer.json()["detail"]
    assert gateway.http.get(f"/v1/jobs/{job_id}/output", headers={"accept": "text/html"}).status_code == 406
    both = {"accept": "application/json, application/octet-stream"}
    assert gateway.http.get(f"/v1/jobs/{job_id}/output", headers=both).json() == output


async def test_a_job_without_output_says_so(gateway: GatewayProcess, worker: Worker) -> None:
    http = gateway.http
    job_id = gateway.submit().json()["id"]
    answer = http.get(f"/v1/jobs/{job_id}/output")
    assert (answer.status_code, answer.json()["code"]) == (409, "no_output")
    assert "queued" in answer.json()["detail"]
    await worker.fail(await worker.claim())
    assert "failed: see its error" in http.get(f"/v1/jobs/{job_id}/output").json()["detail"]
    for unknown in ("00" + "0" * 32, "x"):
        assert http.get(f"/v1/jobs/{unknown}/output").json()["code"] == "job_not_found"
    assert http.get(f"/v1/jobs/{job_id}/other").status_code == 404
    lost = await job_with(gateway, worker, B64)
    with gateway.server.client() as client:
        client.delete(keys.output(lost, 1, 0))
        assert http.get(f"/v1/jobs/{lost}/output").json()["code"] == "job_not_found"
        client.delete(keys.job(lost))


async def test_a_submitter_who_waits_and_a_listener_get_the_whole_output(
    gateway: GatewayProcess, worker: Worker
) -> None:
    job_id = gateway.submit(idempotency_key="k").json()["id"]
    await finish(worker, NUMBERS)
    waited = gateway.submit(idempotency_key="k", prefer="wait=5")
    assert (waited.status_code, waited.json()["output"]) == (200, NUMBERS)
    assert waited.headers["preference-applied"] == "wait=5"
    events = gateway.http.get(f"/v1/jobs/{job_id}/events").text.split("\n\n")
    last = events[-2].partition("\ndata: ")[2]
    assert json.loads(last)["output"] == NUMBERS
    array = {"content-type": "application/json", "prefer": "wait=5", "idempotency-key": "k2"}
    lines = json.dumps([{"model": "m", "input": {"image": base64.b64encode(PNG).decode()}}]).encode()
    assert gateway.http.post("/v1/jobs", content=lines, headers={**array, "prefer": "wait=0"}).status_code == 202
    await finish(worker, NUMBERS)
    (job,) = gateway.http.post("/v1/jobs", content=lines, headers=array).json()["jobs"]
    assert job["output"] == NUMBERS


async def test_a_lost_chunk_breaks_the_connection_and_not_the_gateway(gateway: GatewayProcess, worker: Worker) -> None:
    job_id = await job_with(gateway, worker, B64)
    with gateway.server.client() as client:
        client.delete(keys.output(job_id, 1, 3))
    with connect(gateway.port) as caller:
        caller.sendall(f"GET /v1/jobs/{job_id}/output HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        received = b""
        try:
            while data := caller.recv(1 << 20):
                received += data
        except ConnectionResetError:
            pass
    assert len(received) < len(json.dumps(B64))
    assert gateway.http.get("/healthz").status_code == 200
    with gateway.server.client() as client:
        client.delete(keys.job(job_id))


async def test_kept_outputs_are_told(gateway: GatewayProcess, worker: Worker) -> None:
    await job_with(gateway, worker, B64)
    size = len(json.dumps(B64, separators=(",", ":")))
    wait_until(lambda: gateway.http.get("/readyz").json()["output_bytes"] == size, "/readyz has the bytes")
    assert f"jitney_output_bytes {float(size)}" in gateway.http.get("/metrics").text


def slow_reader(gateway: GatewayProcess, path: str, key: str) -> socket.socket:
    """Ask for an output and read nothing."""
    caller = socket.socket()
    caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    caller.connect(("127.0.0.1", gateway.port))
    caller.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: {key}\r\n\r\n".encode())
    return caller


async def test_slow_readers_hold_a_share_of_the_budget(queue: Server, gateway: GatewayProcess, worker: Worker) -> None:
    """Of a budget for ten streams one tenant has eight; another finds room, and memory stays bounded."""
    greedy, calm = callers(queue, gateway, "greedy", "calm")
    ids = {}
    for caller in (greedy, calm):
        assert caller.submit(PNG).status_code == 202
        ids[caller] = await finish(worker, {"text": "x" * (400 * CHUNK)})
    path = f"/v1/jobs/{ids[greedy]}"
    before = rss_bytes(gateway.process.pid)
    with ExitStack() as stack:
        key = greedy.headers["authorization"]
        for kind in ("/output", "", "/events"):
            for _ in range(20):
                stack.enter_context(slow_reader(gateway, path + kind, key))

        def is_used() -> bool:
            stack.enter_context(slow_reader(gateway, path, key))  # in place of a read that took the last share
            return greedy.get(path).status_code == 429

        wait_until(is_used, "the budget is used")
        refused = greedy.get(path).json()
        assert (refused["code"], "bytes of large outputs" in refused["detail"]) == ("rate_limited", True)
        assert calm.get(f"/v1/jobs/{ids[calm]}/output").status_code == 200
        assert rss_bytes(gateway.process.pid) - before < 300 * CHUNK  # sixty outputs have 24,000
    await pass_time(0.1)
    assert wait_until(lambda: greedy.get(path).status_code == 200, "the budget is free again")
