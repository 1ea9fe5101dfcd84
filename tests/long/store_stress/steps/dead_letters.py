"""Steps of callers with dead letters: read, purge, replay."""

from typing import cast

from jobs.contract.errors import Refused
from jobs.contract.job import Submission
from jobs.models.catalog import ModelCard, ModelCatalog
from jobs.redis_client import keys
from jobs.store import dead_letters
from jobs.store.admission import admit_replay
from tests.long.store_stress.model.ledger import Job, Violation
from tests.long.store_stress.model.world import World, now_ms
from tests.long.store_stress.steps.submitting import submit_jobs


class FixedCatalog:
    """A catalogue in which every model accepts the input of any dead letter."""

    def __init__(self, size: int) -> None:
        self._size = size

    def find(self, name: str) -> ModelCard:
        inputs = [{"name": "x", "datatype": "UINT8", "shape": [self._size]}]
        card = {"name": name, "version": "1", "kinds": ["raw"], "inputs": inputs, "max_rows": 7}
        return cast("ModelCard", card | {"raw_bytes": self._size, "deadline_ms": None})


def list_letters(world: World) -> list[Job]:
    return [job for of_shard in world.ledger.letters.values() for job in of_shard if not job.is_forgotten]


async def read_letter(world: World) -> None:
    """Read a dead letter: it keeps its exact input."""
    among = list_letters(world)
    if not among:
        return
    job = world.rng.choice(among)
    try:
        letter = await dead_letters.get_dead_letter(world.store, job.sub.tenant, job.id)
        body = await dead_letters.read_input(world.store, letter)
    except Refused:
        _check_gone(world, job)
        return
    if body != job.sub.input:
        raise Violation(f"the dead letter {job} has another input")


def _check_gone(world: World, job: Job) -> None:
    """A dead letter is removed when purged, expired, or evicted, which `Kept` has recorded."""
    if not world.kept.is_old(job.final_ms, now_ms()):
        raise Violation(f"the dead letter {job} is gone too early")
    job.is_forgotten = True


async def purge(world: World) -> None:
    """Purge some dead letters."""
    among = list_letters(world)
    if not among:
        return
    picked = world.rng.sample(among, min(len(among), 2))
    for job in picked:
        job.is_purged = True
    _, _, fate = await world.call(lambda: dead_letters.purge_dead_letters(world.store, [job.id for job in picked]))
    if fate in ("once", "twice"):
        same = [job for job in picked if world.ledger.jobs[job.id] is job]  # no job that was created again since then
        left = [await _has_input(world, job.id) for job in same]
        if any(left):
            raise Violation(f"the dead letters {picked} were purged, and keep their inputs")
    for job in picked:
        job.is_forgotten |= fate != "unsent"


async def replay(world: World) -> None:
    """Replay a dead letter: as one new job, however often it is replayed in the same state."""
    among = list_letters(world)
    if not among:
        return
    job = world.rng.choice(among)
    try:
        letter = await dead_letters.get_dead_letter(world.store, job.sub.tenant, job.id)
        body = await dead_letters.read_input(world.store, letter)
    except Refused:
        _check_gone(world, job)
        return
    catalog = cast("ModelCatalog", FixedCatalog(len(body) // (letter.rows or 1)))
    again: Submission = admit_replay(
        letter, body, catalog, idempotency_key="", shards=world.settings.shards, max_deadline_ms=60_000
    )
    earlier = world.ledger.jobs.get(again.id)
    if earlier is not None and earlier.is_final:
        return  # the earlier sender died before that was noted: its job has ended, and its id is not free
    (is_taken,) = await submit_jobs(world, [again])
    if is_taken and world.chance(0.8):  # else the sender dies here
        await dead_letters.mark_replayed(world.store, job.id, again.id)
        noted = await world.connection.command("HGET", keys.job(job.id), "replayed")
        if noted is not None and noted.decode() != again.id:
            raise Violation(f"{job} was sent again as {again.id}, and says {noted}")
        if noted is None and await _has_input(world, job.id):
            raise Violation(f"{job} was sent again as {again.id}, and does not say so")
        world.ledger.steps["dead letter sent again"] += 1


async def _has_input(world: World, job_id: str) -> bool:
    commands = [("HEXISTS", keys.job(job_id), "body"), ("EXISTS", keys.input_key(job_id))]
    return any(await world.connection.pipeline(commands))
