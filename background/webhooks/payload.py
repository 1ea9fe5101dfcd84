"""Builds and signs webhook payloads: a bulk job, or a finished job with its output if it is small, else with a link.

Signatures are those of Standard Webhooks: HMAC-SHA256 over `id.timestamp.body`, one for each valid secret.
"""

import base64
import hashlib
import hmac
from collections.abc import Sequence

import orjson

from jobs.contract.job_view import format_timestamp, job_view
from jobs.webhooks.outbox import Attempt
from jobs.webhooks.signing_secrets import SECRET_PREFIX


def build_payload(attempt: Attempt, public_url: str) -> bytes:
    """Return the payload; every attempt of a delivery has the same bytes."""
    job = attempt.job
    if job is None:
        return attempt.payload
    link = f"{public_url.rstrip('/')}/v1/jobs/{job.id}" if attempt.output_bytes and job.output is None else None
    data = {**job_view(job), "output_url": link}
    return orjson.dumps({"type": f"job.{attempt.event}", "timestamp": format_timestamp(job.finished_us), "data": data})


def sign_payload(secrets: Sequence[str], webhook_id: str, timestamp_s: int, body: bytes) -> str:
    """Return the signatures with all secrets, so that a receiver with any one of them can verify."""
    text = f"{webhook_id}.{timestamp_s}.".encode() + body
    keys = [base64.b64decode(secret.removeprefix(SECRET_PREFIX)) for secret in secrets]
    return " ".join(f"v1,{base64.b64encode(hmac.digest(key, text, hashlib.sha256)).decode()}" for key in keys)
