"""Gateways that die, or whose answers are lost, while callers wait."""

import httpx2
import pytest

from tests.faults.callers import digit, four
from tests.faults.scenario import Scenario
from tests.support.waiting import wait_until, watch

CUTS = 40
KILLS = 4
ANSWER_BYTES = 300  # less than any answer to a submit has


def test_a_submit_whose_answer_was_lost_is_one_job(scenario: Scenario) -> None:
    """F5: the connection breaks before or within the answer; the same key, sent elsewhere, gives the same job."""
    gateway, other = scenario.cluster.gateways
    proxy, door = scenario.cluster.before(gateway)
    ids = set()
    for number in range(CUTS):
        what, key = digit(scenario.random), f"cut-{number}"
        proxy.cut_after(scenario.random.randrange(ANSWER_BYTES))
        with pytest.raises(httpx2.HTTPError):
            scenario.caller.send(what, door, key)
        again = scenario.caller.send(what, other, key)
        assert (again.status_code, again.headers["idempotent-replayed"]) == (202, "true")
        ids.add(again.json()["id"])
        with pytest.raises(httpx2.HTTPError):
            scenario.caller.send(what, door)  # without a key: one job that nobody knows, which ends like any other
    assert len(ids) == CUTS


@pytest.mark.timeout(120)
def test_a_gateway_killed_in_mid_submit_loses_and_doubles_nothing(scenario: Scenario) -> None:
    """F5: kill -9 of a gateway at random moments; callers send their key again until somebody takes it."""
    with scenario.load(callers=8) as load:
        for _ in range(KILLS):
            done = load.done
            wait_until(lambda done=done: load.done >= done + 20, "callers get answers")  # type: ignore[misc]
            watch(lambda: None, scenario.random.uniform(0, 0.2))
            gateway = scenario.caller.any_gateway()
            gateway.kill()
            gateway.start()
        done = load.done
        wait_until(lambda: load.done >= done + 20, "callers get answers still")


def test_a_gateway_cut_off_from_the_queue_says_so_soon_and_recovers(scenario: Scenario) -> None:
    """F9: the way of one gateway is half open. What it sent meanwhile arrives late, and makes no second job."""
    gateway, other = scenario.cluster.gateways
    wait_until(lambda: scenario.caller.submit(digit(scenario.random), gateway), "the gateway takes jobs")
    gateway.proxy.stall()
    for number in range(3):
        what, key = four(scenario.random, "double"), f"stalled-{number}"
        refused = scenario.caller.send(what, gateway, key)
        assert (refused.status_code, refused.json()["code"]) == (503, "store_unavailable")
        assert refused.elapsed.total_seconds() < 3
        assert scenario.caller.send(what, other, key).status_code == 202
    gateway.proxy.heal()
    wait_until(scenario.cluster.is_whole, "the gateway is back")
    scenario.caller.submit(digit(scenario.random), gateway)
