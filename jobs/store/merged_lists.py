"""Merges any number of sorted sets of job ids, newest first, and reads only what a page needs of each.

jobs/store/record_pages.py is for lists with one set a shard, and reads the records too. Here a score is the sequence
number of a job, a member its id and perhaps words behind it. Reads are cut into slices, so that other clients are
served in between.
"""

from collections.abc import Iterable, Sequence
from math import inf
from typing import Final, NamedTuple

from jobs.redis_client.client import RedisClient
from jobs.store.record_pages import Position

MAX_READ: Final = 200  # members of one set per read
SLICE_MEMBERS: Final = 1000  # members per round trip
SLICE_LISTS: Final = 400  # sets per round trip


class Listed(NamedTuple):
    """A member: its position, the words behind its id, and the sorted set that has it ("" = none)."""

    position: Position
    words: str
    key: str


class _List:
    """One sorted set: how far it was read."""

    __slots__ = ("at_score", "is_done", "key", "last", "score")

    def __init__(self, key: str) -> None:
        self.key, self.is_done = key, False
        self.score: float = inf  # to continue from, inclusive
        self.at_score = 0  # members of this score that were read
        self.last: Position | None = None  # the last member read; None: none was read yet


class MergedLists:
    """A cursor over the members of all sets, from the newest to the oldest."""

    def __init__(
        self,
        connection: RedisClient,
        keys: Sequence[str],
        after: Position | None,
        span: tuple[float, float],
        others: Iterable[Position] = (),
    ) -> None:
        """Begin behind `after`. `span`: first and last score. `others`: positions that lie in no set."""
        self._connection, self._after, self._span = connection, after, span
        self._lists = [_List(key) for key in keys]
        start = span[1] if after is None else min(after.time, span[1])
        for each in self._lists:
            each.score = start
        self._pool: list[Listed] = []  # read, but not taken; newest first
        self._add([Listed(position, "", "") for position in others])
        self._pool.sort(reverse=True)

    async def take(self, count: int) -> list[Listed]:
        """Return the next members, at most `count`; fewer at the end."""
        while True:
            ready = self._ready(count)
            if len(ready) >= count or all(each.is_done for each in self._lists):
                del self._pool[: len(ready)]
                return ready
            wanted = self._pool[count - 1].position if len(self._pool) >= count else None
            unread = [each for each in self._lists if not each.is_done]
            behind = [each for each in unread if wanted is None or each.last is None or each.last > wanted]
            await self._read(behind, count)

    def _ready(self, count: int) -> list[Listed]:
        """Return the members of the pool that no unread member can precede."""
        lasts = [each.last for each in self._lists if not each.is_done]
        if None in lasts:
            return []
        bound = max((last for last in lasts if last is not None), default=None)
        if bound is None:
            return self._pool[:count]
        return [listed for listed in self._pool[:count] if listed.position >= bound]

    async def _read(self, lists: Sequence[_List], count: int) -> None:
        size = max(1, min(MAX_READ, 2 * count // len(lists)))
        per_slice, low = max(1, min(SLICE_LISTS, SLICE_MEMBERS // size)), _text(self._span[0])
        for first in range(0, len(lists), per_slice):
            part = lists[first : first + per_slice]
            answers = await self._connection.pipeline(
                [
                    ("ZREVRANGEBYSCORE", each.key, _text(each.score), low, "WITHSCORES", "LIMIT", each.at_score, size)
                    for each in part
                ]
            )
            for each, members in zip(part, answers, strict=True):
                self._add(self._parse(each, members, size))
        self._pool.sort(reverse=True)

    def _parse(self, each: _List, members: Sequence[tuple[bytes, float]], size: int) -> list[Listed]:
        found = []
        for member, score in members:
            job_id, _, words = member.decode().partition(" ")
            each.at_score = each.at_score + 1 if score == each.score else 1
            each.score, each.last = score, Position(int(score), job_id)
            found.append(Listed(each.last, words, each.key))
        each.is_done = len(members) < size
        return found

    def _add(self, found: Iterable[Listed]) -> None:
        after, (low, high) = self._after, self._span
        self._pool += [
            listed
            for listed in found
            if (after is None or listed.position < after) and low <= listed.position.time <= high
        ]


def _text(score: float) -> str:
    return "+inf" if score == inf else "-inf" if score == -inf else f"{score:.0f}"
