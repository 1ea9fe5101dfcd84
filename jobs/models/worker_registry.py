"""Registry in Redis: workers announce models and agree on the files to serve; gateways and workers read it.

A model's announcement outlives its worker, so that jobs are accepted while workers restart. Heartbeats record
separately which workers are alive.
"""

import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Final

import orjson

from jobs.redis_client import generic_scripts, keys
from jobs.redis_client.client import RedisClient

log = logging.getLogger("jitney.jobs")

# Names become parts of Redis keys, metrics and API responses.
MODEL_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
MODEL_VERSION: Final = re.compile(r"[0-9]{1,18}")
FORGET_AFTER_S = 86_400  # models that no worker has served for a day are dropped


@dataclass(frozen=True, slots=True)
class WorkerReport:
    """State that a worker reports with each heartbeat."""

    id: str
    pid: int
    host: str
    models: list[str] = field(default_factory=list)  # each "name version" that it runs
    failed: dict[str, str] = field(default_factory=dict)  # name → why its whole folder cannot be read
    ceilings: dict[str, dict[str, int]] = field(default_factory=dict)  # "name version" → shapes → largest batch
    chosen: dict[str, str] = field(default_factory=dict)  # name → version that it would give jobs to
    leaving: list[str] = field(default_factory=list)  # "name version": unloads once its queue is empty
    loading: list[str] = field(default_factory=list)  # "name version"
    unloadable: dict[str, str] = field(default_factory=dict)  # "name version" → reason
    folder_versions: dict[str, list[str]] = field(default_factory=dict)  # name → versions in its folder
    digests: dict[str, str] = field(default_factory=dict)  # "name version" → digest of its files
    lease_s: float = 0.0  # length of its leases; 0: unknown
    run_s: dict[str, float] = field(default_factory=dict)  # "name version" → seconds of a usual run
    ttl_s: float = 0.0  # how long this report counts; 0: unknown
    started_s: int = 0  # when it started, by the clock of Redis; 0: unknown
    is_paused: bool = False  # it claims nothing
    running: dict[str, int] = field(default_factory=dict)  # "name version" → jobs that it has claimed
    devices: dict[str, str] = field(default_factory=dict)  # "name version" → device that runs it
    memory_bytes: int = 0  # resident memory of the process; 0: unknown


WORKER_FIELDS = tuple(entry.name for entry in fields(WorkerReport))


@dataclass(frozen=True, slots=True)
class ClusterState:
    """Models known to the queue and live workers. `cards` come from `model_runtime.model.Model.card`.

    `now_s`: the Redis server's time of the read.
    """

    cards: list[dict[str, Any]]
    workers: list[WorkerReport]
    now_s: float = 0.0

    def serving(self, name: str, version: str) -> int:
        """Count live workers that serve this model version."""
        return sum(f"{name} {version}" in worker.models for worker in self.workers)

    @property
    def longest_lease_s(self) -> float:
        """Longest lease of a live worker in seconds; 0 if unknown."""
        return max((worker.lease_s for worker in self.workers), default=0.0)

    def digests(self) -> dict[str, dict[str, list[WorkerReport]]]:
        """Return versions ("name version") whose files differ between live workers: digest → workers."""
        by_version: dict[str, dict[str, list[WorkerReport]]] = {}
        for worker in self.workers:
            for version, digest in worker.digests.items():
                by_version.setdefault(version, {}).setdefault(digest, []).append(worker)
        return {version: by_digest for version, by_digest in sorted(by_version.items()) if len(by_digest) > 1}

    def ceilings(self, name: str, version: str) -> dict[str, int]:
        """Return the smallest memory-limited batch size per input shapes over all live workers."""
        known: dict[str, int] = {}
        for worker in self.workers:
            for shapes, ceiling in worker.ceilings.get(f"{name} {version}", {}).items():
                known[shapes] = min(ceiling, known.get(shapes, ceiling))
        return known

    def failures(self) -> dict[str, str]:
        """Return the models of which a live worker could not load some version, with the reason."""
        versions = [pair for worker in self.workers for pair in worker.unloadable.items()]
        models = [pair for worker in self.workers for pair in worker.failed.items()]
        return {name.partition(" ")[0]: reason for name, reason in versions} | dict(models)

    def failure(self, name: str, version: str) -> str | None:
        """Return why a live worker could not load this version or its whole model; None if none failed."""
        reasons = [worker.unloadable.get(f"{name} {version}") or worker.failed.get(name) for worker in self.workers]
        return next(filter(None, reasons), None)

    def votes(self, name: str) -> dict[str, int]:
        """Count, for each version of a model, the live workers that chose it and run it."""
        votes: Counter[str] = Counter()
        for worker in self.workers:
            runs = [model.partition(" ")[2] for model in worker.models if model.partition(" ")[0] == name]
            runs = [version for version in runs if f"{name} {version}" not in worker.leaving]
            choice = worker.chosen.get(name) if worker.chosen else max(runs, key=version_number, default=None)
            if choice in runs:
                votes[str(choice)] += 1
        return votes

    def leaving(self, name: str, version: str) -> int:
        """Count live workers that unload this version once its queue is empty."""
        return sum(f"{name} {version}" in worker.leaving for worker in self.workers)

    def loading(self, name: str, version: str) -> bool:
        """Return True if a live worker is loading this version."""
        return any(f"{name} {version}" in worker.loading for worker in self.workers)

    def folder_versions(self, name: str) -> list[str]:
        """Return the versions in any live worker's folder, lowest first."""
        return sorted(
            {version for worker in self.workers for version in worker.folder_versions.get(name, [])}, key=version_number
        )

    def versions(self, name: str) -> list[str]:
        """Return all known versions (announced, loading, failed or in a folder), lowest first."""
        cards = {card["version"] for card in self.cards if card["name"] == name}
        pairs = [pair.partition(" ") for worker in self.workers for pair in (*worker.unloadable, *worker.loading)]
        known = cards.union(
            self.folder_versions(name), (version for model, _, version in pairs if model == name and version)
        )
        return sorted(filter(MODEL_VERSION.fullmatch, known), key=version_number)

    def names(self) -> list[str]:
        """Return all models that are announced, failed or in a folder."""
        known = {card["name"] for card in self.cards} | self.failures().keys()
        return sorted(known.union(*(worker.folder_versions for worker in self.workers)))


def version_number(version: str) -> int:
    """Return the version as a number for sorting; -1 if it is not a valid version."""
    return int(version) if MODEL_VERSION.fullmatch(version) else -1


async def register_worker(
    connection: RedisClient, report: WorkerReport, cards: Sequence[Mapping[str, Any]], ttl_s: float
) -> None:
    """Announce a worker and its models. It counts as alive for `ttl_s` seconds."""
    args = [arg for card in cards for arg in (f"{card['name']} {card['version']}", orjson.dumps(card))]
    if args:
        await connection.script("registry/announce_models", keys.MODELS, *args)
    entry = ("SET", orjson.dumps(report), "PX", int(ttl_s * 1000))
    await generic_scripts.write_with_ttl(connection, keys.worker(report.id), None, *entry)
    await generic_scripts.write_with_ttl(connection, keys.WORKERS, FORGET_AFTER_S, "SADD", report.id)


async def claim_digests(
    connection: RedisClient, worker_id: str, digests: Mapping[str, str], ttl_s: float
) -> dict[str, str]:
    """Register the digests of a worker's model files ("name version" → digest); return the digests to serve.

    The digest registered first is served until no live worker has it. `ttl_s`: lifetime of the entry; 0 removes it.
    """
    if not digests:
        return {}
    args = [arg for pair in digests.items() for arg in pair]
    served = await connection.script("registry/hold_digests", keys.DIGESTS, worker_id, int(ttl_s * 1000), *args)
    return {version: digest.decode() for version, digest in zip(digests, served, strict=True)}


async def notify_models_changed(connection: RedisClient) -> None:
    """Notify gateways that the models changed, so that they refresh at once."""
    await connection.command("PUBLISH", keys.INVALIDATION, "models")


async def forget_version(connection: RedisClient, name: str, version: str) -> None:
    """Remove a version whose files are gone, so that it accepts no more jobs."""
    await connection.command("HDEL", keys.MODELS, f"{name} {version}")


async def deregister_worker(connection: RedisClient, worker_id: str) -> None:
    """Remove a stopping worker from the live ones; its models stay known."""
    await connection.command("DEL", keys.worker(worker_id))
    await notify_models_changed(connection)


async def read_cluster_state(connection: RedisClient) -> ClusterState:
    """Read all announcements; drop models that no worker has served for a day."""
    workers = await read_workers(connection)  # first: a worker announces its cards before its report
    announced, (seconds, _) = await connection.pipeline([("HGETALL", keys.MODELS), ("TIME",)])
    now_s = int(seconds)
    cards = [card for text in announced.values() if (card := _parse_record(text, {"name", "version", "seen", "kinds"}))]
    cards = [
        card
        for card in cards
        if MODEL_NAME.fullmatch(str(card["name"])) and MODEL_VERSION.fullmatch(str(card["version"]))
    ]
    stale = [card for card in cards if now_s - card["seen"] > FORGET_AFTER_S]
    if stale:
        await connection.command("HDEL", keys.MODELS, *(f"{card['name']} {card['version']}" for card in stale))
        cards = [card for card in cards if card not in stale]
    return ClusterState(sorted(cards, key=lambda card: (card["name"], card["version"])), workers, now_s)


async def read_workers(connection: RedisClient) -> list[WorkerReport]:
    """Read the reports of all live workers."""
    ids = [worker_id.decode() for worker_id in await connection.command("SMEMBERS", keys.WORKERS)]
    values = await connection.pipeline([("GET", keys.worker(worker_id)) for worker_id in ids]) if ids else []
    if expired := [worker_id for worker_id, value in zip(ids, values, strict=True) if value is None]:
        await connection.command("SREM", keys.WORKERS, *expired)
    reports = [_parse_record(value, {"id", "pid", "host", "models", "failed"}) for value in values if value]
    return [
        WorkerReport(**{name: report[name] for name in WORKER_FIELDS if name in report}) for report in reports if report
    ]


async def read_report_ages(connection: RedisClient, workers: Sequence[WorkerReport]) -> dict[str, float]:
    """Return the seconds since the last heartbeat of each worker that is alive and says how long its reports count."""
    known = [worker for worker in workers if worker.ttl_s]
    left_ms = await connection.pipeline([("PTTL", keys.worker(worker.id)) for worker in known]) if known else []
    return {worker.id: max(0.0, worker.ttl_s - ms / 1000) for worker, ms in zip(known, left_ms, strict=True) if ms >= 0}


def _parse_record(text: bytes, required: set[str]) -> dict[str, Any] | None:
    """Parse a record that a worker of any release wrote; None if it is unusable."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        value = None
    if isinstance(value, dict) and required <= value.keys():
        return value
    log.warning("cannot read an announcement in the queue: %.80r", text)
    return None
