"""Verifies the signatures of webhooks, which follow Standard Webhooks."""

import hmac
import json
import time
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Mapping
from typing import Any

from jitney_client.errors import InvalidSignature


def verify_webhook(
    headers: Mapping[str, str], body: bytes | str, secret: str, *, tolerance_s: float = 300
) -> dict[str, Any]:
    """Return the message of a webhook. Raises InvalidSignature unless it is signed with the secret and recent.

    `body`: the bytes as they came. `secret`: as `/v1/webhooks/secret` gives it. Handle each header `webhook-id` once.
    """
    found = {name.lower(): value for name, value in headers.items()}
    try:
        message_id, timestamp = found["webhook-id"], found["webhook-timestamp"]
        signatures = found["webhook-signature"].split(" ")
        age_s = time.time() - int(timestamp)
        key = b64decode(secret.removeprefix("whsec_"), validate=True)
    except KeyError as error:
        raise InvalidSignature(f"the header {error} is missing") from error
    except Base64Error as error:
        raise InvalidSignature("the secret is not base64 with the prefix whsec_") from error
    except ValueError as error:
        raise InvalidSignature("the header webhook-timestamp is not a number of seconds") from error
    if abs(age_s) > tolerance_s:
        raise InvalidSignature(f"the webhook was signed {age_s:.0f} s ago, and the limit is {tolerance_s:g} s")
    data = body.encode() if isinstance(body, str) else body
    signed = f"{message_id}.{timestamp}.".encode() + data
    expected = b"v1," + b64encode(hmac.digest(key, signed, "sha256"))
    if not any(hmac.compare_digest(expected, signature.encode()) for signature in signatures):
        raise InvalidSignature("the webhook is not signed with this secret")
    message: dict[str, Any] = json.loads(data)
    return message
