"""Signing secrets of webhooks: read and rotate; also attaches a webhook to an existing job."""

import base64
import secrets
from typing import Final, Literal

from jobs.contract.errors import Refused
from jobs.contract.ids import shard_of
from jobs.redis_client import keys
from jobs.redis_client.client import RedisClient
from jobs.store.job_store import JobStore

SECRET_PREFIX: Final = "whsec_"  # noqa: S105 (a prefix, not a secret)
_SECRET_BYTES: Final = 32


async def attach_webhook(store: JobStore, job_id: str, tenant: str, webhook: str) -> tuple[str, str]:
    """Attach a webhook to a job. Return the result ('open', 'posted' or 'unwanted') and the id of the delivery made.

    Raises Refused if the job is not this tenant's, or has too many webhooks.
    """
    if shard_of(job_id) >= store.settings.shards:
        raise store.unknown(job_id)
    status, delivery = await store.run("webhook/attach", keys.root(shard_of(job_id)), job_id, tenant, webhook)
    if status == b"unknown":
        raise store.unknown(job_id)
    if status == b"many":
        raise Refused("too_many_webhooks", f"job {job_id} has 9 webhooks, which is the limit")
    return status.decode(), delivery.decode()


async def read_secrets(connection: RedisClient, tenant: str) -> list[str]:
    """Return the signing secrets, newest first; the first call creates one."""
    return await _secrets(connection, tenant, "", 0)


async def rotate_secret(connection: RedisClient, tenant: str, overlap_s: float) -> list[str]:
    """Create a new secret; the old one also signs for `overlap_s` seconds. Return all, newest first."""
    return await _secrets(connection, tenant, "1", int(overlap_s * 1000))


async def _secrets(connection: RedisClient, tenant: str, rotate: Literal["", "1"], overlap_ms: int) -> list[str]:
    stored = await connection.script("webhook/secret", keys.secret(tenant), new_secret(), rotate, overlap_ms)
    return [secret.decode() for secret in stored]


def new_secret() -> str:
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()
