"""Signs webhooks as Standard Webhooks defines: HMAC-SHA256 over `id.timestamp.body`, one signature per valid secret."""

import base64
import hashlib
import hmac
from collections.abc import Sequence

from jobs.webhooks.signing_secrets import SECRET_PREFIX


def sign_payload(secrets: Sequence[str], webhook_id: str, timestamp_s: int, body: bytes) -> str:
    """Return the signatures with all secrets, so that a receiver with any one of them can verify."""
    text = f"{webhook_id}.{timestamp_s}.".encode() + body
    keys = [base64.b64decode(secret.removeprefix(SECRET_PREFIX)) for secret in secrets]
    return " ".join(f"v1,{base64.b64encode(hmac.digest(key, text, hashlib.sha256)).decode()}" for key in keys)
