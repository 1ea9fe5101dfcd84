"""Workers that are killed, frozen or cut off in the middle of their work."""

import pytest

from tests.faults.scenario import BATCH, Scenario
from tests.support.waiting import wait_until

KILLS = 5


@pytest.mark.timeout(150)
def test_a_batch_of_a_killed_worker_is_answered_once(scenario: Scenario) -> None:
    """F1: kill -9 of a worker with a full batch running, several times over."""
    for _ in range(KILLS):
        worker, held = scenario.full_batch()
        assert len(held) >= BATCH
        worker.kill()
        jobs = scenario.final(held)
        assert {job["status"] for job in jobs} == {"succeeded"}
        assert max(job["attempts"] for job in jobs) >= 2
        scenario.cluster.heal()


def test_a_worker_cut_off_from_the_queue_is_replaced_and_can_not_write_late(scenario: Scenario) -> None:
    """F9: the way of one worker is half open, longer than its leases; then everything that it sent arrives."""
    worker, held = scenario.full_batch()
    worker.proxy.stall()
    jobs = scenario.final(held)
    assert {job["status"] for job in jobs} == {"succeeded"}
    assert max(job["attempts"] for job in jobs) >= 2
    worker.proxy.heal()
    wait_until(scenario.cluster.is_whole, "the worker is back", 20)
    more = scenario.final(scenario.submit(2 * BATCH))
    assert {job["status"] for job in more} == {"succeeded"}
