"""Steps of maintenance in Redis: sweeps of overdue jobs, lost leases and leftovers; recovery of a dead worker's jobs.

Every step is idempotent and takes no lock, so that any gateway may run it at any time.
"""

from collections.abc import Sequence
from typing import NamedTuple

from jobs.contract.ids import shard_of
from jobs.store import dead_letters
from jobs.store.job_store import JobStore

SWEEP_LIMIT = 500
RECOVER_LIMIT = 1000  # timers per script call


class SweepResult(NamedTuple):
    """Number of jobs that a sweep moved, and the server's time in ms."""

    now_ms: int
    reclaimed: int
    given_up: int
    expired: int
    due: int
    purged: int


class Recovered(NamedTuple):
    """Number of a dead worker's jobs by what became of them."""

    back: int
    suspects: int
    poison: int


async def sweep(store: JobStore, latest_ms: float) -> SweepResult:
    """Expire overdue jobs, reclaim lost leases, enqueue due retries, purge old dead letters, uncount expired outputs.

    Reclaims nothing if the server's clock is beyond `latest_ms`, nor in this sweep if `latest_ms` is 0.
    """
    total, now_ms = [0] * 5, 0
    for root in store.roots:
        moved = [SWEEP_LIMIT]
        while max(moved) >= SWEEP_LIMIT:
            now_ms, expired, back, failed = await expire_and_reclaim(store, root, SWEEP_LIMIT, latest_ms)
            due = await enqueue_due_retries(store, root, SWEEP_LIMIT)
            purged = await dead_letters.purge_shard(store, root, SWEEP_LIMIT)
            moved = [expired + back + failed, due, purged, await _uncount_outputs(store, root, SWEEP_LIMIT)]
            total = [sum(pair) for pair in zip(total, (back, failed, expired, due, purged), strict=True)]
    return SweepResult(now_ms, *total)


async def expire_and_reclaim(store: JobStore, root: str, limit: int, latest_ms: float) -> tuple[int, int, int, int]:
    """End overdue jobs of a shard and take back lost leases.

    Returns the server's time in ms, and how many jobs expired, were queued again, and failed.
    """
    args = (limit, store.settings.max_lost_leases, int(latest_ms), *store.retention_args)
    now_ms, expired, back, failed = await store.run("maintenance/expire_and_reclaim", root, *args)
    return now_ms, expired, back, failed


async def enqueue_due_retries(store: JobStore, root: str, limit: int) -> int:
    """Queue jobs of a shard whose retry is due; return how many."""
    return int(await store.run("maintenance/enqueue_due_retries", root, limit))


async def _uncount_outputs(store: JobStore, root: str, limit: int) -> int:
    """Stop counting outputs of a shard that have expired; return how many groups of them there were."""
    return int(await store.run("maintenance/uncount_expired_outputs", root, limit))


async def recover_dead_worker(store: JobStore, worker: str, suspects: Sequence[tuple[str, int]]) -> Recovered:
    """Release all leases of a dead worker, which had the lease length of these settings.

    `suspects`: the claims (id, attempt) that it was executing.
    """
    suspects = list(dict.fromkeys(suspects))  # a duplicate claim is one suspect
    total = [0, 0, 0]
    cooldown_ms = int(store.settings.suspect_cooldown_s * 1000)
    head = (worker, store.settings.max_kills, int(len(suspects) == 1), cooldown_ms)
    for shard, root in enumerate(store.roots):
        claims = [arg for claim in suspects if shard_of(claim[0]) == shard for arg in claim]
        rank: int | str = ""
        while rank != 0:
            place = (rank, RECOVER_LIMIT, int(store.settings.lease_s * 1000))
            *moved, rank = await store.run(
                "maintenance/recover_dead_worker", root, *head, *store.retention_args, *place, *claims
            )
            total = [sum(pair) for pair in zip(total, moved, strict=True)]
            claims = []
    return Recovered(*total)
