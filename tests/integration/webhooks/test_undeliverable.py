"""A delivery that cannot be made ends, as one that fails: it is not tried for ever."""

from tests.integration.webhooks.conftest import WebhookStack
from tests.support.background_process import BackgroundProcess
from tests.support.receiver import Receiver
from tests.support.servers import Server


async def test_a_delivery_that_cannot_be_read_ends_with_the_reason(
    queue: Server, post: WebhookStack, receiver: Receiver
) -> None:
    """It was begun anew with each flight, with a traceback each time, and never ended."""
    job = post.submit(f"{receiver.url}/hook")
    await post.finish()
    with queue.client() as client:
        (record,) = client.scan_iter("jitney:{s00}:delivery:*")
        client.hdel(record, "event")
    with BackgroundProcess(queue) as deliver:
        delivery = post.ended(job, "failed")
        assert "internal error" in delivery["attempts"][-1]["error"]
        assert deliver.log().count("Traceback") == 1
