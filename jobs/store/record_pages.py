"""Reads one page of records, newest first, that one sorted set of each shard lists by time.

For many lists, such as the queues of all tenants, jobs/store/merged_lists.py is used.

A page continues behind the position of the last record read (keyset paging), so that new records shift nothing. The
work of one page is bounded: it may be short or empty and yet have a next page.
"""

from collections.abc import Awaitable, Callable, Sequence
from math import inf
from typing import Final, Generic, NamedTuple, TypeVar

from jobs.redis_client.client import RedisClient

MAX_SCANNED: Final = 1000  # listed records that one page reads, whether or not they match
MIN_READ: Final = 20  # records per read
MAX_READ: Final = 100  # the same; other clients are served in between
PAGE_BYTES: Final = 16 << 20  # of records whose size is counted

T = TypeVar("T")


class Position(NamedTuple):
    """Sort key of a record: its score in the sorted set, a time, then its id."""

    time: int
    id: str


class Page(NamedTuple, Generic[T]):
    """Records with their positions, newest first, and the position to continue from; None: there are no more."""

    entries: list[tuple[Position, T]]
    after: Position | None

    @property
    def records(self) -> list[T]:
        return [record for _, record in self.entries]


async def read_page(
    connection: RedisClient,
    lists: Sequence[str],
    read: Callable[[Sequence[str]], Awaitable[Sequence[T | None]]],
    after: Position | None,
    limit: int,
    *,
    since: int | None = None,
    until: int | None = None,
    size_of: Callable[[T], int] = lambda _: 0,
) -> Page[T]:
    """Read at most `limit` records behind `after`, with times from `since` to before `until` (None: no bound).

    `lists`: the sorted set of each shard; an id ends at a space. `read` returns the record of each id, or None for one
    that is not kept or does not match. `size_of`: bytes of a record; the page ends once their sum exceeds PAGE_BYTES.
    """
    span = (inf if until is None else until - 1, -inf if since is None else since)
    entries: list[tuple[Position, T]] = []
    size_bytes = scanned = 0
    while scanned < MAX_SCANNED:
        count = min(MAX_READ, max(limit - len(entries), MIN_READ), MAX_SCANNED - scanned)
        positions = await _read_positions(connection, lists, after, span, count)
        records = await read([position.id for position in positions]) if positions else []
        for position, record in zip(positions, records, strict=True):
            after = position
            if record is not None:
                entries.append((position, record))
                size_bytes += size_of(record)
            if len(entries) == limit or size_bytes > PAGE_BYTES:
                return Page(entries, after)
        if len(positions) < count:
            return Page(entries, None)
        scanned += count
    return Page(entries, after)


async def _read_positions(
    connection: RedisClient, lists: Sequence[str], after: Position | None, span: tuple[float, float], count: int
) -> list[Position]:
    """Return the next `count` positions of all lists with times in `span` (last, first); fewer at the end."""
    span = (span[0] if after is None else min(after.time, span[0]), span[1])
    found: list[Position] = []
    size, offset = count + 1, 0  # one more, because `after` itself is often among them
    while lists:
        args = (*span, "WITHSCORES", "LIMIT", offset, size)
        answers = await connection.pipeline([("ZREVRANGEBYSCORE", key, *args) for key in lists])
        behind = [_parse_positions(members, after) for members in answers]
        found += [position for positions in behind for position in positions]
        # Several records may share the time of `after`: read on where a whole part held too few behind it.
        lists = [
            key
            for key, members, positions in zip(lists, answers, behind, strict=True)
            if len(members) == size and len(positions) < count
        ]
        offset += size
    return sorted(found, reverse=True)[:count]


def _parse_positions(members: Sequence[tuple[bytes, float]], after: Position | None) -> list[Position]:
    positions = [Position(int(time), member.decode().partition(" ")[0]) for member, time in members]
    return positions if after is None else [position for position in positions if position < after]
