"""What a receiver is told, and when: from a job's end to a signed request."""

import json

import pytest
import standardwebhooks
import svix.webhooks

from tests.support.receiver import Receiver
from tests.webhooks.conftest import Post

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("deliver")]


async def test_a_jobs_end_is_told(post: Post, receiver: Receiver) -> None:
    job = post.submit(f"{receiver.url}/hook?order=17", metadata={"order": "17"})
    await post.finish()
    (got,) = receiver.wait_for(1)
    told, read = got.message, post.gateway.http.get(f"/v1/jobs/{job}").json()
    assert (got.path, got.headers["host"]) == ("/hook?order=17", f"127.0.0.1:{receiver.port}")
    assert (told["type"], told["timestamp"]) == ("job.succeeded", read["finished_at"])
    assert told["data"] == {**read, "output_url": None}
    delivery = post.ended(job, "delivered")
    assert (delivery["id"], delivery["tries"], delivery["attempts"][0]["status"]) == (got.id, 1, 204)


async def test_the_signature_verifies_with_both_libraries(post: Post, receiver: Receiver) -> None:
    post.submit(receiver.url)
    await post.finish()
    (got,) = receiver.wait_for(1)
    for library in (standardwebhooks.Webhook, svix.webhooks.Webhook):
        assert library(post.secret()).verify(got.body, dict(got.headers)) == json.loads(got.body)
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        standardwebhooks.Webhook(post.secret()).verify(got.body.replace(b"succeeded", b"failed"), dict(got.headers))
