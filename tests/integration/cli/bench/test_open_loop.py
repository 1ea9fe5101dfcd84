"""The open loop of `jitney bench`: requests are sent and measured by schedule, however slow the service is."""

import asyncio

import pytest

from cli.bench.load import answer_counter, open_loop
from cli.bench.load.connection import Address
from cli.bench.load.submit_modes import Exchange, build_submit_request, submit_and_wait
from cli.bench.load_levels import LoadLevel
from cli.bench.statistics import Slice, summarise_load
from tests.integration.cli.bench.stub_service import Responses, StubRequest, run_against
from tests.support.waiting import pass_time

TIMINGS = {"queue": 1.0, "decode": None, "batch": 0.5, "infer": 2.0, "total": 4.0}
SUCCEEDED = (200, {"status": "succeeded", "batch_size": 2, "timings": TIMINGS})


def measured(responses: Responses, rate: float, *, seconds: float = 0.5, connections: int = 8) -> Slice:
    async def act(address: Address) -> Slice:
        exchange = Exchange(1, [build_submit_request(address, "m", "image/png", b"x")], submit_and_wait)
        return await open_loop.measure(address, exchange, LoadLevel("wait", rate=rate), seconds, connections)

    return asyncio.run(run_against(responses, act))


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_loop, "WARMUP_S", 0.1)


def test_all_requests_due_in_the_slice_are_sent() -> None:
    found = measured(lambda _: SUCCEEDED, 100)
    assert len(found.latencies_ms) == found.answers == pytest.approx(50, abs=1)
    assert found.throughput == pytest.approx(100, rel=0.1)
    assert (found.unsent, found.failures.total()) == (0, 0)
    assert min(found.latencies_ms) > 0


def test_a_stall_of_the_service_delays_all_requests_due_meanwhile() -> None:
    async def still_once(asked: StubRequest) -> tuple[int, object]:
        if asked.number == 20:
            await pass_time(0.3)
        return SUCCEEDED

    found = measured(still_once, 100, connections=1)
    felt = [one for one in found.latencies_ms if one > 50]
    assert len(felt) >= 20  # 300 ms at 100/s; a closed loop would have seen one
    assert max(felt) > 290
    assert found.overdue >= 20
    assert found.unsent == 0


def test_unsent_due_requests_are_counted_and_in_the_percentiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer_counter, "ANSWER_TIMEOUT_S", 1.0)

    async def slow(_: StubRequest) -> tuple[int, object]:
        await pass_time(0.1)
        return SUCCEEDED

    found = measured(slow, 200, connections=2)
    assert found.unsent > 50
    assert found.answers + found.unsent == pytest.approx(100, abs=1)
    assert 0 < found.throughput < 27  # two connections, ten a second each
    made = summarise_load([found], [])
    assert (made.rate, made.concurrency, made.unsent) == (200, None, found.unsent)
    assert made.p99_ms is not None
    assert made.p99_ms > 300


def test_refusals_do_not_slow_the_rate_down() -> None:
    found = measured(lambda _: (429, {"code": "tenant_limit"}), 100)
    assert found.refused == {"429 tenant_limit": pytest.approx(50, abs=1)}
    assert not found.failures
