"""Headers of a webhook, such as a token; redirects are logged and not followed."""

import json
from typing import Any

import pytest

from tests.integration.webhooks.conftest import IMAGE, WebhookStack
from tests.support.background_process import BackgroundProcess
from tests.support.receiver import Receiver, answer

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("background_process")]

TOKEN = "Bearer s3cr3t-t0k3n"  # noqa: S105 (of nobody)


def hook(receiver: Receiver, **headers: str) -> dict[str, Any]:
    return {"url": receiver.url, "headers": headers}


async def test_webhook_headers_are_sent_with_every_attempt_and_shown_nowhere(
    post: WebhookStack, receiver: Receiver, background_process: BackgroundProcess
) -> None:
    receiver.behaves = answer(500)
    job = post.submit(hook(receiver, Authorization=TOKEN, **{"X-Team": "vision lab"}))
    shown = post.gateway.http.get(f"/v1/jobs/{job}").text
    await post.finish()
    receiver.wait_for(2)
    receiver.behaves = answer(204)
    delivery = post.ended(job, "delivered")
    for got in receiver.got:
        assert (got.headers["authorization"], got.headers["x-team"]) == (TOKEN, "vision lab")
        assert got.headers["webhook-signature"].startswith("v1,")
    assert post.gateway.http.post(delivery["urls"]["replay"]).status_code == 202
    again = receiver.wait_for(len(receiver.got) + 1)[-1]
    assert again.headers["authorization"] == TOKEN
    shown += json.dumps(post.deliveries()) + json.dumps(delivery) + post.gateway.http.get(f"/v1/jobs/{job}").text
    shown += post.gateway.http.get("/v1/jobs").text + post.gateway.http.get("/v1/webhooks/endpoints").text
    assert "s3cr3t" not in shown + background_process.log() + json.dumps([got.message for got in receiver.got])


async def test_headers_can_be_attached_later_and_live_as_long_as_the_webhook(
    post: WebhookStack, receiver: Receiver
) -> None:
    job = post.submit(hook(receiver, authorization="Bearer first"))
    path = f"/v1/jobs/{job}/webhook"
    assert post.gateway.http.put(path, json=hook(receiver, authorization=TOKEN)).json()["state"] == "attached"
    await post.finish()
    assert receiver.wait_for(1)[0].headers["authorization"] == TOKEN
    with post.gateway.server.client() as client:
        assert client.hget(f"jitney:{{s00}}:job:{job}", "webhook") is None
    late = post.gateway.http.put(path, json={"url": f"{receiver.url}/late", "headers": {"x-key": "k"}})
    assert late.status_code == 202
    assert receiver.wait_for(2)[1].headers["x-key"] == "k"


async def test_a_replayed_dead_letter_sends_the_headers_too(post: WebhookStack, receiver: Receiver) -> None:
    job = post.submit(hook(receiver, authorization=TOKEN))
    await post.worker.fail(await post.worker.claim(1))
    receiver.wait_for(1)
    letter = post.gateway.http.get(f"/v1/deadletters/{job}")
    assert "s3cr3t" not in letter.text
    assert post.gateway.http.post(f"/v1/deadletters/{job}/replay").status_code == 202
    await post.finish()
    assert receiver.wait_for(2)[1].headers["authorization"] == TOKEN


async def test_different_headers_under_the_same_key_are_another_request(post: WebhookStack, receiver: Receiver) -> None:
    job: dict[str, Any] = {"model": "m", "input": {"image": IMAGE}}
    first, again, other = (
        post.gateway.http.post(
            "/v1/jobs", json={**job, "webhook": hook(receiver, **headers)}, headers={"idempotency-key": "of-headers"}
        )
        for headers in ({"X-A": "1", "X-B": "2"}, {"x-b": "2", "x-a": "1"}, {"x-a": "1", "x-b": "3"})
    )
    assert (again.json()["id"], other.json()["code"]) == (first.json()["id"], "idempotency_mismatch")
    await post.finish()
    receiver.wait_for(1)


@pytest.mark.parametrize(
    "headers",
    [
        *({name: "x"} for name in ("Host", "content-length", "Content-Type", "webhook-id", "Webhook-Signature", "TE")),
        *({name: "x"} for name in ("Connection", "transfer-encoding", "Proxy-Authorization", "Upgrade", "user-agent")),
        *({name: "x"} for name in ("", "a b", "a:b", "a\r\nb", "é", "x" * 65)),
        *({"x-a": value} for value in ("", " a", "a ", "a\r\nwebhook-id: 1", "a\x00", "é", "x" * 2049, 1, None, ["a"])),
        {f"x-{nth}": "a" for nth in range(11)},
        {f"x-{nth}": "a" * 1500 for nth in range(3)},
        {"x-a": "1", "X-A": "2"},
        ["x-a"],
        "x-a: 1",
    ],
)
async def test_forbidden_headers_are_refused(post: WebhookStack, headers: Any) -> None:
    webhook = {"url": "http://127.0.0.1:9/", "headers": headers}
    job = {"model": "m", "input": {"image": IMAGE}, "webhook": webhook}
    refused = post.gateway.http.post("/v1/jobs", json=job)
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_request")
    assert "webhook.headers" in refused.json()["detail"]


async def test_a_refusal_does_not_repeat_the_value(post: WebhookStack) -> None:
    webhook = {"url": "http://127.0.0.1:9/", "headers": {"authorization": f" {TOKEN}"}}
    job = {"model": "m", "input": {"image": IMAGE}, "webhook": webhook}
    assert "s3cr3t" not in post.gateway.http.post("/v1/jobs", json=job).text


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_logged_with_its_target(post: WebhookStack, receiver: Receiver, status: int) -> None:
    """Regression: the log only said `status 302`, without the reason."""
    receiver.behaves = answer(status, {"location": f"{receiver.url}/moved\x80"})
    job = post.submit(receiver.url)
    await post.finish()
    attempts = post.ended(job, "failed")["attempts"]
    assert {attempt["status"] for attempt in attempts} == {status}
    assert {attempt["error"] for attempt in attempts} == {"redirects are not followed"}
    assert {attempt["location"] for attempt in attempts} == {f"{receiver.url}/moved??"}
    assert {got.path for got in receiver.got} == {"/"}
