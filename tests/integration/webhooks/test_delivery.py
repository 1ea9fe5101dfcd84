"""The content and time of a webhook: from a job's end to a signed request."""

import json
from typing import Any

import pytest
import standardwebhooks
import svix.webhooks

from api.openapi.schemas.jobs import JobNotification
from jobs.contract.job import Outcome
from jobs.contract.lifecycle import State
from tests.integration.webhooks.conftest import IMAGE, WebhookStack
from tests.support.background_process import BackgroundProcess
from tests.support.gateways import PNG
from tests.support.receiver import ReceivedRequest, Receiver, answer
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("background_process")]


def verify(got: ReceivedRequest, secret: str) -> None:
    """Raise unless both libraries accept it."""
    read = standardwebhooks.Webhook(secret).verify(got.body, dict(got.headers))
    assert read == json.loads(got.body)
    svix.webhooks.Webhook(secret).verify(got.body, dict(got.headers))


async def test_the_end_of_a_job_is_delivered(post: WebhookStack, receiver: Receiver) -> None:
    job = post.submit(f"{receiver.url}/hook?order=17", metadata={"order": "17"})
    await post.finish()
    (got,) = receiver.wait_for(1)
    told, read = got.message, post.gateway.http.get(f"/v1/jobs/{job}").json()
    assert (got.path, got.headers["host"]) == ("/hook?order=17", f"127.0.0.1:{receiver.port}")
    assert (told["type"], told["timestamp"]) == ("job.succeeded", read["finished_at"])
    assert told["data"] == {**read, "output_url": None}
    JobNotification.model_validate_json(got.body, strict=True)
    delivery = post.ended(job, "delivered")
    assert (delivery["id"], delivery["tries"], delivery["attempts"][0]["status"]) == (got.id, 1, 204)


async def test_the_signature_verifies_with_both_libraries(post: WebhookStack, receiver: Receiver) -> None:
    post.submit(receiver.url)
    await post.finish()
    (got,) = receiver.wait_for(1)
    verify(got, post.secret())
    changed = got._replace(body=got.body.replace(b"succeeded", b"failed"))
    old = got._replace(headers={**got.headers, "webhook-timestamp": str(int(got.headers["webhook-timestamp"]) - 400)})
    for wrong in (changed, old):
        with pytest.raises(standardwebhooks.WebhookVerificationError):
            verify(wrong, post.secret())


async def test_w7_both_secrets_sign_after_a_rotation(post: WebhookStack, receiver: Receiver) -> None:
    """W7: two secrets are live, both signatures are present, and either verifies."""
    before = post.secret()
    after = post.gateway.http.post("/v1/webhooks/secret/rotate").json()
    assert (after["previous"], post.secret()) == (before, after["key"])
    assert after["key"].startswith("whsec_")
    post.submit(receiver.url)
    await post.finish()
    (got,) = receiver.wait_for(1)
    assert len(got.headers["webhook-signature"].split(" ")) == 2
    for secret in (before, after["key"]):
        verify(got, secret)


async def test_every_submit_route_accepts_a_webhook(post: WebhookStack, receiver: Receiver) -> None:
    http, url = post.gateway.http, f"{receiver.url}/"
    hook = json.dumps({"url": url + "form", "events": ["job.succeeded"]})
    files: Any = {"image": ("x.png", PNG)}
    job = {"model": "m", "input": {"image": IMAGE}, "webhook": {"url": url + "many"}}
    answers = [
        http.post("/v1/jobs", json={**job, "webhook": url + "json"}),
        http.post(
            "/v1/jobs",
            params={"model": "m", "webhook": url + "raw"},
            content=PNG,
            headers={"content-type": "image/png"},
        ),
        http.post("/v1/jobs", files=files, data={"model": "m", "webhook": hook}),
        http.post("/v1/jobs", json=[job, {**job, "webhook": "ftp://x.example"}]),
    ]
    assert [answer.status_code for answer in answers] == [202] * 4
    assert answers[3].json()["jobs"][1]["error"]["code"] == "invalid_webhook"
    await post.finish(4)
    assert {got.path for got in receiver.wait_for(4)} == {"/json", "/raw", "/form", "/many"}


@pytest.mark.parametrize(
    "webhook", [17, {}, {"url": 1}, {"uri": "https://x.example"}, {"url": "https://x.example", "events": ["done"]}]
)
async def test_an_invalid_webhook_is_refused(post: WebhookStack, webhook: Any) -> None:
    job = {"model": "m", "input": {"image": IMAGE}, "webhook": webhook}
    answer = post.gateway.http.post("/v1/jobs", json=job)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert answer.json()["allowed"]


async def test_only_the_subscribed_ends_are_delivered(post: WebhookStack, receiver: Receiver) -> None:
    unwanted = post.submit({"url": f"{receiver.url}/quiet", "events": ["job.failed", "job.expired"]})
    await post.finish()
    canceled = post.submit({"url": f"{receiver.url}/loud", "events": ["job.canceled"]})
    assert post.gateway.http.delete(f"/v1/jobs/{canceled}").status_code == 200
    (got,) = receiver.wait_for(1)
    assert (got.path, got.message["type"], got.message["data"]["error"]["code"]) == (
        "/loud",
        "job.canceled",
        "canceled",
    )
    assert post.deliveries(job=unwanted) == []


async def test_expired_and_failed_jobs_are_delivered(post: WebhookStack, receiver: Receiver) -> None:
    post.submit(receiver.url, deadline_ms=50)
    post.submit(receiver.url)
    expired = receiver.wait_for(1)[0]
    await post.worker.fail(await post.worker.claim(1))
    failed = receiver.wait_for(2)[1]
    assert [got.message["type"] for got in (expired, failed)] == ["job.expired", "job.failed"]
    assert failed.message["data"]["error"]["code"] == "inference_failed"


async def test_a_large_output_is_a_link(post: WebhookStack, receiver: Receiver) -> None:
    """Inline up to 16 kB, else a link."""
    for size in (16 * 1024 - 8, 16 * 1024):
        post.submit(f"{receiver.url}/{size}")
        (claimed,) = await post.worker.claim(1)
        body = b'{"a":"%s"}' % (b"x" * (size - 2))
        await post.worker.store.finish("w1", [Outcome(claimed.id, claimed.attempt, State.SUCCEEDED, body)])
    inline, linked = sorted(
        (got.message["data"] for got in receiver.wait_for(2)), key=lambda data: data["output"] is None
    )
    assert (len(inline["output"]["a"]), inline["output_url"]) == (16 * 1024 - 10, None)
    assert (linked["output"], linked["output_url"]) == (None, f"/v1/jobs/{linked['id']}")
    read = post.gateway.http.get(linked["output_url"]).json()
    assert len(read["output"]["a"]) == 16 * 1024 - 2


async def test_a_webhook_can_be_attached_later(post: WebhookStack, receiver: Receiver) -> None:
    """On an open job it replaces the webhook; on an ended job the delivery is made at once."""
    http, job = post.gateway.http, post.submit(f"{receiver.url}/first")
    path = f"/v1/jobs/{job}/webhook"
    assert http.put(path, json=f"{receiver.url}/second").json() == {"job": job, "state": "attached"}
    await post.finish()
    assert receiver.wait_for(1)[0].path == "/second"
    late = http.put(path, json={"url": f"{receiver.url}/late"})
    assert (late.status_code, late.json()["state"]) == (202, "waiting")
    assert receiver.wait_for(2)[1].path == "/late"
    again = http.put(path, json=f"{receiver.url}/late").json()
    assert again["id"] == late.json()["id"]
    unwanted = http.put(path, json={"url": f"{receiver.url}/never", "events": ["job.failed"]})
    assert unwanted.json() == {"job": job, "state": "unwanted"}
    wait_until(lambda: {one["state"] for one in post.deliveries(job=job)} == {"delivered"}, "all are delivered")
    assert len(receiver.got) == 2


async def test_a_refused_attachment_gives_the_reason(post: WebhookStack, receiver: Receiver) -> None:
    http, unknown = post.gateway.http, "00" + "0" * 32
    job = post.submit(None)
    await post.finish()
    assert http.put(f"/v1/jobs/{unknown}/webhook", json=receiver.url).json()["code"] == "job_not_found"
    assert http.put(f"/v1/jobs/{job}/webhook", json="http://10.0.0.1/").json()["code"] == "invalid_webhook"
    assert http.put(f"/v1/jobs/{job}/webhook", content=b"{").json()["code"] == "malformed_request"
    for nth in range(9):
        assert http.put(f"/v1/jobs/{job}/webhook", json=f"{receiver.url}/{nth}").status_code == 202
    assert http.put(f"/v1/jobs/{job}/webhook", json=f"{receiver.url}/9").json()["code"] == "too_many_webhooks"
    receiver.wait_for(9)


async def test_the_webhook_is_part_of_the_request_of_a_key(post: WebhookStack, receiver: Receiver) -> None:
    job: dict[str, Any] = {"model": "m", "input": {"image": IMAGE}, "webhook": receiver.url}
    first, again, other = (
        post.gateway.http.post("/v1/jobs", json={**job, **more}, headers={"idempotency-key": "with-webhook"})
        for more in ({}, {}, {"webhook": f"{receiver.url}/other"})
    )
    assert (again.json()["id"], other.json()["code"]) == (first.json()["id"], "idempotency_mismatch")
    await post.finish()
    receiver.wait_for(1)


async def test_the_end_of_a_replayed_dead_letter_is_delivered_too(post: WebhookStack, receiver: Receiver) -> None:
    job = post.submit(receiver.url)
    await post.worker.fail(await post.worker.claim(1))
    receiver.wait_for(1)
    again = post.gateway.http.post(f"/v1/deadletters/{job}/replay").json()["id"]
    await post.finish()
    assert receiver.wait_for(2)[1].message["data"]["id"] == again


async def test_a_delivery_is_resent_on_request(post: WebhookStack, receiver: Receiver) -> None:
    """It has the same webhook-id, so that a receiver recognises it."""
    http, job = post.gateway.http, post.submit(receiver.url)
    await post.finish()
    receiver.wait_for(1)
    delivery = post.ended(job, "delivered")
    assert http.post(delivery["urls"]["replay"]).status_code == 202
    first, second = receiver.wait_for(2)
    assert (first.id, first.body) == (second.id, second.body)
    assert post.ended(job, "delivered")["tries"] == 2
    receiver.behaves = answer(500)
    assert http.post("/v1/webhooks/replay", params={"job": job}).json() == {
        "replayed": 1,
        "more": False,
        "next_cursor": None,
    }
    assert post.ended(job, "failed")["tries"] == 2 + 4  # the schedule from its start


async def test_the_list_is_filtered_and_paged(post: WebhookStack, receiver: Receiver) -> None:
    jobs = [post.submit(f"{receiver.url}/{nth}") for nth in range(5)]
    await post.finish(5)
    receiver.wait_for(5)
    for job in jobs:
        post.ended(job, "delivered")
    http, endpoint = post.gateway.http, post.endpoint(receiver)
    assert (endpoint["waiting"], endpoint["failures"], endpoint["slow"]) == (0, 0, False)
    found: list[str] = []
    cursor = ""
    while len(found) < 5:
        page = http.get("/v1/webhooks", params={"endpoint": endpoint["id"], "limit": 2, "cursor": cursor}).json()
        found += [one["job"] for one in page["deliveries"]]
        cursor = page["next_cursor"]
    assert sorted(found) == sorted(jobs)
    assert post.deliveries(endpoint=endpoint["id"], state="failed") == []
    assert http.get(f"/v1/webhooks/{'00' + '0' * 32}-1").json()["code"] == "delivery_not_found"
    assert http.get("/v1/webhooks", params={"state": "done"}).json()["allowed"] == ["waiting", "delivered", "failed"]
    assert http.post("/v1/webhooks/replay").status_code == 422


async def test_the_response_of_a_broken_receiver_is_not_shown(
    post: WebhookStack, receiver: Receiver, background_process: BackgroundProcess
) -> None:
    receiver.behaves = answer(500, {"x-inside": "tell-tale"}, b"tell-tale")
    job = post.submit(receiver.url)
    await post.finish()
    shown = post.ended(job, "failed")
    assert [attempt["status"] for attempt in shown["attempts"]] == [500] * 4
    assert "tell-tale" not in json.dumps(shown) + background_process.log()


async def test_the_metrics_count_deliveries(post: WebhookStack, receiver: Receiver) -> None:
    job = post.submit(receiver.url)
    await post.finish()
    post.ended(job, "delivered")
    text = post.gateway.http.get("/metrics").text
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if line.startswith("jitney_webhook"))
    assert float(values['jitney_webhook_deliveries_total{outcome="delivered"}']) >= 1
    assert float(values['jitney_webhook_attempts_total{verdict="delivered"}']) >= 1
    assert float(values["jitney_webhooks_waiting"]) == 0
    assert float(values["jitney_webhook_first_attempt_seconds_count"]) >= 1
