"""W1, W5, W8 with a background process of the test's own: killed, stopped, and with other settings."""

import signal
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.integration.webhooks.conftest import WebhookStack
from tests.support.background_process import BackgroundProcess
from tests.support.receiver import Receiver, answer, hang
from tests.support.servers import Server, free_port
from tests.support.waiting import wait_until

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def no_deliveries_of_other_tests(queue: Server) -> None:
    """Limits of a tenant count open deliveries, also those that a killed process held: their leases last a minute."""
    with queue.client() as client:
        client.flushall()


async def test_w1_eight_dead_endpoints_do_not_delay_the_others(post: WebhookStack, queue: Server) -> None:
    """W1: hanging endpoints are separated from the others, whose deliveries arrive within a second."""
    env = {"JITNEY_WEBHOOK_TIMEOUT_S": "10", "JITNEY_WEBHOOK_LEASE_S": "20", "JITNEY_WEBHOOK_SCHEDULE": "0,60"}
    with BackgroundProcess(queue, env), ExitStack() as held:
        dead = [held.enter_context(Receiver(hang)) for _ in range(8)]
        well = held.enter_context(Receiver())
        for _ in range(4):
            for receiver in dead:
                post.submit(receiver.url)
        await post.finish(32)
        wait_until(lambda: all(len(receiver.got) == 1 for receiver in dead), "each of the dead has one attempt")
        for nth in range(1, 41):
            job = post.submit(well.url)
            await post.finish()
            well.wait_for(nth, 1)
            post.ended(job, "delivered")
        assert [len(receiver.got) for receiver in dead] == [1] * 8


async def test_w5_a_process_killed_before_it_recorded_a_delivery_resends_it(post: WebhookStack, queue: Server) -> None:
    """W5: the webhook-id is the same; a receiver that deduplicates sees one."""
    with BackgroundProcess(queue) as background_process, Receiver(hang) as receiver:
        job = post.submit(receiver.url)
        await post.finish()
        receiver.wait_for(1)
        background_process.kill()
        receiver.behaves = answer(200)
        background_process.start()
        first, second = receiver.wait_for(2)[:2]
        assert (first.id, first.body) == (second.id, second.body)
        assert post.ended(job, "delivered")["tries"] == 1


async def test_deliveries_continue_when_the_queue_is_back(
    post: WebhookStack, queue: Server, receiver: Receiver
) -> None:
    """Deliveries written before are sent afterwards, by the same process, and soon."""
    with BackgroundProcess(queue) as background_process:
        first = post.submit(receiver.url)
        await post.finish()
        post.ended(first, "delivered")
        waits = post.submit(receiver.url)
        queue.kill()
        queue.start()
        await post.worker.connection.command("PING")  # the old connection is noticed to be gone
        await post.finish()
        post.ended(waits, "delivered", 5)
        assert len(receiver.got) == 2
        assert background_process.process.poll() is None


async def test_a_stopping_process_gives_back_its_deliveries(post: WebhookStack, queue: Server) -> None:
    env = {"JITNEY_WEBHOOK_TIMEOUT_S": "20", "JITNEY_WEBHOOK_LEASE_S": "60", "JITNEY_BACKGROUND_DRAIN_S": "0.2"}
    with BackgroundProcess(queue, env) as background_process, Receiver(hang) as receiver:
        job = post.submit(receiver.url)
        await post.finish()
        receiver.wait_for(1)
        assert background_process.stop() == 0
        receiver.behaves = answer(200)
        background_process.start()
        receiver.wait_for(2)  # at once, though the flight would have lasted a minute
        assert post.ended(job, "delivered")["tries"] == 1


@pytest.fixture
def impatient(queue: Server) -> Iterator[BackgroundProcess]:
    env = {
        "JITNEY_WEBHOOK_SCHEDULE": "0,0.2,0.2",
        "JITNEY_WEBHOOK_JITTER": "0",
        "JITNEY_WEBHOOK_PAUSE_AFTER_S": "0.3",
        "JITNEY_WEBHOOK_PAUSE_S": "2",
    }
    with BackgroundProcess(queue, {**env, "JITNEY_WEBHOOK_BACKLOG": "50"}) as process:
        yield process


async def test_w8_an_endpoint_that_fails_for_long_is_paused(
    post: WebhookStack, receiver: Receiver, impatient: BackgroundProcess
) -> None:
    """W8: the endpoint is paused, and new deliveries fail at once; all are listed and can be resent."""
    receiver.behaves = answer(500)
    for _ in range(4):
        post.submit(receiver.url)
    await post.finish(4)
    wait_until(lambda: post.endpoint(receiver)["paused_until"], "the endpoint is paused")
    before = len(receiver.got)
    late = post.submit(receiver.url)
    await post.finish()
    shown = post.ended(late, "failed")
    assert (shown["attempts"][-1]["error"], len(receiver.got)) == (
        "the endpoint is paused: it has failed for too long",
        before,
    )
    wait_until(lambda: _is_idle(post, receiver), "what was under way has failed too")
    receiver.behaves = answer(200)
    failed = post.gateway.http.post("/v1/webhooks/replay", params={"endpoint": shown["endpoint"], "state": "failed"})
    assert failed.json()["replayed"] >= 1
    assert post.ended(late, "delivered")["tries"] == 2
    wait_until(lambda: post.endpoint(receiver)["waiting"] == 0, "all is delivered")
    assert post.endpoint(receiver)["paused_until"] is None
    assert post.deliveries(endpoint=shown["endpoint"], state="failed") == []
    lines = [line for line in impatient.log().splitlines() if receiver.url in line]
    said = [line.split(": ")[0].partition(" of tenant ")[2].partition(" ")[2] for line in lines]
    assert said == ["fails", "has failed for long and is paused", "works again"]


def _is_idle(post: WebhookStack, receiver: Receiver) -> bool:
    endpoint = post.endpoint(receiver)
    return bool(endpoint["waiting"] + endpoint["under_way"] == 0)


@pytest.mark.usefixtures("impatient")
async def test_w8_a_paused_endpoint_is_tried_again_by_itself(post: WebhookStack, receiver: Receiver) -> None:
    receiver.behaves = answer(500)
    post.submit(receiver.url)
    await post.finish()
    wait_until(lambda: len(receiver.got) == 3, "the schedule is used up")
    wait_until(lambda: post.endpoint(receiver)["paused_until"], "the endpoint is paused")
    receiver.behaves = answer(200)

    def comes_through() -> bool:
        job = post.submit(receiver.url)
        post.gateway.http.delete(f"/v1/jobs/{job}")
        wait_until(lambda: post.deliveries(job=job)[0]["state"] != "waiting", "it ends either way")
        return bool(post.deliveries(job=job)[0]["state"] == "delivered")

    wait_until(comes_through, "one is let through after the pause")


async def test_w8_the_queue_of_an_endpoint_is_bounded(post: WebhookStack, queue: Server) -> None:
    """W8: a flood for a receiver that is away; the oldest beyond the limit fail, and are listed."""
    with BackgroundProcess(queue, {"JITNEY_WEBHOOK_SCHEDULE": "0,60", "JITNEY_WEBHOOK_BACKLOG": "50"}):
        url = f"http://127.0.0.1:{free_port()}"
        jobs = [post.submit(url) for _ in range(200)]
        for _ in range(4):
            await post.finish(50)

        def states() -> Counter[str]:
            found = [one for job in jobs for one in post.deliveries(job=job)]
            return Counter(one["state"] for one in found)

        wait_until(lambda: states()["failed"] == 150, "150 have failed", 20)
        assert states() == {"failed": 150, "waiting": 50}
        errors = Counter(
            one["attempts"][-1]["error"] for job in jobs for one in post.deliveries(job=job, state="failed")
        )
        assert set(errors) == {"too many wait for this endpoint, and this was the oldest"}


async def test_the_deliveries_of_a_tenant_are_bounded_over_all_its_endpoints(post: WebhookStack, queue: Server) -> None:
    """A tenant may name any number of origins: a bound for each endpoint alone is not enough."""
    env = {"JITNEY_WEBHOOK_SCHEDULE": "0,60", "JITNEY_WEBHOOK_TENANT_BACKLOG": "20", "JITNEY_WEBHOOK_LOG": "30"}
    with ExitStack() as held:
        deaf = [
            held.enter_context(socket.socket()) for _ in range(100)
        ]  # bound, and they do not listen: nobody else may
        for one in deaf:
            one.bind(("127.0.0.1", 0))
        process = held.enter_context(BackgroundProcess(queue, env))
        jobs = [post.submit(f"http://127.0.0.1:{one.getsockname()[1]}") for one in deaf]
        for _ in range(10):
            await post.finish(10)

        def states() -> Counter[str]:
            return Counter(f"{each['state']}, {each['tries']} tries" for each in post.deliveries(limit="100"))

        try:
            wait_until(lambda: len(post.deliveries(state="waiting", limit="100")) == 20, "20 are left to wait", 40)
        except AssertionError as error:
            process.process.send_signal(signal.SIGABRT)  # writes what its threads do
            process.process.wait()
            raise AssertionError(f"{error}; {states()}; {process.log()[-6000:]}") from error
        kept = {one["job"] for one in post.deliveries(state="waiting", limit="100")}
        assert kept <= {*jobs[-30:]}, [jobs.index(job) for job in kept]  # those of one millisecond have no order
        failed = post.deliveries(state="failed", limit="100")
        assert len(failed) == 30
        assert "too many deliveries of this tenant" in " ".join(one["attempts"][-1]["error"] for one in failed)
        endpoints = post.gateway.http.get("/v1/webhooks/endpoints").json()["endpoints"]
        assert 20 <= len(endpoints) <= 30 + 20


async def test_old_deliveries_are_removed_for_new_ones(post: WebhookStack, queue: Server, receiver: Receiver) -> None:
    """Only ended ones are removed: those waiting for a dead endpoint stay, and block no others."""
    with BackgroundProcess(queue, {"JITNEY_WEBHOOK_LOG": "10", "JITNEY_WEBHOOK_SCHEDULE": "0,60"}):
        away = post.submit(f"http://127.0.0.1:{free_port()}")
        await post.finish()
        wait_until(lambda: post.deliveries(job=away)[0]["tries"] == 1, "the first attempt failed")
        jobs = [post.submit(receiver.url) for _ in range(30)]
        await post.finish(30)
        receiver.wait_for(30)
        wait_until(lambda: len(post.deliveries(limit="100")) == 11, "10 are kept, and the one that waits")
        assert post.deliveries(job=away)[0]["state"] == "waiting"
        assert sum(len(post.deliveries(job=job)) for job in jobs) == 10
