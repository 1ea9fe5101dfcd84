"""Inputs that kill their worker or need too much memory, beside harmless inputs."""

import math
import re
import resource
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cluster.callers import Input, digit, four, marked
from tests.support.cluster.cluster import Cluster
from tests.support.cluster.parts import ManagedWorker, status_kib
from tests.support.cluster.scenario import BATCH, Scenario
from tests.support.waiting import wait_until

SPARE_BYTES = 500 << 20
WANTED = 10**9  # floats: 4 GB
MIN_KILLS = 3
CROWD, STORM = 20, 12  # deaths; all twenty would take a minute or two: each dies alone in the end
SOON_S = 30  # all workers die at first, until nobody is left who is no suspect; and this machine may have other work


@pytest.fixture(scope="module")
def whole_cluster(models_dir: Path) -> Iterator[Cluster]:
    """A cluster with production lease and backoff: here no caller may wait for either."""
    with Cluster(models_dir, {"JITNEY_LEASE_S": "20", "JITNEY_SUSPECT_COOLDOWN_S": "1"}) as cluster:
        yield cluster


def deaths(scenario: Scenario) -> int:
    """The number of worker deaths in the logs of the supervisors."""
    return sum(len(re.findall(r"worker died", worker.log())) for worker in scenario.cluster.workers)


def is_dead_letter(scenario: Scenario, job_id: str) -> bool:
    with scenario.cluster.queue() as client:
        letters = [letter.decode().split(" ")[0] for letter in client.zrange("jitney:{s00}:dead_letters", 0, -1)]
        return job_id in letters and bool(client.hexists(f"jitney:{{s00}}:job:{job_id}", "body"))


@pytest.mark.timeout(150)
@pytest.mark.parametrize("number", [-5, -1], ids=["where it is prepared", "where it is shown"])
def test_an_input_that_kills_its_worker_ends_as_poison_and_its_neighbours_succeed(
    scenario: Scenario, number: int
) -> None:
    """F16: one of a batch of 8 kills the process each time; bisection finds it, and no other fails."""
    before = deaths(scenario)
    inputs = [four(scenario.random, "poison") for _ in range(BATCH - 1)]
    place = scenario.random.randrange(BATCH)
    ids = scenario.submit_together([*inputs[:place], marked(number), *inputs[place:]])
    jobs = scenario.final(ids, timeout_s=90)
    culprit = jobs.pop(place)
    assert {job["status"] for job in jobs} == {"succeeded"}
    assert (culprit["status"], culprit["error"]["code"]) == ("failed", "poison")
    assert culprit["attempts"] >= MIN_KILLS
    assert is_dead_letter(scenario, culprit["id"])
    assert MIN_KILLS <= deaths(scenario) - before <= MIN_KILLS + math.log2(BATCH)


@pytest.mark.timeout(240)
def test_many_poison_inputs_at_once_do_not_stop_the_others(scenario: Scenario) -> None:
    """F17: 20 killing inputs at once. Other requests are answered soon, all the time."""
    before = deaths(scenario)
    with scenario.load(callers=3, models=("digits",)) as load:
        wait_until(lambda: load.done >= 20, "callers get answers")
        calm = len(load.took_s)
        ids = scenario.submit_together([marked(-5) for _ in range(CROWD)])
        try:
            wait_until(lambda: deaths(scenario) >= before + STORM and ended(scenario, ids), "the first is found", 120)
        finally:
            took_s = load.took_s[calm:]
            cancel(scenario, set(ids) - set(ended(scenario, ids)))  # the rest would end the same way, and take long
    assert {job["error"]["code"] for job in scenario.final(ids)} == {"poison", "canceled"}
    assert len(took_s) >= 50
    assert max(took_s) < SOON_S, f"{sorted(took_s)[-10:]}"


def ended(scenario: Scenario, ids: list[str]) -> list[str]:
    return [job_id for job_id in ids if scenario.cluster.job(job_id)["state"] not in {"queued", "running"}]


def cancel(scenario: Scenario, ids: set[str]) -> None:
    with scenario.cluster.gateways[0].client() as http:
        for job_id in ids:
            if http.delete(f"/v1/jobs/{job_id}").status_code == 200:
                scenario.history.accepted[job_id] = "canceled"


def test_an_input_too_large_for_memory_fails_alone(scenario: Scenario) -> None:
    """F15: every worker may use half a GB more, and one input needs 4: it alone fails, and no worker dies."""
    workers = scenario.cluster.workers
    pids = [worker.pid for worker in workers]
    for worker in workers:
        limit(worker, (status_kib(worker.pid, "VmSize") << 10) + SPARE_BYTES)
    try:
        large = Input("allocating", struct.pack("<q", WANTED), expected="resource_exhausted")
        small = [Input("allocating", struct.pack("<q", n), expected="[0.0]") for n in (1, 1000, 10**6)]
        ids = scenario.submit_together([large, *small, *(digit(scenario.random) for _ in range(20))])
        culprit, *others = scenario.final(ids)
        assert (culprit["status"], culprit["error"]["code"]) == ("failed", "resource_exhausted")
        assert {job["status"] for job in others} == {"succeeded"}
        assert is_dead_letter(scenario, culprit["id"])
    finally:
        for worker in workers:
            limit(worker, resource.RLIM_INFINITY)
    assert [worker.pid for worker in workers] == pids


def limit(worker: ManagedWorker, bytes_: int) -> None:
    """The address space limit of a worker."""
    if worker.pid:
        resource.prlimit(worker.pid, resource.RLIMIT_AS, (bytes_, resource.RLIM_INFINITY))
