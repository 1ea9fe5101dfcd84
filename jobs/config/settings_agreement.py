"""Announces and compares the processes' settings in Redis; refuses a queue of other SHARDS or another format.

Each process announces its settings in Redis and reads the announcements of the others. A difference is logged as a
warning and shown in `/readyz` and a metric; the process continues. With a different number of shards jobs would be
lost, so such a process does not start. `jobs/config/compared_settings.py` lists the compared settings.
"""

import importlib.metadata
import logging
import os
import socket
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Final, NamedTuple

import orjson
from pydantic_settings import BaseSettings

from jobs.config.compared_settings import Part, compared_values
from jobs.contract.errors import StoreUnavailable
from jobs.contract.job import RECORD_VERSION
from jobs.redis_client import keys
from jobs.redis_client.client import RedisClient
from jobs.redis_client.outage_log import OutageLog
from jobs.redis_client.periodic_refresh import RETRY_S, PeriodicRefresh

log = logging.getLogger("jitney.jobs")

FORMAT: Final = "3"  # of keys and records in Redis; raised when a release cannot read what an earlier one wrote
MAX_SHARDS: Final = 99
MIN_TTL_S: Final = 3.0  # tolerates a late heartbeat
INTERVALS_TO_LIVE: Final = 3


class QueueMismatch(Exception):
    """A queue that this process cannot use, however long it waits; the message says why, and what to do."""


class FormatMismatch(QueueMismatch):
    """The queue was written by a release with other keys."""

    def __init__(self, kept: str) -> None:
        super().__init__(
            f"this queue has the format {kept}, and this release uses {FORMAT}: stop all processes, empty the queue "
            "(FLUSHDB in its Redis database; for `jitney up`, remove JITNEY_DATA_DIR), then start again"
        )


class ShardsMismatch(QueueMismatch):
    """JITNEY_SHARDS of this process differs from the queue's number; the message names both."""

    def __init__(self, own: int, kept: str) -> None:
        what_to_do = f"set JITNEY_SHARDS={kept}, or see docs/reference/settings.md on how to change the number"
        super().__init__(
            f"JITNEY_SHARDS={own}, but this queue uses JITNEY_SHARDS={kept}: jobs would be lost; {what_to_do}"
        )


class Process(NamedTuple):
    """A running process. `settings`: its compared settings, as text."""

    part: Part
    id: str
    host: str
    pid: int
    settings: Mapping[str, str]

    @classmethod
    def this(cls, part: Part, process_id: str, *settings: BaseSettings) -> "Process":
        """Describe this process."""
        host = socket.gethostname()
        formats = {"release": release(), "record format": RECORD_VERSION}
        return cls(part, process_id, host, os.getpid(), {**formats, **compared_values(part, host, settings)})

    def __str__(self) -> str:
        return f"{self.part} {self.id} on {self.host} (pid {self.pid})"


class Difference(NamedTuple):
    """A setting that differs between processes. `values`: each value, and the processes that have it."""

    what: str
    values: Mapping[str, Sequence[Process]]

    def __str__(self) -> str:
        sides = (f"{value or 'empty'} ({_format_processes(processes)})" for value, processes in self.values.items())
        return f"{self.what} is " + ", but ".join(sides)


def find_differences(processes: Iterable[Process]) -> list[Difference]:
    """Return the settings whose values differ between processes, sorted by name."""
    by_name: dict[str, dict[str, list[Process]]] = defaultdict(lambda: defaultdict(list))
    for process in sorted(processes):
        for name, value in process.settings.items():
            by_name[name][value].append(process)
    return [
        Difference(name, dict(sorted(values.items()))) for name, values in sorted(by_name.items()) if len(values) > 1
    ]


class SettingsAgreement(PeriodicRefresh):
    """Announcements of this process and the others, as of the last refresh.

    `differences`: settings whose values differ.
    """

    def __init__(self, connection: RedisClient, me: Process, shards: int, interval_s: float) -> None:
        """`interval_s`: time between two refreshes. A process that misses three of them counts as gone."""
        super().__init__(log, "compare settings with the other processes")
        self._connection, self._me, self._shards = connection, me, shards
        self._interval_s = interval_s
        self._record = orjson.dumps(me._asdict())
        self._warned: dict[str, str] = {}
        self.differences: list[Difference] = []

    async def refresh(self) -> None:
        """Announce this process and read the others. Raises QueueMismatch."""
        if not self._is_known:
            await check_shards(self._connection, self._shards)
        self.differences = find_differences(await self._announce(max(MIN_TTL_S, INTERVALS_TO_LIVE * self._interval_s)))
        self._is_known = True
        self._log_changes()

    async def run_until_mismatch(self) -> None:
        """Refresh periodically until cancelled. Raises QueueMismatch."""
        await self.run(self._interval_s)

    async def withdraw(self) -> None:
        """Announce that this process ends."""
        if self._is_known:
            await self._announce(0)

    async def _announce(self, ttl_s: float) -> list[Process]:
        args = (self._me.id, int(ttl_s * 1000), self._shards, self._record)
        kept, *records = await self._connection.script("registry/announce_settings", keys.AGREEMENT, *args)
        if kept.decode() != str(self._shards):
            raise ShardsMismatch(self._shards, kept.decode()[:20])
        return [process for record in records if (process := _parse_process(record))]

    def _log_changes(self) -> None:
        """Log a difference that involves this process once: when it appears, changes or ends."""
        current = {diff.what: str(diff) for diff in self.differences if diff.what in self._me.settings}
        for what, text in current.items():
            values = {value for diff in self.differences if diff.what == what for value in diff.values}
            if self._warned.get(what) != (signature := repr(sorted(values))):
                log.warning("settings that must be the same in all processes differ: %s", text)
                self._warned[what] = signature
        for what in self._warned.keys() - current.keys():
            log.info("%s is the same in all processes again", what)
            del self._warned[what]


async def check_shards(connection: RedisClient, shards: int) -> None:
    """Raise FormatMismatch for a queue of another format, and ShardsMismatch for another number of shards.

    Without a record of them, the keys of the queue decide.
    """
    await _check_format(connection)
    kept = await connection.command("HGET", keys.AGREEMENT, "shards")
    if kept is None:  # an empty queue, or one of a release that did not record the number
        beyond = range(shards, MAX_SHARDS + 1)
        exists = await connection.pipeline([("EXISTS", keys.open_totals(shard)) for shard in beyond])
        if used := [shard for shard, is_used in zip(beyond, exists, strict=True) if is_used]:
            raise ShardsMismatch(shards, str(used[-1] + 1))
    elif kept.decode() != str(shards):
        raise ShardsMismatch(shards, kept.decode()[:20])


async def _check_format(connection: RedisClient) -> None:
    kept = await connection.command("GET", keys.FORMAT)
    if kept is None:
        if await connection.command("EXISTS", keys.TOTALS_OF_FORMAT_1):
            raise FormatMismatch("1")
        await connection.command("SET", keys.FORMAT, FORMAT, "NX")
    elif kept.decode() != FORMAT:
        raise FormatMismatch(kept.decode()[:20])


async def wait_for_shard_check(connection: RedisClient, shards: int) -> None:
    """Check the number of shards as soon as Redis is reachable. Raises QueueMismatch."""
    outage = OutageLog(log, "read how many shards the queue has")
    await outage.retry(lambda: check_shards(connection, shards), RETRY_S)


async def check_shards_at_start(connection: RedisClient, shards: int) -> None:
    """Raise QueueMismatch at start. An unreachable queue is checked later, when it is back."""
    with suppress(StoreUnavailable):
        await check_shards(connection, shards)


async def read_processes(connection: RedisClient) -> list[Process]:
    """Return all announced processes, including those that ended recently."""
    fields: Mapping[bytes, bytes] = await connection.command("HGETALL", keys.AGREEMENT)
    records = [text.partition(b" ")[2] for name, text in fields.items() if name.startswith(b"process:")]
    return sorted(process for record in records if (process := _parse_process(record)))


async def read_shards(connection: RedisClient) -> int:
    """Return the number of shards of the queue; 1 if none is recorded."""
    kept = await connection.command("HGET", keys.AGREEMENT, "shards")
    return int(kept) if kept and kept.isdigit() else 1


def _parse_process(record: bytes) -> Process | None:
    try:
        process = Process(**orjson.loads(record))
        texts = (process.part, process.id, process.host, *process.settings, *process.settings.values())
    except (ValueError, TypeError, AttributeError):
        return None
    return process if all(isinstance(text, str) for text in texts) else None


def _format_processes(processes: Sequence[Process]) -> str:
    shown = 3
    more = f" and {len(processes) - shown} more" if len(processes) > shown else ""
    return ", ".join(map(str, processes[:shown])) + more


def release() -> str:
    try:
        return importlib.metadata.version("jitney")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
