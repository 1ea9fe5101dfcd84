"""Log of webhook deliveries: lists and reads deliveries and endpoints, and resends a delivery."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import orjson

from jobs.contract.errors import Refused
from jobs.contract.ids import JOB_ID, shard_of
from jobs.redis_client import keys
from jobs.redis_client.pipelined_connection import Arg
from jobs.store import record_pages
from jobs.store.job_store import JobStore
from jobs.store.record_pages import Page, Position

STATES: Final = ("waiting", "delivered", "failed")
DELIVERY_ID: Final = re.compile(rf"{JOB_ID.pattern}-[1-9]")
ENDPOINT_ID: Final = re.compile(r"[0-9a-f]{16}")
MAX_DELIVERIES_PER_JOB: Final = 9
MAX_ENDPOINTS: Final = 1000
_FIELDS: Final = ("tenant", "job", "endpoint", "url", "event", "state", "created", "ended", "tries")
_ATTEMPTS: Final = 20  # the newest attempts, which are kept


class DeliveryFilter(NamedTuple):
    """Filter of deliveries; None or "" matches all. Created at `since_ms` or later, before `until_ms`."""

    job: str = ""
    endpoint: str = ""
    state: str = ""
    since_ms: int | None = None
    until_ms: int | None = None


class Delivery(NamedTuple):
    """A delivery and its newest attempts, oldest first. Times in ms."""

    id: str
    job: str
    endpoint: str
    url: str
    event: str
    state: str
    created_ms: int
    ended_ms: int | None
    due_ms: int | None
    tries: int
    attempts: list[dict[str, Any]]


class Endpoint(NamedTuple):
    """A receiver of webhooks and its health. Times in ms."""

    id: str
    origin: str
    waiting: int
    under_way: int
    is_slow: bool
    failures: int  # since the last success
    failing_since_ms: int | None
    paused_until_ms: int | None
    succeeded_ms: int | None


async def list_deliveries(
    store: JobStore, tenant: str, query: DeliveryFilter, after: Position | None, limit: int
) -> Page[Delivery]:
    """List a tenant's deliveries, newest first."""

    async def read(ids: Sequence[str]) -> list[Delivery | None]:
        records = await _read(store, ids)
        return [record[1] if record and _matches(record, tenant, query) else None for record in records]

    if query.job:
        found = await read(_list_delivery_ids(store, query.job))
        return Page([(Position(each.created_ms, each.id), each) for each in found if each is not None], None)
    lists = [keys.deliveries(shard, tenant) for shard in range(store.settings.shards)]
    return await record_pages.read_page(
        store.connection, lists, read, after, limit, since=query.since_ms, until=query.until_ms
    )


async def get_delivery(store: JobStore, tenant: str, delivery_id: str) -> Delivery:
    """Read a delivery. Raises Refused if it is not kept, or not this tenant's."""
    is_id = DELIVERY_ID.fullmatch(delivery_id) and shard_of(delivery_id) < store.settings.shards
    (record,) = await _read(store, [delivery_id]) if is_id else [None]
    if record is None or record[0] != tenant:
        raise _not_found(delivery_id)
    return record[1]


async def resend(store: JobStore, tenant: str, delivery_id: str) -> None:
    """Make a delivery due again at once. Raises Refused if it is not kept, or not this tenant's."""
    is_id = DELIVERY_ID.fullmatch(delivery_id) and shard_of(delivery_id) < store.settings.shards
    if not is_id or not await store.run("webhook/resend", keys.root(shard_of(delivery_id)), delivery_id, tenant):
        raise _not_found(delivery_id)


async def list_endpoints(store: JobStore, tenant: str) -> list[Endpoint]:
    """List a tenant's receivers, the last used first, merged over all shards."""
    by_id: dict[str, list[Endpoint]] = {}
    for shard in range(store.settings.shards):
        names = await store.connection.command("ZREVRANGE", keys.endpoints(shard, tenant), 0, MAX_ENDPOINTS - 1)
        for endpoint in await _read_endpoints(store, shard, [name.decode() for name in names]):
            by_id.setdefault(endpoint.id, []).append(endpoint)
    return [_merge_endpoints(parts) for parts in by_id.values()]


def _list_delivery_ids(store: JobStore, job_id: str) -> list[str]:
    if not JOB_ID.fullmatch(job_id) or shard_of(job_id) >= store.settings.shards:
        return []
    return [f"{job_id}-{nth}" for nth in range(1, MAX_DELIVERIES_PER_JOB + 1)]


def _matches(record: tuple[str, Delivery], tenant: str, query: DeliveryFilter) -> bool:
    owner, delivery = record
    return owner == tenant and query.endpoint in ("", delivery.endpoint) and query.state in ("", delivery.state)


async def _read(store: JobStore, ids: Sequence[str]) -> list[tuple[str, Delivery] | None]:
    """Read deliveries with their tenants, without payload and headers; None for one that is not kept."""
    values = await store.connection.pipeline([("HMGET", keys.delivery(id_), *_FIELDS) for id_ in ids])
    records = [{name: value for name, value in zip(_FIELDS, row, strict=True) if value is not None} for row in values]
    counts = [int(record.get("tries", 0)) for record in records]
    commands: list[tuple[Arg, ...]] = []
    for id_, record, tries in zip(ids, records, counts, strict=True):
        newest = [f"try:{nth}" for nth in range(max(1, tries - _ATTEMPTS + 1), tries + 1)]
        commands.append(("HMGET", keys.delivery(id_), "tries", *newest))
        commands.append(("ZSCORE", keys.outbox(shard_of(id_), _text(record, "endpoint")), id_))
    answers = await store.connection.pipeline(commands)
    return [
        (_text(record, "tenant"), _delivery(id_, record, attempts[1:], due)) if "url" in record else None
        for id_, record, attempts, due in zip(ids, records, answers[::2], answers[1::2], strict=True)
    ]


def _delivery(
    delivery_id: str, record: Mapping[str, bytes], attempts: Sequence[bytes | None], due: bytes | float | None
) -> Delivery:
    return Delivery(
        delivery_id,
        _text(record, "job"),
        _text(record, "endpoint"),
        _text(record, "url"),
        f"{'batch' if _text(record, 'job').startswith('batch_') else 'job'}.{_text(record, 'event')}",
        _text(record, "state"),
        int(record.get("created", 0)),
        _number(record, "ended"),
        None if due is None else int(float(due)),
        int(record.get("tries", 0)),
        [orjson.loads(attempt) for attempt in attempts if attempt is not None],
    )


async def _read_endpoints(store: JobStore, shard: int, names: Sequence[str]) -> list[Endpoint]:
    commands = [
        command
        for name in names
        for command in (
            ("HGETALL", keys.endpoint(shard, name)),
            ("ZCARD", keys.outbox(shard, name)),
            ("ZCARD", keys.deliveries_running(shard, name)),
        )
    ]
    answers = await store.connection.pipeline(commands) if commands else []
    return [
        _endpoint(name, {key.decode(): value for key, value in record.items()}, queued, running)
        for name, record, queued, running in zip(names, answers[::3], answers[1::3], answers[2::3], strict=True)
        if record
    ]


def _endpoint(name: str, record: Mapping[str, bytes], queued: int, running: int) -> Endpoint:
    return Endpoint(
        name,
        _text(record, "origin"),
        queued,
        running,
        "slow" in record,
        int(record.get("failures", 0)),
        _number(record, "failing_since"),
        _number(record, "paused_until"),
        _number(record, "succeeded"),
    )


def _merge_endpoints(parts: Sequence[Endpoint]) -> Endpoint:
    return parts[0]._replace(
        waiting=sum(part.waiting for part in parts),
        under_way=sum(part.under_way for part in parts),
        is_slow=any(part.is_slow for part in parts),
        failures=sum(part.failures for part in parts),
        failing_since_ms=min((part.failing_since_ms for part in parts if part.failing_since_ms), default=None),
        paused_until_ms=max((part.paused_until_ms for part in parts if part.paused_until_ms), default=None),
        succeeded_ms=max((part.succeeded_ms for part in parts if part.succeeded_ms), default=None),
    )


def _text(record: Mapping[str, bytes], name: str) -> str:
    return record.get(name, b"").decode(errors="replace")


def _number(record: Mapping[str, bytes], name: str) -> int | None:
    return int(record[name]) if name in record else None


def _not_found(delivery_id: str) -> Refused:
    """Return the same error for unknown, foreign and expired deliveries."""
    return Refused("delivery_not_found", f"no delivery {delivery_id[:64]}; GET /v1/webhooks lists those that are kept")
