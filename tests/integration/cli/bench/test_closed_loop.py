"""The load generator of `jitney bench` against a service that misbehaves on purpose."""

import asyncio
from collections.abc import Callable

import pytest

from cli.bench.errors import CannotMeasure
from cli.bench.load import answer_counter, closed_loop
from cli.bench.load.closed_loop import measure
from cli.bench.load.connection import Address
from cli.bench.load.submit_modes import Exchange, build_submit_request, submit_and_wait
from cli.bench.load_levels import LoadLevel
from cli.bench.session import check_request
from cli.bench.statistics import Slice
from tests.integration.cli.bench.stub_service import StubRequest, run_against

TIMINGS = {"queue": 1.0, "decode": None, "batch": 0.5, "infer": 2.0, "total": 4.0}
SUCCEEDED = (200, {"status": "succeeded", "batch_size": 2, "timings": TIMINGS})
FAILED = (200, {"status": "failed", "error": {"code": "invalid_image", "message": "it is cut short"}})
LATE = (202, {"status": "queued"})
FULL = (503, {"code": "queue_full", "detail": "10 of 10 jobs wait"})


def waiting(address: Address) -> Exchange:
    return Exchange(1, [build_submit_request(address, "m", "image/png", b"x" * 10)], submit_and_wait)


def measured(responses: Callable[[int], tuple[int, object] | None]) -> Slice:
    def respond(asked: StubRequest) -> tuple[int, object] | None:
        assert "Prefer: wait=10\r\n" in asked.head
        return responses(asked.number)

    async def act(address: Address) -> Slice:
        return await measure(address, waiting(address), LoadLevel("wait", 2), 0.3)

    return asyncio.run(run_against(respond, act))


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closed_loop, "WARMUP_S", 0.02)
    monkeypatch.setattr(closed_loop, "PAUSE_AFTER_FAILURE_S", 0.001)


def test_results_are_counted_with_their_stages_and_batches() -> None:
    found = measured(lambda _: SUCCEEDED)
    answers = len(found.latencies_ms)
    assert answers > 10
    assert not found.failures
    assert found.batches == pytest.approx(answers / 2)
    assert found.stages_ms["infer"] == pytest.approx(answers * 2.0)
    assert found.stages_ms["decode"] == 0
    assert found.throughput == pytest.approx(answers / found.wall_s)


def test_throughput_counts_only_results_and_failures_are_counted_by_kind() -> None:
    kinds = [SUCCEEDED, FAILED, LATE, FULL, (429, {}), None]
    found = measured(lambda number: kinds[number % len(kinds)])
    assert found.failures.keys() == {"failed", "202", "connection"}
    assert found.refused.keys() == {"503 queue_full", "429"}
    assert 0 < len(found.latencies_ms) < found.refused.total() + found.failures.total()


def test_the_first_problem_is_reported_with_code_and_detail() -> None:
    found = measured(lambda _: FULL)
    assert not found.latencies_ms
    assert not found.failures
    assert found.throughput == 0
    assert found.first_problem == "503 queue_full: 10 of 10 jobs wait"


def test_a_service_that_does_not_answer_ends_the_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer_counter, "ANSWER_TIMEOUT_S", 0.2)

    never = asyncio.Event()

    async def swallow(_: StubRequest) -> None:
        await never.wait()

    async def act(address: Address) -> Slice:
        try:
            return await measure(address, waiting(address), LoadLevel("wait", 3), 0.05)
        finally:
            never.set()

    found = asyncio.run(run_against(swallow, act))
    assert found.failures == {"no_answer": 3}


@pytest.mark.parametrize(
    ("response", "said"),
    [
        (FAILED, "no result for a.png: the job failed: invalid_image: it is cut short"),
        (LATE, "202: the job was not done within 10 s"),
        (FULL, "503 queue_full: 10 of 10 jobs wait"),
        (None, "broke the connection"),
    ],
)
def test_the_first_request_reports_an_answer_that_is_no_result(response: tuple[int, object] | None, said: str) -> None:
    async def act(address: Address) -> None:
        exchange = waiting(address)
        await check_request(address, exchange, exchange.requests[0], "a.png")

    with pytest.raises(CannotMeasure, match=said):
        asyncio.run(run_against(lambda _: response, act))


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://127.0.0.1:8000", ("127.0.0.1", 8000, "")),
        ("http://a.example/jitney/", ("a.example", 80, "/jitney")),
        ("localhost:81", ("localhost", 81, "")),
        ("http://[::1]:8000", ("::1", 8000, "")),
    ],
)
def test_a_url_is_parsed(url: str, address: tuple[str, int, str]) -> None:
    assert Address.of(url)[:3] == address


def test_an_ipv6_address_keeps_its_brackets_on_the_wire() -> None:
    address = Address.of("http://[::1]:8000")
    assert str(address) == "http://[::1]:8000"
    assert b"\r\nHost: [::1]:8000\r\n" in build_submit_request(address, "m", "image/png", b"x")


@pytest.mark.parametrize("url", ["https://a.example", "http://a:99999", "http://", "ftp://a", "http://a/?b=c"])
def test_a_url_that_cannot_be_measured_is_refused(url: str) -> None:
    with pytest.raises(CannotMeasure, match="--url"):
        Address.of(url)
