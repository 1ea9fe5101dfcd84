"""The modes of `jitney bench` against a service that keeps the contract, and one that does not."""

import asyncio
import base64
from typing import Any

import orjson
import pytest

from cli.bench.errors import CannotMeasure
from cli.bench.load import accept_burst, closed_loop
from cli.bench.load.connection import Address
from cli.bench.load.inputs import Inputs
from cli.bench.load.submit_modes import Exchange, build_exchange, build_poll_request
from cli.bench.load.target import Target
from cli.bench.load_levels import LoadLevel
from cli.bench.session import check_request
from cli.bench.statistics import Slice, summarise_load
from tests.integration.cli.bench.stub_service import Responses, StubRequest, run_against

TIMINGS = {"queue": 1.0, "decode": None, "batch": 0.5, "infer": 2.0, "total": 4.0}
IMAGES = Inputs("image", [b"one", b"two", b"three"], ["image/png"] * 3, ["1.png", "2.png", "3.png"])
PORT = {"name": "x", "datatype": "FP32", "shape": [2]}
CARD = {"kinds": ["image"], "inputs": [PORT], "raw_bytes": 8}


def view(number: int, status: str = "succeeded") -> dict[str, Any]:
    return {"id": f"00{number}", "status": status, "error": None, "batch_size": 4, "timings": TIMINGS}


def made(address: Address, mode: str, inputs: Inputs = IMAGES) -> Exchange:
    return build_exchange(mode, Target(address, "m", CARD), inputs, 4)


def measured(mode: str, responses: Responses, concurrency: int = 2) -> Slice:
    async def act(address: Address) -> Slice:
        one = made(address, mode)
        result = await closed_loop.measure(address, one, LoadLevel(mode, concurrency), 0.2)
        if one.submit_only:
            await accept_burst.measure_accept_rate(address, one, result, 0.2)
        return result

    return asyncio.run(run_against(responses, act))


def tried(mode: str, responses: Responses) -> None:
    async def act(address: Address) -> None:
        one = made(address, mode)
        await check_request(address, one, one.requests[0], f"--mode {mode}")

    asyncio.run(run_against(responses, act))


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closed_loop, "WARMUP_S", 0.02)
    monkeypatch.setattr(closed_loop, "PAUSE_AFTER_FAILURE_S", 0.001)


def test_polling_submits_without_a_wait_and_polls_until_the_end() -> None:
    looks: dict[str, int] = {}

    def respond(asked: StubRequest) -> tuple[int, object]:
        method, path, _ = asked.line.split()
        if method == "POST":
            assert "Prefer" not in asked.head
            return 202, view(asked.number, "queued")
        job_id, _, wait = path.removeprefix("/v1/jobs/").partition("?wait=")
        assert wait == "10"
        looks[job_id] = looks.get(job_id, 0) + 1
        return 200, view(int(job_id[2:]), "running" if looks[job_id] == 1 else "succeeded")

    found = measured("poll", respond)
    assert found.answers == len(found.latencies_ms) > 10
    assert not found.failures
    assert set(looks.values()) == {2}


def test_a_bulk_request_carries_many_jobs_and_each_is_counted() -> None:
    def respond(asked: StubRequest) -> tuple[int, object]:
        assert asked.line.startswith("POST /v1/jobs?model=m ")
        assert "Content-Type: application/x-ndjson\r\n" in asked.head
        jobs = [orjson.loads(line) for line in asked.body.splitlines()]
        assert len(jobs) == 4
        assert {job["model"] for job in jobs} == {"m"}
        assert {base64.b64decode(job["input"]["image"]) for job in jobs} == {b"one", b"two", b"three"}
        done = "Prefer: wait=10\r\n" in asked.head
        return 200 if done else 202, {"jobs": [view(number, "succeeded" if done else "queued") for number in range(4)]}

    def respond_both(asked: StubRequest) -> tuple[int, object]:
        return (200, view(0)) if asked.line.startswith("GET /v1/jobs/003?wait=10 ") else respond(asked)

    found = measured("bulk", respond_both)
    assert found.answers == 4 * len(found.latencies_ms) > 40
    assert found.batches == pytest.approx(found.answers / 4)
    assert 0 < found.accepted < found.in_time + 4
    shown = summarise_load([found], [])
    assert shown.accepted_rate == pytest.approx(found.accepted / found.accepting_s)
    assert shown.mean_batch == pytest.approx(4)
    assert shown.stages_ms["infer"] == pytest.approx(2)


def test_each_job_of_a_bulk_request_is_judged_separately() -> None:
    full = {"error": {"code": "queue_full", "message": "10 of 10 jobs wait", "status": 503}}
    bad = {"error": {"code": "invalid_image", "message": "it is cut short", "status": 422}}
    found = measured("bulk", lambda _: (200, {"jobs": [view(1), full, bad, view(2, "failed")]}))
    assert found.answers == len(found.latencies_ms) > 5
    assert found.refused.keys() == {"503 queue_full"}
    assert found.failures.keys() == {"422", "failed"}
    assert found.first_problem == "503 queue_full: 10 of 10 jobs wait"


def test_a_refused_bulk_request_counts_as_all_its_jobs_refused() -> None:
    found = measured("bulk", lambda _: (503, {"code": "queue_full", "detail": "full"}))
    assert found.refused["503 queue_full"] % 4 == 0
    assert (found.answers, found.accepted, found.throughput) == (0, 0, 0)


def test_a_tensor_goes_into_a_bulk_request_with_its_shape() -> None:
    inputs = Inputs("raw", [b"12345678"], ["application/octet-stream"], ["x.bin"])
    request = made(Address("a", 1, ""), "bulk", inputs).requests[0]
    job = orjson.loads(request.partition(b"\r\n\r\n")[2].splitlines()[0])
    b64 = base64.b64encode(b"12345678").decode()
    assert job == {"model": "m", "input": {"tensors": {"x": {"datatype": "FP32", "shape": [2], "b64": b64}}}}


def test_a_service_without_the_bulk_route_is_reported_before_the_measurement() -> None:
    refusal = (415, {"code": "unsupported_media_type", "detail": "application/x-ndjson is not taken"})
    with pytest.raises(CannotMeasure, match="no result for --mode bulk: 415 unsupported_media_type: application/x-nd"):
        tried("bulk", lambda _: refusal)
    with pytest.raises(CannotMeasure, match="no result for --mode bulk: 200: the job was not done within 10 s"):
        tried("bulk", lambda _: (200, {"jobs": [view(1), view(2, "running"), view(3), view(4)]}))


def test_every_request_carries_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JITNEY_API_KEY", "jk_1_2")
    address = Address.of("http://127.0.0.1:8000")
    one = made(address, "poll")
    for request in (*one.requests, build_poll_request(address, "00")):
        assert b"\r\nAuthorization: Bearer jk_1_2\r\n" in request.partition(b"\r\n\r\n")[0] + b"\r\n"
    monkeypatch.delenv("JITNEY_API_KEY")
    assert b"Authorization" not in build_poll_request(Address.of("http://127.0.0.1:8000"), "00")
