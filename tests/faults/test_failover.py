"""The primary and the replica of the queue swap while the old primary lives and keeps its connections (F14).

`make long NAME=failover` runs ten rounds and prints what they cost.
"""

from collections.abc import Iterator

import pytest

from tests.long.faults import failover
from tests.long.faults.failover import Callers, Pair
from tests.support.receiver import Receiver
from tests.support.service import Service
from tests.support.waiting import wait_until

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[Pair, Service]]:
    with failover.running({"JITNEY_WEBHOOK_ALLOW_CIDRS": "127.0.0.1/32"}) as both:
        yield both


def test_callers_are_refused_once_at_most_and_answered_within_a_second(running: tuple[Pair, Service]) -> None:
    """Back and forth with default settings: open connections to a read-only replica were once used for ever."""
    pair, service = running
    for one in failover.rounds(pair, service, 2):
        assert one.refusals <= 1
        assert one.back_s < 5  # below 1 where the machine is free: `make long NAME=failover`


def test_jobs_unknown_to_the_new_primary_are_submitted_again_by_their_callers(running: tuple[Pair, Service]) -> None:
    """Replication is asynchronous: a job that only the old primary had is a 503, not a 404 for what was just taken."""
    pair, service = running
    with Callers(service.url).running() as callers:
        wait_until(lambda: callers.succeed_again(0), "every caller is answered", 20)
        found = failover.fail_over(callers, lambda: _promote_at_once(pair))
    pair.until_in_step()
    assert callers.wrong == []
    assert found.refusals <= 1


def _promote_at_once(pair: Pair) -> None:
    """Promote the replica as it is: unreplicated writes are lost."""
    old, new = pair.primary, pair.replica
    with old.client() as before, new.client() as after:
        after.execute_command("REPLICAOF", "NO", "ONE")
        pair.switch()
        before.execute_command("REPLICAOF", "127.0.0.1", str(new.port))


def test_webhooks_are_delivered_by_the_new_primary(running: tuple[Pair, Service]) -> None:
    """rq's own blocking connections leave the old primary too."""
    pair, service = running
    with Receiver() as receiver:
        job = {"model": "double", "webhook": receiver.url + "/before", "input": {"tensors": {"x": TENSOR}}}
        assert service.http.post("/v1/jobs", json=job).status_code == 202
        wait_until(lambda: receiver.got, "a webhook is delivered")
        pair.until_in_step()
        pair.managed()
        job["webhook"] = receiver.url + "/after"
        assert service.http.post("/v1/jobs", json=job).status_code == 202
        wait_until(lambda: len(receiver.got) > 1, "so is one after the failover", 5)


TENSOR = {"datatype": "FP32", "shape": [4], "data": [1, 2, 3, 4]}
