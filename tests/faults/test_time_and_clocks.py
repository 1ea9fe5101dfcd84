"""Deadlines, callers that disconnect, and wrong clocks."""

import struct
from pathlib import Path

import httpx2
import pytest

from tests.support.cluster.callers import Input, digit
from tests.support.cluster.scenario import BATCH, Scenario
from tests.support.service import DIGITS
from tests.support.waiting import wait_until

DEADLINE_MS = 1000
TEN_MINUTES = 600


def endless(deadline_ms: int = DEADLINE_MS) -> Input:
    """A run of minutes without a waiting caller."""
    return Input("looping", struct.pack("<q", 10**6), more={"deadline_ms": str(deadline_ms)})


@pytest.mark.timeout(120)
def test_a_run_past_its_deadline_ends_and_frees_its_worker(scenario: Scenario) -> None:
    """F18: every worker executes an endless run; each ends as expired, and other jobs run."""
    gateway = scenario.cluster.gateways[0]
    ids = [scenario.caller.submit(endless(), gateway) for _ in scenario.cluster.workers]
    try:
        jobs = scenario.final(ids, timeout_s=10)
        assert {(job["status"], job["error"]["code"]) for job in jobs} == {("expired", "deadline_exceeded")}
        assert {job["attempts"] for job in jobs} == {1}
        more = scenario.final([scenario.caller.submit(digit(scenario.random)) for _ in range(10)], timeout_s=15)
        assert {job["status"] for job in more} == {"succeeded"}
    except BaseException:
        for worker in scenario.cluster.workers:  # what still runs would spoil the tests that follow
            worker.kill()
        raise


def test_a_canceled_job_never_runs_or_its_result_is_dropped(scenario: Scenario) -> None:
    """F19: cancel while queued, while running, and when it is over."""
    cluster, gateway = scenario.cluster, scenario.cluster.gateways[0]
    with gateway.client() as http:
        _, held = scenario.full_batch()
        running, queued = held[0], scenario.submit(1)[0]
        assert cluster.job(running)["state"] == "running"
        assert cluster.job(queued)["state"] == "queued"
        for job_id in (running, queued):
            answer = http.delete(f"/v1/jobs/{job_id}")
            assert (answer.status_code, answer.json()["status"]) == (200, "canceled")
            scenario.history.accepted[job_id] = "canceled"
        assert http.delete(f"/v1/jobs/{running}").status_code == 409
        assert {job["status"] for job in scenario.final(held[1:])} == {"succeeded"}
        (done,) = scenario.final(scenario.submit(1))
        refused = http.delete(f"/v1/jobs/{done['id']}")
        assert (refused.status_code, refused.json()["code"]) == (409, "job_already_final")
    (never_run,) = scenario.final([queued])
    assert never_run["attempts"] == 0


def test_a_caller_who_hangs_up_on_predict_has_the_job_canceled(scenario: Scenario) -> None:
    """F19: the response of `/predict` could not be read later, so the job is not run."""
    cluster, gateway = scenario.cluster, scenario.cluster.gateways[0]
    canceled = cluster.counts().get("finished:digits:canceled", 0)
    for worker in cluster.workers:
        worker.freeze()
    image = DIGITS[0]
    with gateway.client(0.5) as http, pytest.raises(httpx2.TimeoutException):
        http.post("/predict", data={"model": "digits"}, files={"image": (image.name, image.read_bytes())})
    scenario.history.unsure(gateway.name, "", "POST /predict, hung up")
    wait_until(lambda: cluster.counts().get("finished:digits:canceled", 0) == canceled + 1, "the job is canceled", 5)


@pytest.fixture
def faketime(tmp_path: Path) -> tuple[dict[str, str], Path]:
    """The environment of a process whose wall clock is set by a file."""
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    if not found:
        pytest.skip("libfaketime is not installed: apt-get install faketime")
    clock = tmp_path / "clock"
    settings = {"FAKETIME_TIMESTAMP_FILE": str(clock), "FAKETIME_NO_CACHE": "1", "DONT_FAKE_MONOTONIC": "1"}
    return {"LD_PRELOAD": str(found[0]), **settings}, clock


@pytest.mark.timeout(120)
def test_wrong_clocks_decide_nothing(scenario: Scenario, faketime: tuple[dict[str, str], Path]) -> None:
    """F20: the clocks of one worker and one gateway are ten minutes off, and then jump the other way."""
    cluster, (env, clock) = scenario.cluster, faketime
    worker, gateway = cluster.workers[0], cluster.gateways[0]
    clock.write_text(f"+{TEN_MINUTES}s\n")
    for part in (worker, gateway):
        part.terminate()
        part.start(env)
    wait_until(cluster.is_whole, "they work with a wrong clock", 30)
    for offset in (f"-{TEN_MINUTES}s\n", f"+{TEN_MINUTES}s\n"):
        with scenario.load() as load:
            wait_until(lambda load=load: load.done >= 30, "callers get answers")  # type: ignore[misc]
            clock.write_text(offset)
            done = load.done
            wait_until(lambda load=load, done=done: load.done >= done + 30, "callers get answers")  # type: ignore[misc]
        wait_until(cluster.is_whole, "all workers are live, though a heartbeat may be late under load")
    ids = [scenario.caller.submit(digit(scenario.random), gateway) for _ in range(BATCH)]
    jobs = scenario.final([*ids, *scenario.submit(2 * BATCH)], through=gateway)
    assert {(job["status"], job["attempts"]) for job in jobs} == {("succeeded", 1)}
    assert all(job["timings"]["total"] >= 0 for job in jobs)
    for part in (worker, gateway):
        part.terminate()
