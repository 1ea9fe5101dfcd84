"""The log of deliveries: what was to be told to whom, each attempt, how each endpoint is; and sending one again."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import orjson

from jobs.contract.errors import Refused
from jobs.contract.ids import JOB_ID, shard_of
from jobs.redis_client import keys
from jobs.redis_client.pipelined_connection import Arg
from jobs.store.job_store import JobStore

STATES: Final = ("waiting", "delivered", "failed")
DELIVERY_ID: Final = re.compile(rf"{JOB_ID.pattern}-[1-9]")
ENDPOINT_ID: Final = re.compile(r"[0-9a-f]{16}")
MAX_SCANNED: Final = 1000  # deliveries that one page looks at, whether or not they are wanted
CHUNK: Final = 100
MAX_DELIVERIES_PER_JOB: Final = 9
MAX_ENDPOINTS: Final = 1000
_FIELDS: Final = ("tenant", "job", "endpoint", "url", "event", "state", "created", "ended", "tries")
_ATTEMPTS: Final = 20  # the newest, that are kept


class Position(NamedTuple):
    """Where a delivery stands among all of a tenant: by the ms of its making, then by its id."""

    created_ms: int
    id: str


class DeliveryFilter(NamedTuple):
    """Which deliveries are wanted; None, or an empty string: all. Made at `since_ms` or later, before `until_ms`."""

    job: str = ""
    endpoint: str = ""
    state: str = ""
    since_ms: int | None = None
    until_ms: int | None = None


class Delivery(NamedTuple):
    """A delivery and its newest attempts, the oldest first. Times in ms."""

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
    """A receiver, and how it is. Times in ms."""

    id: str
    origin: str
    waiting: int
    under_way: int
    is_slow: bool
    failures: int  # since it last succeeded
    failing_since_ms: int | None
    paused_until_ms: int | None
    succeeded_ms: int | None


class Page(NamedTuple):
    """Some deliveries, newest first, and the place to go on from; None: there are no more."""

    deliveries: list[Delivery]
    after: Position | None


async def list_deliveries(
    store: JobStore, tenant: str, wanted: DeliveryFilter, after: Position | None, limit: int
) -> Page:
    """Find a tenant's deliveries, newest first. A page may hold fewer than `limit`, even none, and have a next one."""
    if wanted.job:
        found = await _read(store, _list_delivery_ids(store, wanted.job))
        return Page([one[1] for one in found if one and one[0] == tenant and _matches(one[1], wanted)], None)
    kept: list[Delivery] = []
    for _ in range(MAX_SCANNED // CHUNK):
        places = await _list_positions(store, tenant, wanted, after)
        for place, one in zip(places, await _read(store, [place.id for place in places]), strict=True):
            after = place
            if one is not None and one[0] == tenant and _matches(one[1], wanted):
                kept.append(one[1])
            if len(kept) == limit:
                return Page(kept, after)
        if len(places) < CHUNK:
            return Page(kept, None)
    return Page(kept, after)


async def get_delivery(store: JobStore, tenant: str, delivery_id: str) -> Delivery:
    """Read a delivery. Raises Refused where it is kept no more, or is not this tenant's."""
    is_id = DELIVERY_ID.fullmatch(delivery_id) and shard_of(delivery_id) < store.settings.shards
    (one,) = await _read(store, [delivery_id]) if is_id else [None]
    if one is None or one[0] != tenant:
        raise _not_found(delivery_id)
    return one[1]


async def resend(store: JobStore, tenant: str, delivery_id: str) -> None:
    """Have a delivery sent again, at once. Raises Refused where it is kept no more, or is not this tenant's."""
    is_id = DELIVERY_ID.fullmatch(delivery_id) and shard_of(delivery_id) < store.settings.shards
    if not is_id or not await store.run("webhook/resend", keys.root(shard_of(delivery_id)), delivery_id, tenant):
        raise _not_found(delivery_id)


async def list_endpoints(store: JobStore, tenant: str) -> list[Endpoint]:
    """List a tenant's receivers, those last used first; of each as the shards see it together."""
    found: dict[str, list[Endpoint]] = {}
    for shard in range(store.settings.shards):
        names = await store.connection.command("ZREVRANGE", keys.endpoints(shard, tenant), 0, MAX_ENDPOINTS - 1)
        for one in await _read_endpoints(store, shard, [name.decode() for name in names]):
            found.setdefault(one.id, []).append(one)
    return [_merge_endpoints(seen) for seen in found.values()]


def _list_delivery_ids(store: JobStore, job_id: str) -> list[str]:
    if not JOB_ID.fullmatch(job_id) or shard_of(job_id) >= store.settings.shards:
        return []
    return [f"{job_id}-{nth}" for nth in range(1, MAX_DELIVERIES_PER_JOB + 1)]


def _matches(delivery: Delivery, wanted: DeliveryFilter) -> bool:
    return wanted.endpoint in ("", delivery.endpoint) and wanted.state in ("", delivery.state)


async def _list_positions(
    store: JobStore, tenant: str, wanted: DeliveryFilter, after: Position | None
) -> list[Position]:
    """List the next places of all shards in the wanted time; fewer than CHUNK where there are no more."""
    latest = [after.created_ms] if after else []
    latest += [wanted.until_ms - 1] if wanted.until_ms is not None else []
    span = (min(latest) if latest else "+inf", "-inf" if wanted.since_ms is None else wanted.since_ms)
    found: list[Position] = []
    for shard in range(store.settings.shards):
        older: list[Position] = []
        offset = 0
        while len(older) < CHUNK:
            words = ("ZREVRANGEBYSCORE", keys.deliveries(shard, tenant), *span, "WITHSCORES", "LIMIT", offset, CHUNK)
            members = await store.connection.command(*words)
            places = [Position(int(ms), member.decode()) for member, ms in members]
            older += [place for place in places if after is None or place < after]  # many were made in the same ms
            if len(places) < CHUNK:
                break
            offset += CHUNK
        found += older
    return sorted(found, reverse=True)[:CHUNK]


async def _read(store: JobStore, ids: Sequence[str]) -> list[tuple[str, Delivery] | None]:
    """Read deliveries, each with its tenant; None where one is kept no more. Not what they tell, nor headers."""
    if not ids:
        return []
    facts = await store.connection.pipeline([("HMGET", keys.delivery(one), *_FIELDS) for one in ids])
    records = [{name: value for name, value in zip(_FIELDS, one, strict=True) if value is not None} for one in facts]
    tried = [int(record.get("tries", 0)) for record in records]
    commands: list[tuple[Arg, ...]] = []
    for one, record, tries in zip(ids, records, tried, strict=True):
        newest = [f"try:{nth}" for nth in range(max(1, tries - _ATTEMPTS + 1), tries + 1)]
        commands.append(("HMGET", keys.delivery(one), "tries", *newest))
        commands.append(("ZSCORE", keys.outbox(shard_of(one), _text(record, "endpoint")), one))
    answers = await store.connection.pipeline(commands)
    return [
        (_text(record, "tenant"), _delivery(one, record, attempts[1:], at)) if "url" in record else None
        for one, record, attempts, at in zip(ids, records, answers[::2], answers[1::2], strict=True)
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
        _endpoint(name, {key.decode(): value for key, value in record.items()}, queued, airborne)
        for name, record, queued, airborne in zip(names, answers[::3], answers[1::3], answers[2::3], strict=True)
        if record
    ]


def _endpoint(name: str, record: Mapping[str, bytes], queued: int, airborne: int) -> Endpoint:
    return Endpoint(
        name,
        _text(record, "origin"),
        queued,
        airborne,
        "slow" in record,
        int(record.get("failures", 0)),
        _number(record, "failing_since"),
        _number(record, "paused_until"),
        _number(record, "succeeded"),
    )


def _merge_endpoints(seen: Sequence[Endpoint]) -> Endpoint:
    first = seen[0]
    return first._replace(
        waiting=sum(one.waiting for one in seen),
        under_way=sum(one.under_way for one in seen),
        is_slow=any(one.is_slow for one in seen),
        failures=sum(one.failures for one in seen),
        failing_since_ms=min((one.failing_since_ms for one in seen if one.failing_since_ms), default=None),
        paused_until_ms=max((one.paused_until_ms for one in seen if one.paused_until_ms), default=None),
        succeeded_ms=max((one.succeeded_ms for one in seen if one.succeeded_ms), default=None),
    )


def _text(record: Mapping[str, bytes], name: str) -> str:
    return record.get(name, b"").decode(errors="replace")


def _number(record: Mapping[str, bytes], name: str) -> int | None:
    return int(record[name]) if name in record else None


def _not_found(delivery_id: str) -> Refused:
    """Say that there is no such delivery: one answer for unknown, foreign and forgotten ones."""
    return Refused("delivery_not_found", f"no delivery {delivery_id[:64]}; GET /v1/webhooks lists those that are kept")
