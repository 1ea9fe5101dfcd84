"""What a caller asks of a webhook, an address and which ends, at submit or later; and the secret it is signed with."""

import base64
import secrets
from collections.abc import Mapping
from typing import Any, Final

from jobs import keys
from jobs.connection import Connection
from jobs.errors import Refused
from jobs.guard import Guard
from jobs.ids import shard_of
from jobs.lifecycle import FINAL, State
from jobs.store import JobStore

# The type of the message → the end it tells of.
EVENTS: Final = {f"job.{state.value}": state for state in State if state in FINAL}
FIELDS: Final = ("url", "events")
SECRET_PREFIX: Final = "whsec_"  # noqa: S105 (what all of them begin with)
_SECRET_BYTES: Final = 32


def read(webhook: Any, guard: Guard) -> str:
    """Read a webhook, a URL or an object of `url` and `events`, into what a job's record holds. Raises Refused."""
    given: Any = {"url": webhook} if isinstance(webhook, str) else webhook
    if not isinstance(given, Mapping) or not set(given) <= set(FIELDS) or not isinstance(given.get("url"), str):
        message = 'field "webhook" must be a URL, or an object of url and events'
        raise Refused("invalid_request", message, allowed=list(FIELDS))
    events = given.get("events", [])
    if not isinstance(events, list) or not all(isinstance(event, str) and event in EVENTS for event in events):
        message = 'field "webhook.events" must be a list of the allowed words; left out, all are told'
        raise Refused("invalid_request", message, allowed=list(EVENTS))
    target = guard.target(given["url"])
    return " ".join([target.origin, target.url, *sorted({EVENTS[event] for event in events})])


async def attach(store: JobStore, job_id: str, tenant: str, webhook: str) -> tuple[str, str]:
    """Give a job a webhook; gives what became of it, 'open', 'posted' or 'unwanted', and the delivery that was made.

    Raises Refused where the job is not this tenant's, or has too many.
    """
    if shard_of(job_id) >= store.settings.shards:
        raise store.unknown(job_id)
    how, delivery = await store.run("attach", keys.root(shard_of(job_id)), job_id, tenant, webhook)
    if how == b"unknown":
        raise store.unknown(job_id)
    if how == b"many":
        raise Refused("too_many_webhooks", f"job {job_id} has 9 webhooks, the most that one may have")
    return how.decode(), delivery.decode()


async def secrets_of(connection: Connection, tenant: str) -> list[str]:
    """Read what to sign with, the newest first; the first question makes the first secret."""
    held = await connection.script("secret", keys.secret(tenant), new_secret(), "", 0)
    return [secret.decode() for secret in held]


async def rotate(connection: Connection, tenant: str, overlap_s: float) -> list[str]:
    """Put a new secret in place; the old one signs beside it for so long."""
    held = await connection.script("secret", keys.secret(tenant), new_secret(), "1", int(overlap_s * 1000))
    return [secret.decode() for secret in held]


def new_secret() -> str:
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()
