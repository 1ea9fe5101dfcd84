"""A delivery that cannot be made ends as a failed one, and is not retried for ever."""

from tests.integration.webhooks.conftest import WebhookStack
from tests.support.background_process import BackgroundProcess
from tests.support.receiver import Receiver
from tests.support.servers import Server


async def test_a_delivery_that_cannot_be_read_ends_with_the_reason(
    queue: Server, post: WebhookStack, receiver: Receiver
) -> None:
    """It used to be restarted with each lease, with a traceback each time, and never ended."""
    job = post.submit(f"{receiver.url}/hook")
    await post.finish()
    with queue.client() as client:
        (record,) = client.scan_iter("jitney:{s00}:delivery:*")
        client.hdel(record, "event")
    with BackgroundProcess(queue) as background_process:
        delivery = post.ended(job, "failed")
        assert "internal error" in delivery["attempts"][-1]["error"]
        assert background_process.log().count("Traceback") == 1
