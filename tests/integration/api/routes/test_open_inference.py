"""The Open Inference Protocol over HTTP: errors in its form, limits, versions, hang-ups, and jobs of the queue."""

import gzip
import socket
import struct
import zlib
from base64 import b64encode
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import anyio
import httpx2
import orjson
import pytest

from api.open_inference.metadata import EXTENSIONS
from jobs.contract.job import ClaimedJob, Outcome
from jobs.contract.lifecycle import State
from tests.integration.api.http.test_hang_up import has_ended_as, queued
from tests.support.api_keys import make_key, wait_until_keys_are_asked_for
from tests.support.gateways import GatewayProcess, Worker
from tests.support.servers import Server
from tests.support.waiting import pass_time, wait_until

CARD: Final[dict[str, Any]] = {
    "task": "tensor",
    "kinds": ["raw", "tensors"],
    "outputs": [{"name": "y", "datatype": "FP32", "shape": [2]}],
    "max_rows": 8,
    "batchable": True,
}
VALUES: Final = struct.pack("<4f", 1, 2, 3, 4)
INFER: Final = "/v2/models/m/infer"
MAX_BODY: Final = 1 << 20


@pytest.fixture(scope="module")
def gateway(queue: Server) -> Iterator[GatewayProcess]:
    env = {"JITNEY_MAX_BODY_BYTES": str(MAX_BODY), "JITNEY_MAX_WAIT_S": "3", "JITNEY_MAX_JOBS": "4"}
    with GatewayProcess(queue, env) as process:
        yield process


@pytest.fixture
async def served(worker: Worker, gateway: GatewayProcess) -> Worker:
    """The model `m` takes and gives tensors."""
    await worker.announce(gateway, **CARD)
    return worker


def body(rows: int = 1, **fields: Any) -> tuple[bytes, dict[str, str]]:
    """A binary request and its header."""
    entry = {"name": "x", "datatype": "FP32", "shape": [rows, 4], "parameters": {"binary_data_size": 16 * rows}}
    text = orjson.dumps({"inputs": [entry], **fields})
    return text + VALUES * rows, {"Inference-Header-Content-Length": str(len(text))}


def post(gateway: GatewayProcess, path: str = INFER, content: bytes = b"", **headers: str) -> httpx2.Response:
    return gateway.http.post(path, content=content, headers={n.replace("_", "-"): v for n, v in headers.items()})


def infer(
    gateway: GatewayProcess, path: str = INFER, *, rows: int = 1, key: str = "", **fields: Any
) -> httpx2.Response:
    content, headers = body(rows, **fields)
    return gateway.http.post(path, content=content, headers={**headers, **({"Idempotency-Key": key} if key else {})})


def output(values: bytes, shape: list[int]) -> bytes:
    return orjson.dumps({"tensors": {"y": {"datatype": "FP32", "shape": shape, "b64": b64encode(values).decode()}}})


async def answer(worker: Worker, values: bytes = VALUES[:8], shape: tuple[int, ...] = (2,)) -> ClaimedJob:
    """Wait for a job and succeed with these values of `y`."""
    job = await claim(worker)
    await worker.store.finish("w1", [Outcome(job.id, job.attempt, State.SUCCEEDED, output(values, [*shape]))])
    return job


async def claim(worker: Worker) -> ClaimedJob:
    with anyio.fail_after(5):
        while not (jobs := await worker.claim()):
            await pass_time(0.01)
    (job,) = jobs
    return job


async def in_background(worker: Worker, call: Any, *args: Any, **kwargs: Any) -> httpx2.Response:
    """Send a request in a thread while the worker answers its job."""
    found: list[httpx2.Response] = []

    async def send() -> None:
        found.append(await anyio.to_thread.run_sync(lambda: call(*args, **kwargs)))

    async with anyio.create_task_group() as group:
        group.start_soon(send)
        group.start_soon(answer, worker)
    return found[0]


async def test_an_inference_is_a_job_of_the_queue(gateway: GatewayProcess, served: Worker) -> None:
    sent: list[httpx2.Response] = []

    async def send() -> None:
        call = lambda: infer(gateway, id="i", parameters={"timeout": 2_000_000, "priority": 2}, rows=3)  # noqa: E731
        sent.append(await anyio.to_thread.run_sync(call))

    async with anyio.create_task_group() as group:
        group.start_soon(send)
        job = await answer(served, VALUES[:8] * 3, (3, 2))
    assert (job.kind, job.rows, job.input, job.parameters) == ("raw", 3, VALUES * 3, b'{"encoding":"base64"}')
    assert job.deadline_ms - job.created_us / 1000 == pytest.approx(2000, abs=2)
    ((record,), _) = await served.store.newest("default", 1 << 60, 1)
    assert record.lane == "bulk"
    assert sent[0].json() == {
        "model_name": "m",
        "model_version": "1",
        "id": "i",
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [3, 2], "data": [1, 2] * 3}],
    }


async def test_binary_and_packed_answers(gateway: GatewayProcess, served: Worker) -> None:
    by_default = {"binary_data_output": True}
    packed = await in_background(served, infer, gateway, parameters=by_default)
    length = int(packed.headers["inference-header-content-length"])
    assert packed.headers["content-type"] == "application/octet-stream"
    assert packed.content[length:] == VALUES[:8]
    assert "content-encoding" not in packed.headers  # it is small
    content, headers = body(parameters=by_default)
    for encoding, pack in (("gzip", gzip.compress), ("deflate", zlib.compress)):
        sent = {**headers, "Content-Encoding": encoding}
        reply = await in_background(served, gateway.http.post, INFER, content=pack(content), headers=sent)
        assert reply.status_code == 200, reply.text
    large = output(bytes(80_000), [20_000])
    for accepted, encoding in (("deflate", "deflate"), ("br, gzip;q=0.5", "gzip"), ("gzip;q=0", ""), ("identity", "")):
        replies: list[httpx2.Response] = []

        async def send(accepted: str = accepted, replies: list[httpx2.Response] = replies) -> None:
            sent = {**headers, "Accept-Encoding": accepted}
            call = lambda: gateway.http.post(INFER, content=content, headers=sent)  # noqa: E731
            replies.append(await anyio.to_thread.run_sync(call))

        async with anyio.create_task_group() as group:
            group.start_soon(send)
            job = await claim(served)
            await served.store.finish("w1", [Outcome(job.id, job.attempt, State.SUCCEEDED, large)])
        assert replies[0].headers.get("content-encoding", "") == encoding
        assert replies[0].content.endswith(bytes(80_000))


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/models/nope", 404),
        ("GET", "/v2/models/nope/ready", 404),
        ("GET", "/v2/models/m/versions/7", 404),
        ("GET", "/v2/models/m/versions/7/ready", 404),
        ("GET", "/v2/models/m/versions/x/config", 404),
        ("GET", "/v2/models/m/versions/7/stats", 404),
        ("GET", "/v2/nothing", 404),
        ("POST", "/v2/models/nope/infer", 404),
        ("POST", "/v2/models/m/versions/7/infer", 404),
        ("POST", "/v2/models/m/versions/7/jobs", 404),
        ("POST", "/v2/models/..%2fm/infer", 404),
        ("POST", "/v2/repository/models/nope/load", 404),
        ("GET", INFER, 405),
        ("DELETE", "/v2/models/m", 405),
        ("POST", INFER, 400),
        ("POST", "/v2/models/m/infer?x=1", 400),
    ],
)
async def test_errors_have_the_form_of_the_protocol(
    gateway: GatewayProcess, served: Worker, method: str, path: str, status: int
) -> None:
    del served
    content = body()[0] if method == "POST" and "repository" not in path else None
    response = gateway.http.request(method, path, content=content)
    assert response.status_code == status, response.text
    assert [*response.json()] == ["error"]
    assert isinstance(response.json()["error"], str)
    assert ("allow" in response.headers) == (status == 405)


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_a_packed_bomb_is_refused_with_flat_memory(
    gateway: GatewayProcess, served: Worker, encoding: str
) -> None:
    del served
    packer = zlib.compressobj(9, zlib.DEFLATED, {"gzip": 31, "deflate": 15}[encoding])
    bomb = b"".join([*(packer.compress(bytes(1 << 20)) for _ in range(256)), packer.flush()])
    before = memory_bytes(gateway)
    response = post(gateway, content=bomb, Content_Encoding=encoding)
    assert (response.status_code, [*response.json()]) == (413, ["error"])
    assert memory_bytes(gateway) - before < 32 << 20


def memory_bytes(gateway: GatewayProcess) -> int:
    """The most memory that the gateway has had."""
    status = Path(f"/proc/{gateway.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM"))


async def test_bodies_that_are_too_large_or_packed_otherwise(gateway: GatewayProcess, served: Worker) -> None:
    del served
    assert post(gateway, content=bytes(MAX_BODY + 1)).status_code == 413
    assert post(gateway, content=b"x", Content_Encoding="br").status_code == 415
    assert post(gateway, content=b"x", Content_Encoding="deflate").status_code == 400
    cut = zlib.compress(body()[0])[:-3]
    assert post(gateway, content=cut, Content_Encoding="deflate").status_code == 400


async def test_a_version_is_pinned_by_its_path(gateway: GatewayProcess, served: Worker) -> None:
    response = await in_background(served, infer, gateway, "/v2/models/m/versions/1/infer")
    assert response.json()["model_version"] == "1"
    ready = gateway.http.get("/v2/models/m/versions/1/ready")
    assert (ready.status_code, ready.json()) == (200, {"name": "m", "ready": True})


async def test_the_wait_ends_with_504_and_the_job(gateway: GatewayProcess, served: Worker) -> None:
    response = await anyio.to_thread.run_sync(lambda: infer(gateway))
    assert (response.status_code, [*response.json()]) == (504, ["error"])
    assert await served.states() in (["canceled"], ["expired"])


async def test_a_timeout_ends_the_job(gateway: GatewayProcess, served: Worker) -> None:
    response = await anyio.to_thread.run_sync(lambda: infer(gateway, parameters={"timeout": 100_000}))
    assert response.status_code == 504
    assert await served.states() == ["expired"]


async def test_a_full_queue_is_503(gateway: GatewayProcess, served: Worker) -> None:
    for _ in range(4):
        assert infer(gateway, "/v2/models/m/jobs").status_code == 202
    response = infer(gateway)
    assert (response.status_code, [*response.json()]) == (503, ["error"])
    assert int(response.headers["retry-after"]) >= 1
    await served.claim()


async def test_a_failed_job_is_an_error(gateway: GatewayProcess, served: Worker) -> None:
    async def fail() -> None:
        job = await claim(served)
        await served.store.finish("w1", [Outcome(job.id, job.attempt, State.FAILED, FAILED)])

    responses: list[httpx2.Response] = []

    async def send() -> None:
        responses.append(await anyio.to_thread.run_sync(lambda: infer(gateway)))

    async with anyio.create_task_group() as group:
        group.start_soon(send)
        group.start_soon(fail)
    assert (responses[0].status_code, responses[0].json()) == (400, {"error": "it does not run"})


FAILED: Final = b'{"code":"invalid_input","message":"it does not run","status":422}'


def hang_up(gateway: GatewayProcess, *headers: str) -> socket.socket:
    content, fields = body()
    lines = [f"POST {INFER} HTTP/1.1", "Host: x", f"Content-Length: {len(content)}", *headers]
    lines += [f"{name}: {value}" for name, value in fields.items()]
    caller = socket.create_connection(("127.0.0.1", gateway.port))
    caller.sendall("\r\n".join((*lines, "", "")).encode() + content)
    return caller


async def test_the_job_of_a_disconnected_caller_is_canceled(gateway: GatewayProcess, served: Worker) -> None:
    with hang_up(gateway):
        await queued(served)
    await has_ended_as(served, "canceled")
    assert "Traceback" not in gateway.log()


async def test_a_key_keeps_the_job_and_finds_its_result(gateway: GatewayProcess, served: Worker) -> None:
    with hang_up(gateway, "Idempotency-Key: k"):
        await queued(served)
    await pass_time(0.3)
    await answer(served)
    again = await anyio.to_thread.run_sync(lambda: infer(gateway, key="k"))
    assert again.json()["outputs"][0]["data"] == [1, 2]
    other = infer(gateway, key="k", rows=2)
    assert (other.status_code, [*other.json()]) == (400, ["error"])


async def test_the_asynchronous_form_answers_a_job(gateway: GatewayProcess, served: Worker) -> None:
    response = infer(gateway, "/v2/models/m/versions/1/jobs", rows=2, key="j")
    location = response.headers["location"]
    assert (response.status_code, location) == (202, f"/v1/jobs/{response.json()['id']}")
    await answer(served, VALUES, (2, 2))
    job = gateway.http.get(location).json()
    assert job["output"]["tensors"]["y"]["shape"] == [2, 2]
    assert infer(gateway, "/v2/models/m/versions/1/jobs", rows=2, key="j").headers["idempotent-replayed"] == "true"
    assert gateway.http.get(f"{location}/output", headers={"Accept": "application/octet-stream"}).content == VALUES


async def test_health_metadata_configuration_and_index(gateway: GatewayProcess, served: Worker) -> None:
    del served
    get = gateway.http.get
    assert (get("/v2/health/live").json(), get("/v2/health/ready").json()) == ({"live": True}, {"ready": True})
    assert get("/v2").json()["extensions"] == [*EXTENSIONS]
    found = get("/v2/models/m").json()
    assert (found["versions"], found["inputs"]) == (["1"], [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}])
    config = get("/v2/models/m/config").json()
    assert (config["max_batch_size"], config["input"]) == (8, [{"name": "x", "data_type": "TYPE_FP32", "dims": [4]}])
    index = [{"name": "m", "version": "1", "state": "READY", "reason": ""}]
    assert gateway.http.post("/v2/repository/index").json() == index
    assert gateway.http.post("/v2/repository/index", json={"ready": True}).json() == index
    stats = [get(path).json()["model_stats"] for path in ("/v2/models/stats", "/v2/models/m/versions/1/stats")]
    assert stats[0] == stats[1]
    assert stats[0][0]["inference_stats"]["success"]["count"] >= 0


def test_a_gateway_without_its_queue_is_alive_and_not_ready() -> None:
    with closing(Server()) as queue, GatewayProcess(queue) as gateway:
        assert gateway.http.get("/v2/health/ready").status_code == 200
        queue.kill()
        wait_until(lambda: gateway.http.get("/v2/health/ready").status_code == 503, "it is not ready")
        assert gateway.http.get("/v2/health/ready").json() == {"ready": False}
        assert gateway.http.get("/v2/health/live").json() == {"live": True}


async def test_models_are_loaded_and_unloaded_by_admins(gateway: GatewayProcess, served: Worker) -> None:
    del served
    path = "/v2/repository/models/m"
    assert gateway.http.post(f"{path}/unload").json() == {}
    assert gateway.http.get("/v2/models/m/ready").json() == {"name": "m", "ready": False}
    unloaded = gateway.http.post("/v2/repository/index").json()[0]
    assert (unloaded["state"], unloaded["reason"]) == ("UNAVAILABLE", "unloaded")
    assert infer(gateway).status_code == 503
    assert gateway.http.post(f"{path}/load", json={"parameters": {"config": "{}"}}).status_code == 400
    assert gateway.http.post(f"{path}/load").json() == {}
    assert gateway.http.get("/v2/models/m/ready").status_code == 200


def test_keys_and_roles() -> None:
    with closing(Server()) as queue, GatewayProcess(queue) as gateway:
        key, admin = make_key(queue.url, "t"), make_key(queue.url, "t", "admin")
        wait_until_keys_are_asked_for(gateway)
        assert gateway.http.get("/v2/health/live").status_code == 200
        refused = [gateway.http.get("/v2"), infer(gateway)]
        assert [(each.status_code, [*each.json()]) for each in refused] == [(401, ["error"])] * 2
        sent = {"Authorization": f"Bearer {key}"}
        wait_until(lambda: gateway.http.get("/v2", headers=sent).status_code == 200, "the key is known")
        assert gateway.http.post("/v2/repository/models/m/load", headers=sent).status_code == 403
        sent = {"Authorization": f"Bearer {admin}"}
        wait_until(lambda: gateway.http.get("/v2", headers=sent).status_code == 200, "the admin's key is known")
        assert gateway.http.post("/v2/repository/models/m/load", headers=sent).status_code == 404
