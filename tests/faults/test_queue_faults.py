"""The queue server dies, stops, loses data or fills up."""

import pytest

from tests.support.cluster.callers import digit
from tests.support.cluster.parts import ManagedGateway
from tests.support.cluster.scenario import Scenario
from tests.support.waiting import check_during, wait_until

SOON_S = 5.0  # 1.5 s of patience with the server, and what a busy machine takes


def refuses_soon(scenario: Scenario, gateway: ManagedGateway) -> bool:
    """Whether a submit is answered with 503; no other refusal will do, nor a slow one."""
    answer = scenario.caller.send(digit(scenario.random), gateway)
    assert answer.elapsed.total_seconds() < SOON_S
    assert answer.status_code in {202, 503}, answer.text
    return answer.status_code == 503


@pytest.mark.timeout(120)
def test_nothing_accepted_is_lost_when_the_server_is_killed(scenario: Scenario) -> None:
    """F7: kill -9 of the server under load, started again on its data after 3 s; no process of Jitney restarts."""
    cluster, pids = scenario.cluster, [part.pid for part in scenario.cluster.parts]
    slow = scenario.submit(24)
    with scenario.load() as load:
        wait_until(lambda: load.done >= 50, "callers get answers")
        cluster.server.kill()
        for gateway in cluster.gateways:
            assert refuses_soon(scenario, gateway)
        check_during(lambda: None, 2)
        cluster.server.start()
        done = load.done
        wait_until(lambda: load.done >= done + 50, "callers get answers again")
    assert {job["status"] for job in scenario.final(slow)} == {"succeeded"}
    wait_until(cluster.is_whole, "all parts work again")
    assert [part.pid for part in cluster.parts] == pids


def test_a_pause_shorter_than_the_lease_takes_no_job_from_its_worker(scenario: Scenario) -> None:
    """F8: the server freezes for half a lease during a batch; no lease is reclaimed afterwards."""
    _, held = scenario.full_batch()

    def shortest_ms() -> float:
        with scenario.cluster.queue() as client:
            seconds, us = client.time()
            first = client.zrange("jitney:{s00}:timers", 0, 0, withscores=True)
        return (float(first[0][1]) if first else 0.0) - float(seconds) * 1000 - float(us) / 1000

    wait_until(lambda: shortest_ms() > 1700, "all leases were just renewed")
    scenario.cluster.freeze_server()
    check_during(lambda: None, 1)
    scenario.cluster.thaw_server()
    assert {(job["status"], job["attempts"]) for job in scenario.final(held)} == {("succeeded", 1)}


@pytest.mark.timeout(120)
def test_a_frozen_server_causes_no_duplicate_and_no_phantom_jobs(scenario: Scenario) -> None:
    """F8: the server freezes under load, longer than a lease and all timeouts."""
    cluster = scenario.cluster
    with scenario.load() as load:
        wait_until(lambda: load.done >= 50, "callers get answers")
        cluster.freeze_server()
        for _ in range(2):
            for gateway in cluster.gateways:
                assert refuses_soon(scenario, gateway)
        cluster.thaw_server()
        done = load.done
        wait_until(lambda: load.done >= done + 50, "callers get answers again")


def test_reads_while_the_server_is_away_give_503(scenario: Scenario) -> None:
    """F7: a job cannot be read meanwhile, and no caller gets a 404."""
    (job_id,) = scenario.submit(1)
    scenario.cluster.server.kill()
    for gateway in scenario.cluster.gateways:
        with gateway.client() as http:
            for wait in ({}, {"wait": "5"}):
                answer = http.get(f"/v1/jobs/{job_id}", params=wait)
                assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable")
                assert answer.elapsed.total_seconds() < SOON_S
