"""Pauses of queues and workers: stored in Redis as desired state, which gateways and workers read and follow.

A paused lane of a model is not claimed from. Its pause says whether gateways still accept jobs for it. A paused worker
claims nothing; it finishes the jobs that it has.
"""

import logging
from collections.abc import Callable, Collection, Mapping
from typing import Final, Literal, NamedTuple

import orjson

from jobs.contract.errors import RetryLater
from jobs.contract.job import LANES, Lane
from jobs.redis_client import generic_scripts, keys
from jobs.redis_client.client import RedisClient
from jobs.redis_client.periodic_refresh import PeriodicRefresh

log = logging.getLogger("jitney.jobs")

PAUSES_CHANGED: Final = b"pauses"
RETRY_AFTER_S: Final = 30  # nobody knows when the operator resumes the queue
FORGET_AFTER_S: Final = 86_400  # pauses of workers that are gone are kept at least this long
SubmitRule = Literal["accept", "refuse"]
SUBMIT_RULES: Final[tuple[SubmitRule, ...]] = ("accept", "refuse")


class Pause(NamedTuple):
    """A pause: whether submits are accepted meanwhile, since when (server time), and the id of the key that asked."""

    submits: SubmitRule
    since_s: int
    by: str


class PausedState(NamedTuple):
    """All pauses: of queues by model and lane, and of workers by id."""

    queues: Mapping[tuple[str, str], Pause]
    workers: Mapping[str, Pause]

    def lanes(self, model: str) -> list[Lane]:
        """Return the paused lanes of a model."""
        return [lane for lane in LANES if (model, lane) in self.queues]


NOTHING_PAUSED: Final = PausedState({}, {})


class Pauses(PeriodicRefresh):
    """A process's copy of all pauses. `on_change` is called when they change."""

    def __init__(self, connection: RedisClient, on_change: Callable[[], None] = lambda: None) -> None:
        super().__init__(log, "refresh the pauses")
        self._connection, self._on_change = connection, on_change
        self.state = NOTHING_PAUSED

    async def refresh(self) -> None:
        """Read the pauses once."""
        state = await read_pauses(self._connection)
        if state != self.state:
            self.state = state
            self._on_change()

    def refusal(self, model: str, lane: str) -> RetryLater | None:
        """Return the error that refuses new jobs for this queue, or None if they are accepted."""
        pause = self.state.queues.get((model, lane)) if self.state.queues else None
        if pause is None or pause.submits == "accept":
            return None
        message = f"the queue of model {model}, lane {lane}, is paused and takes no new jobs"
        return RetryLater("queue_paused", message, retry_after_s=RETRY_AFTER_S)


async def read_pauses(connection: RedisClient) -> PausedState:
    """Read all pauses. An unreadable one is logged and ignored."""
    stored: Mapping[bytes, bytes] = await connection.command("HGETALL", keys.PAUSES)
    queues: dict[tuple[str, str], Pause] = {}
    workers: dict[str, Pause] = {}
    for field, text in stored.items():
        try:
            what, name, *lane = field.decode().split(" ")
            value = orjson.loads(text)
            pause = Pause("refuse" if value["submits"] == "refuse" else "accept", int(value["since_s"]), value["by"])
            if what == "queue":
                queues[name, lane[0]] = pause
            elif what == "worker":
                workers[name] = pause
        except (ValueError, TypeError, KeyError, IndexError):
            log.warning("cannot read a pause, which is ignored: %.80r", field)
    return PausedState(queues, workers)


async def pause_queue(
    connection: RedisClient, model: str, lanes: Collection[Lane], submits: SubmitRule, by: str
) -> None:
    """Pause lanes of a model; all processes are notified. An earlier pause of these lanes is replaced."""
    pause = Pause(submits, await connection.now_ms() // 1000, by)
    await _write(connection, {f"queue {model} {lane}": pause for lane in lanes})


async def resume_queue(connection: RedisClient, model: str, lanes: Collection[Lane]) -> None:
    """Resume lanes of a model; all processes are notified."""
    await _delete(connection, [f"queue {model} {lane}" for lane in lanes])


async def pause_worker(connection: RedisClient, worker_id: str, by: str, alive: Collection[str]) -> None:
    """Have a worker claim nothing; all processes are notified. Old pauses of workers that are not alive are removed."""
    now_s = await connection.now_ms() // 1000
    known = (await read_pauses(connection)).workers.items()
    if gone := [name for name, pause in known if name not in alive and now_s - pause.since_s > FORGET_AFTER_S]:
        await _delete(connection, [f"worker {name}" for name in gone])
    await _write(connection, {f"worker {worker_id}": Pause("accept", now_s, by)})


async def resume_worker(connection: RedisClient, worker_id: str) -> None:
    """Have a worker claim again, or forget the pause of one that is gone."""
    await _delete(connection, [f"worker {worker_id}"])


async def _write(connection: RedisClient, pauses: Mapping[str, Pause]) -> None:
    fields = [arg for field, pause in pauses.items() for arg in (field, orjson.dumps(pause._asdict()))]
    await generic_scripts.write_with_ttl(connection, keys.PAUSES, None, "HSET", *fields)
    await connection.command("PUBLISH", keys.INVALIDATION, PAUSES_CHANGED)


async def _delete(connection: RedisClient, fields: Collection[str]) -> None:
    await connection.command("HDEL", keys.PAUSES, *fields)
    await connection.command("PUBLISH", keys.INVALIDATION, PAUSES_CHANGED)
