"""W1, W2, W6: receivers that fail in every way, and functions that rq must not run."""

from importlib import import_module

import pytest

from tests.integration.webhooks.conftest import WebhookStack
from tests.support.background_process import BackgroundProcess
from tests.support.receiver import Behaviour, ReceivedRequest, Receiver, Writer, answer, drip, flood, hang, reset
from tests.support.servers import Server
from tests.support.waiting import wait_until

pytestmark = pytest.mark.anyio

MODES: dict[str, Behaviour] = {"hang": hang, "drip": drip, "reset": reset, "error": answer(500)}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.usefixtures("background_process")
async def test_w1_a_failing_receiver_is_retried_on_schedule(post: WebhookStack, receiver: Receiver, mode: str) -> None:
    """W1: total time limit, the schedule, one webhook-id, a timestamp of each attempt's own."""
    receiver.behaves = MODES[mode]
    job = post.submit(receiver.url)
    await post.finish()
    delivery = post.ended(job, "failed", 20)
    assert {got.id for got in receiver.got} == {delivery["id"]}
    assert (len(receiver.got), delivery["tries"]) == (4, 4)
    assert all(attempt["ms"] < 1500 for attempt in delivery["attempts"])
    gaps = [later.at_s - earlier.at_s for earlier, later in zip(receiver.got, receiver.got[1:], strict=False)]
    slept = [0.2, 0.4, 0.4]
    assert all(gap >= 0.8 * wait for gap, wait in zip(gaps, slept, strict=True)), gaps
    assert post.endpoint(receiver)["slow"] == (mode in {"hang", "drip"})


@pytest.mark.usefixtures("background_process")
async def test_w1_a_response_of_a_gigabyte_is_not_read(
    post: WebhookStack, receiver: Receiver, background_process: BackgroundProcess
) -> None:
    receiver.behaves = flood
    job = post.submit(receiver.url)
    before = _resident_kib(background_process)
    await post.finish()
    assert post.ended(job, "delivered")["attempts"][0]["ms"] < 1000
    assert _resident_kib(background_process) - before < 8 << 10


def _resident_kib(background_process: BackgroundProcess) -> int:
    with open(f"/proc/{background_process.process.pid}/status") as status:  # noqa: PTH123
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))


@pytest.mark.usefixtures("background_process")
@pytest.mark.parametrize("target", ["http://169.254.169.254/latest/meta-data", "http://127.0.0.1:{port}/inside"])
async def test_w2_redirects_are_failures_and_never_followed(
    post: WebhookStack, receiver: Receiver, target: str
) -> None:
    """W2: a listener on loopback proves it."""
    with Receiver() as inside:
        receiver.behaves = answer(302, {"location": target.format(port=inside.port)})
        job = post.submit(receiver.url)
        await post.finish()
        delivery = post.ended(job, "failed")
        assert [attempt["status"] for attempt in delivery["attempts"]] == [302] * 4
        assert inside.connections == 0


@pytest.mark.usefixtures("background_process")
@pytest.mark.parametrize("end", [answer(410), answer(503, {"webhook-delivery": "abort-message"})], ids=["410", "abort"])
async def test_w6_a_receiver_can_stop_its_deliveries(post: WebhookStack, receiver: Receiver, end: Behaviour) -> None:
    """W6: 410, and `webhook-delivery: abort-message`."""
    receiver.behaves = end
    job = post.submit(receiver.url)
    await post.finish()
    delivery = post.ended(job, "failed")
    assert (delivery["tries"], len(receiver.got)) == (1, 1)
    assert delivery["attempts"][0]["error"] == "the receiver refused further attempts"


@pytest.mark.usefixtures("background_process")
async def test_w6_retry_after_applies_to_the_whole_endpoint(post: WebhookStack, receiver: Receiver) -> None:
    async def busy_once(got: ReceivedRequest, writer: Writer) -> None:
        first = len(receiver.got) == 1
        await answer(429, {"retry-after": "2"})(got, writer) if first else await answer(200)(got, writer)

    receiver.behaves = busy_once
    jobs = [post.submit(f"{receiver.url}/{nth}") for nth in range(3)]
    await post.finish(3)
    first, *others = receiver.wait_for(4)
    assert min(got.at_s for got in others) - first.at_s >= 1.9
    for job in jobs:
        post.ended(job, "delivered")


@pytest.mark.usefixtures("background_process")
async def test_rq_runs_only_delivery_attempts(post: WebhookStack, queue: Server, receiver: Receiver) -> None:
    """Write access to the queue server is not enough to run a chosen function."""
    with queue.client() as client:
        rq_pool = import_module("background.rq_pool")  # rq reads its prefix when it is imported: by this one
        line = rq_pool.rq.Queue("deliveries-fast", connection=client, serializer=rq_pool.JSONSerializer)
        assert line.key.startswith("jitney:{rq}:")
        bad = line.enqueue_call("os.mkdir", args=[f"{queue.folder}/made"], failure_ttl=60)
        wait_until(lambda: bad.get_status() == "failed", "it failed")
        assert not (queue.folder / "made").exists()
    job = post.submit(receiver.url)
    await post.finish()
    post.ended(job, "delivered")
