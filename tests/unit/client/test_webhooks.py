"""Webhooks are verified as Standard Webhooks says."""

import json
from datetime import UTC, datetime, timedelta

import pytest
import standardwebhooks
from jitney_client import InvalidSignature, verify_webhook

KEY = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
BODY = json.dumps({"type": "job.succeeded", "data": {"id": "00"}}).encode()


def headers(age_s: float = 0, secret: str = KEY) -> dict[str, str]:
    at = datetime.now(UTC) - timedelta(seconds=age_s)
    signature = standardwebhooks.Webhook(secret).sign("msg-1", at, BODY.decode())
    return {
        "Webhook-Id": "msg-1",
        "webhook-timestamp": str(int(at.timestamp())),
        "WEBHOOK-SIGNATURE": f"v1,bm9uZQ== v1a,x {signature}",
    }


def test_a_signed_webhook_gives_its_message() -> None:
    assert verify_webhook(headers(), BODY, KEY)["type"] == "job.succeeded"
    assert verify_webhook(headers(), BODY.decode(), KEY.removeprefix("whsec_"))["data"] == {"id": "00"}
    assert verify_webhook(headers(age_s=400), BODY, KEY, tolerance_s=500)


def test_any_other_webhook_is_refused() -> None:
    other = "whsec_" + "A" * 32
    for refused, message in (
        (headers(secret=other), "not signed with this secret"),
        (headers(age_s=400), r"signed 40\d s ago, and the limit is 300 s"),
        (headers(age_s=-400), "the limit is 300 s"),
        ({**headers(), "Webhook-Id": "msg-2"}, "not signed with this secret"),
        ({**headers(), "webhook-timestamp": "now"}, "not a number of seconds"),
        ({**headers(), "WEBHOOK-SIGNATURE": "é"}, "not signed with this secret"),
        ({}, "header 'webhook-id' is missing"),
    ):
        with pytest.raises(InvalidSignature, match=message):
            verify_webhook(refused, BODY, KEY)
    with pytest.raises(InvalidSignature, match="not signed with this secret"):
        verify_webhook(headers(), BODY + b" ", KEY)
    with pytest.raises(InvalidSignature, match="the secret is not base64"):
        verify_webhook(headers(), BODY, "whsec_$")
