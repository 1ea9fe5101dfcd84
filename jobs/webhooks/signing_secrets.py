"""The secrets that webhooks are signed with; and webhooks that a job gets after its submit."""

import base64
import secrets
from typing import Final

from jobs.contract.errors import Refused
from jobs.contract.ids import shard_of
from jobs.redis_client import keys
from jobs.redis_client.client import RedisClient
from jobs.store.job_store import JobStore

SECRET_PREFIX: Final = "whsec_"  # noqa: S105 (what all of them begin with)
_SECRET_BYTES: Final = 32


async def attach_webhook(store: JobStore, job_id: str, tenant: str, webhook: str) -> tuple[str, str]:
    """Give a job a webhook; gives what became of it, 'open', 'posted' or 'unwanted', and the delivery that was made.

    Raises Refused where the job is not this tenant's, or has too many.
    """
    if shard_of(job_id) >= store.settings.shards:
        raise store.unknown(job_id)
    how, delivery = await store.run("webhook/attach", keys.root(shard_of(job_id)), job_id, tenant, webhook)
    if how == b"unknown":
        raise store.unknown(job_id)
    if how == b"many":
        raise Refused("too_many_webhooks", f"job {job_id} has 9 webhooks, the most that one may have")
    return how.decode(), delivery.decode()


async def read_secrets(connection: RedisClient, tenant: str) -> list[str]:
    """Read what to sign with, the newest first; the first question makes the first secret."""
    held = await connection.script("webhook/secret", keys.secret(tenant), new_secret(), "", 0)
    return [secret.decode() for secret in held]


async def rotate_secret(connection: RedisClient, tenant: str, overlap_s: float) -> list[str]:
    """Put a new secret in place; the old one signs beside it for so long."""
    held = await connection.script("webhook/secret", keys.secret(tenant), new_secret(), "1", int(overlap_s * 1000))
    return [secret.decode() for secret in held]


def new_secret() -> str:
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()
