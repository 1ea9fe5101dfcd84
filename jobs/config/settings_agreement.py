"""Announces this process's settings in Redis, reports differences between processes, and enforces equal SHARDS.

Each process announces its settings in the queue, and reads there what the others announced. A difference is a warning
in the log, a field of `/readyz` and a metric; the process goes on. Another number of shards than the queue is kept with
would lose jobs, so such a process does not start. `jobs/config/compared_settings.py` says which settings are compared.
"""

import asyncio
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

MAX_SHARDS: Final = 99
MIN_TTL_S: Final = 3.0  # a process whose beat comes late is not gone
INTERVALS_TO_LIVE: Final = 3


class ShardsMismatch(Exception):
    """SHARDS of this process is not what the queue is kept with; the message names both."""

    def __init__(self, own: int, kept: str) -> None:
        what_to_do = f"set JITNEY_SHARDS={kept} (docs/configuration.md tells how to change the number)"
        super().__init__(
            f"JITNEY_SHARDS={own}, but this queue is kept with JITNEY_SHARDS={kept}: jobs would be lost; {what_to_do}"
        )


class Process(NamedTuple):
    """One process of ours. `settings`: those that are compared, as text."""

    part: Part
    id: str
    host: str
    pid: int
    settings: Mapping[str, str]

    @classmethod
    def this(cls, part: Part, process_id: str, *settings: BaseSettings) -> "Process":
        """Describe this process."""
        host = socket.gethostname()
        formats = {"release": _release(), "record format": RECORD_VERSION}
        return cls(part, process_id, host, os.getpid(), {**formats, **compared_values(part, host, settings)})

    def __str__(self) -> str:
        return f"{self.part} {self.id} on {self.host} (pid {self.pid})"


class Difference(NamedTuple):
    """Something that differs between processes. `values`: each value, and the processes that have it."""

    what: str
    values: Mapping[str, Sequence[Process]]

    def __str__(self) -> str:
        sides = (f"{value or 'empty'} ({_listed(processes)})" for value, processes in self.values.items())
        return f"{self.what} is " + ", but ".join(sides)


def find_differences(processes: Iterable[Process]) -> list[Difference]:
    """List the settings that are not the same in all processes that have them, by name."""
    found: dict[str, dict[str, list[Process]]] = defaultdict(lambda: defaultdict(list))
    for process in sorted(processes):
        for name, value in process.settings.items():
            found[name][value].append(process)
    return [Difference(name, dict(sorted(values.items()))) for name, values in sorted(found.items()) if len(values) > 1]


class SettingsAgreement(PeriodicRefresh):
    """What this process and the others announce, as of the last look.

    `differences`: what is not the same everywhere.
    """

    def __init__(self, connection: RedisClient, me: Process, shards: int, interval_s: float) -> None:
        """`interval_s`: how often `run` is to look; a process that is silent three times as long is gone."""
        super().__init__(log, "compare settings with the other processes")
        self._connection, self._me, self._shards = connection, me, shards
        self._every_s = interval_s
        self._record = orjson.dumps(me._asdict())
        self._warned: dict[str, str] = {}
        self.differences: list[Difference] = []

    async def refresh(self) -> None:
        """Announce and look once; raises ShardsDiffer."""
        if not self._is_known:
            await check_shards(self._connection, self._shards)
        self.differences = find_differences(await self._announce(max(MIN_TTL_S, INTERVALS_TO_LIVE * self._every_s)))
        self._is_known = True
        self._tell()

    async def run_until_mismatch(self) -> None:
        """Look until cancelled; raises ShardsDiffer."""
        await self.run(self._every_s)

    async def withdraw(self) -> None:
        """Announce that this process ends."""
        if self._is_known:
            await self._announce(0)

    async def _announce(self, ttl_s: float) -> list[Process]:
        words = (self._me.id, int(ttl_s * 1000), self._shards, self._record)
        kept, *records = await self._connection.script("registry/announce_settings", keys.AGREEMENT, *words)
        if kept.decode() != str(self._shards):
            raise ShardsMismatch(self._shards, kept.decode()[:20])
        return [process for record in records if (process := _read(record))]

    def _tell(self) -> None:
        """Log what this process has part in, once: when it begins to differ, changes, or is the same again."""
        ours = {one.what: str(one) for one in self.differences if one.what in self._me.settings}
        for what, words in ours.items():
            values = {value for one in self.differences if one.what == what for value in one.values}
            if self._warned.get(what) != (signature := repr(sorted(values))):
                log.warning("settings that must be the same in all processes differ: %s", words)
                self._warned[what] = signature
        for what in self._warned.keys() - ours.keys():
            log.info("%s is the same in all processes again", what)
            del self._warned[what]


async def check_shards(connection: RedisClient, shards: int) -> None:
    """Raise ShardsDiffer where the queue is kept with another number, or was used with more before that was written."""
    kept = await connection.command("HGET", keys.AGREEMENT, "shards")
    if kept is None:  # an empty queue, or one of a release that did not write it down
        beyond = range(shards, MAX_SHARDS + 1)
        there = await connection.pipeline([("EXISTS", keys.open_totals(shard)) for shard in beyond])
        if used := [shard for shard, is_there in zip(beyond, there, strict=True) if is_there]:
            raise ShardsMismatch(shards, str(used[-1] + 1))
    elif kept.decode() != str(shards):
        raise ShardsMismatch(shards, kept.decode()[:20])


async def wait_for_shard_check(connection: RedisClient, shards: int) -> None:
    """Check as soon as the queue answers; raises ShardsDiffer."""
    outage = OutageLog(log, "read how many shards the queue has")
    while True:
        try:
            await check_shards(connection, shards)
        except StoreUnavailable as error:
            outage.began(error)
            await asyncio.sleep(RETRY_S)
        else:
            outage.ended()
            return


async def check_shards_at_start(connection: RedisClient, shards: int) -> None:
    """Raise ShardsDiffer before anything is started. A queue that is away is looked at when it is back."""
    with suppress(StoreUnavailable):
        await check_shards(connection, shards)


async def read_processes(connection: RedisClient) -> list[Process]:
    """List what processes have announced, those that have ended lately among them."""
    fields: Mapping[bytes, bytes] = await connection.command("HGETALL", keys.AGREEMENT)
    records = [text.partition(b" ")[2] for name, text in fields.items() if name.startswith(b"process:")]
    return sorted(process for record in records if (process := _read(record)))


async def read_shards(connection: RedisClient) -> int:
    """Give the number of shards that the queue is kept with; 1 where none has been written down."""
    kept = await connection.command("HGET", keys.AGREEMENT, "shards")
    return int(kept) if kept and kept.isdigit() else 1


def _read(record: bytes) -> Process | None:
    try:
        process = Process(**orjson.loads(record))
        texts = (process.part, process.id, process.host, *process.settings, *process.settings.values())
    except (ValueError, TypeError, AttributeError):
        return None
    return process if all(isinstance(text, str) for text in texts) else None


def _listed(processes: Sequence[Process]) -> str:
    most = 3
    more = f" and {len(processes) - most} more" if len(processes) > most else ""
    return ", ".join(map(str, processes[:most])) + more


def _release() -> str:
    try:
        return importlib.metadata.version("jitney")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
