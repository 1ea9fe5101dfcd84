"""Who serves what: workers announce their models in Redis, gateways learn them from there.

An announcement outlives its worker, so that jobs are accepted while workers are restarted; whether somebody is there to
run them is another question, and the live workers answer it.
"""

import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Final

import orjson

from jobs.redis_client import keys
from jobs.redis_client.client import RedisClient

log = logging.getLogger("jitney.jobs")

# What workers may announce: names are parts of keys in Redis, of metrics and of what callers are shown.
MODEL_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
MODEL_VERSION: Final = re.compile(r"[0-9]{1,18}")
FORGET_AFTER_S = 86_400  # a model that no worker has served for a day is no longer known


@dataclass(frozen=True, slots=True)
class WorkerReport:
    """What a worker says of itself with each beat."""

    id: str
    pid: int
    host: str
    models: list[str] = field(default_factory=list)  # "name version" that it runs
    failed: dict[str, str] = field(default_factory=dict)  # name → why its folder as a whole can not be read
    ceilings: dict[str, dict[str, int]] = field(default_factory=dict)  # "name version" → shapes → largest batch
    chosen: dict[str, str] = field(default_factory=dict)  # name → the version that it would give jobs to
    leaving: list[str] = field(default_factory=list)  # "name version" that it runs only until their lines are empty
    loading: list[str] = field(default_factory=list)  # "name version"
    unloadable: dict[str, str] = field(default_factory=dict)  # "name version" → reason
    folder_versions: dict[str, list[str]] = field(default_factory=dict)  # name → the versions in its folder
    digests: dict[str, str] = field(default_factory=dict)  # "name version" → digest of the files it has of it
    lease_s: float = 0.0  # how long its leases are; 0: not told


WORKER_FIELDS = tuple(one.name for one in fields(WorkerReport))


@dataclass(frozen=True, slots=True)
class ClusterState:
    """All models known to the queue, and the workers alive now. A card is what `model_runtime.model.Model.card` gives.

    `now_s`: the time of the queue's server when this was read.
    """

    cards: list[dict[str, Any]]
    workers: list[WorkerReport]
    now_s: float = 0.0

    def serving(self, name: str, version: str) -> int:
        """Count live workers that serve this model version."""
        return sum(f"{name} {version}" in worker.models for worker in self.workers)

    @property
    def longest_lease_s(self) -> float:
        """Give the longest lease of a live worker; 0 where none is known."""
        return max((worker.lease_s for worker in self.workers), default=0.0)

    def digests(self) -> dict[str, dict[str, list[WorkerReport]]]:
        """Give each version ("name version") of which live workers have different files: digest → who has it."""
        found: dict[str, dict[str, list[WorkerReport]]] = {}
        for worker in self.workers:
            for version, digest in worker.digests.items():
                found.setdefault(version, {}).setdefault(digest, []).append(worker)
        return {version: by_digest for version, by_digest in sorted(found.items()) if len(by_digest) > 1}

    def ceilings(self, name: str, version: str) -> dict[str, int]:
        """Collect the batch sizes that some live worker's memory has room for, where that is fewer than the cap."""
        known: dict[str, int] = {}
        for worker in self.workers:
            for shapes, ceiling in worker.ceilings.get(f"{name} {version}", {}).items():
                known[shapes] = min(ceiling, known.get(shapes, ceiling))
        return known

    def failures(self) -> dict[str, str]:
        """Collect the models that some live worker could not load, any version of them, with the reason."""
        versions = [pair for worker in self.workers for pair in worker.unloadable.items()]
        models = [pair for worker in self.workers for pair in worker.failed.items()]
        return {name.partition(" ")[0]: reason for name, reason in versions} | dict(models)

    def failure(self, name: str, version: str) -> str | None:
        """Give why some live worker could not load this version, or its model as a whole."""
        reasons = [worker.unloadable.get(f"{name} {version}") or worker.failed.get(name) for worker in self.workers]
        return next(filter(None, reasons), None)

    def votes(self, name: str) -> dict[str, int]:
        """Count the live workers that would give a model's jobs to each version, and run it."""
        votes: Counter[str] = Counter()
        for worker in self.workers:
            runs = [model.partition(" ")[2] for model in worker.models if model.partition(" ")[0] == name]
            runs = [version for version in runs if f"{name} {version}" not in worker.leaving]
            choice = worker.chosen.get(name) if worker.chosen else max(runs, key=version_number, default=None)
            if choice in runs:
                votes[str(choice)] += 1
        return votes

    def leaving(self, name: str, version: str) -> int:
        """Count live workers that run this version only until its lines are empty."""
        return sum(f"{name} {version}" in worker.leaving for worker in self.workers)

    def loading(self, name: str, version: str) -> bool:
        """Whether a live worker is loading this version just now."""
        return any(f"{name} {version}" in worker.loading for worker in self.workers)

    def folder_versions(self, name: str) -> list[str]:
        """List the versions that lie in some live worker's folder, lowest first."""
        return sorted(
            {version for worker in self.workers for version in worker.folder_versions.get(name, [])}, key=version_number
        )

    def versions(self, name: str) -> list[str]:
        """List the versions that are known in whatever way, lowest first."""
        cards = {card["version"] for card in self.cards if card["name"] == name}
        said = [words.partition(" ") for worker in self.workers for words in (*worker.unloadable, *worker.loading)]
        known = cards.union(
            self.folder_versions(name), (version for whose, _, version in said if whose == name and version)
        )
        return sorted(filter(MODEL_VERSION.fullmatch, known), key=version_number)

    def names(self) -> list[str]:
        """List all models that are announced, failed or lie in a folder."""
        known = {card["name"] for card in self.cards} | self.failures().keys()
        return sorted(known.union(*(worker.folder_versions for worker in self.workers)))


def version_number(version: str) -> int:
    """Give a version's number, by which the highest is told; -1 for what is none."""
    return int(version) if MODEL_VERSION.fullmatch(version) else -1


async def register_worker(
    connection: RedisClient, report: WorkerReport, cards: Sequence[Mapping[str, Any]], ttl_s: float
) -> None:
    """Say what this worker serves; it counts as alive for `ttl_s` from now."""
    words = [word for card in cards for word in (f"{card['name']} {card['version']}", orjson.dumps(card))]
    if words:
        await connection.script("registry/announce_models", keys.MODELS, *words)
    await connection.script(
        "generic/write_with_ttl", keys.worker(report.id), "", "SET", orjson.dumps(report), "PX", int(ttl_s * 1000)
    )
    await connection.script("generic/write_with_ttl", keys.WORKERS, FORGET_AFTER_S, "SADD", report.id)


async def claim_digests(
    connection: RedisClient, worker_id: str, digests: Mapping[str, str], ttl_s: float
) -> dict[str, str]:
    """Say which files a worker has of model versions ("name version" → digest); gives the digests that are served.

    What is announced first is served, until no live worker has it. `ttl_s`: how long it counts; 0: it has them no more.
    """
    if not digests:
        return {}
    words = [word for pair in digests.items() for word in pair]
    served = await connection.script("registry/hold_digests", keys.DIGESTS, worker_id, int(ttl_s * 1000), *words)
    return {version: digest.decode() for version, digest in zip(digests, served, strict=True)}


async def notify_models_changed(connection: RedisClient) -> None:
    """Have gateways look again at once: models came or went."""
    await connection.command("PUBLISH", keys.INVALIDATION, "models")


async def forget_version(connection: RedisClient, name: str, version: str) -> None:
    """Forget a version whose files are gone: it takes no job any more, for no worker could come back with it."""
    await connection.command("HDEL", keys.MODELS, f"{name} {version}")


async def deregister_worker(connection: RedisClient, worker_id: str) -> None:
    """Take a worker that stops off the list of live ones; its models stay known."""
    await connection.command("DEL", keys.worker(worker_id))
    await notify_models_changed(connection)


async def read_cluster_state(connection: RedisClient) -> ClusterState:
    """Read what is announced; models not seen for a day are dropped."""
    workers = await _read_workers(connection)  # first: what a worker says it runs, it has described before
    known, (seconds, _) = await connection.pipeline([("HGETALL", keys.MODELS), ("TIME",)])
    now_s = int(seconds)
    cards = [card for text in known.values() if (card := _parse_record(text, {"name", "version", "seen", "kinds"}))]
    cards = [
        card
        for card in cards
        if MODEL_NAME.fullmatch(str(card["name"])) and MODEL_VERSION.fullmatch(str(card["version"]))
    ]
    forgotten = [card for card in cards if now_s - card["seen"] > FORGET_AFTER_S]
    if forgotten:
        await connection.command("HDEL", keys.MODELS, *(f"{card['name']} {card['version']}" for card in forgotten))
        cards = [card for card in cards if card not in forgotten]
    return ClusterState(sorted(cards, key=lambda card: (card["name"], card["version"])), workers, now_s)


async def _read_workers(connection: RedisClient) -> list[WorkerReport]:
    ids = [worker_id.decode() for worker_id in await connection.command("SMEMBERS", keys.WORKERS)]
    values = await connection.pipeline([("GET", keys.worker(worker_id)) for worker_id in ids]) if ids else []
    if gone := [worker_id for worker_id, value in zip(ids, values, strict=True) if value is None]:
        await connection.command("SREM", keys.WORKERS, *gone)
    reports = [_parse_record(value, {"id", "pid", "host", "models", "failed"}) for value in values if value]
    return [
        WorkerReport(**{name: report[name] for name in WORKER_FIELDS if name in report}) for report in reports if report
    ]


def _parse_record(text: bytes, needed: set[str]) -> dict[str, Any] | None:
    """Read what some worker wrote, of an earlier or a later release than ours; None where it is of no use."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        value = None
    if isinstance(value, dict) and needed <= value.keys():
        return value
    log.warning("an announcement in the queue can not be read: %.80r", text)
    return None
