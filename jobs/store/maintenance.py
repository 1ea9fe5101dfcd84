"""What keeps the queue in order: overdue jobs end, lost ones go back, a dead worker is buried, old letters go.

Every step is idempotent: any gateway may take it at any time, and none has a lock to die with.
"""

from collections.abc import Sequence
from typing import NamedTuple

from jobs.contract.ids import shard_of
from jobs.store.job_store import JobStore

SWEEP_LIMIT = 500
RECOVER_LIMIT = 1000  # leases that one script looks at


class SweepResult(NamedTuple):
    """What one sweep moved, and the server's time in ms."""

    now_ms: int
    reclaimed: int
    given_up: int
    expired: int
    due: int
    purged: int


class Recovered(NamedTuple):
    """What became of a dead worker's jobs."""

    back: int
    suspects: int
    poison: int


async def sweep(store: JobStore, latest_ms: float) -> SweepResult:
    """End overdue jobs, take back those whose lease is over, let due retries go, forget old dead letters.

    Nothing is taken back where the server's clock stands beyond `latest_ms`; 0: not in this sweep.
    """
    total, now_ms = [0] * 5, 0
    for root in store.roots:
        moved = [SWEEP_LIMIT]
        while max(moved) >= SWEEP_LIMIT:
            expired = await store.run("maintenance/expire", root, SWEEP_LIMIT, *store.ends)
            words = (SWEEP_LIMIT, store.settings.max_lost_leases, int(latest_ms), *store.ends)
            now_ms, back, failed = await store.run("maintenance/reclaim", root, *words)
            due = await store.run("maintenance/enqueue_due_retries", root, SWEEP_LIMIT)
            purged = await store.run("dead_letter/purge", root, SWEEP_LIMIT, *store.ends)
            moved = [back + failed, expired, due, purged]
            total = [sum(pair) for pair in zip(total, (back, failed, expired, due, purged), strict=True)]
    return SweepResult(now_ms, *total)


async def recover_dead_worker(store: JobStore, worker: str, suspects: Sequence[tuple[str, int]]) -> Recovered:
    """Give back at once what a dead worker held; `suspects` are the claims (id, attempt) that it had in hands."""
    suspects = list(dict.fromkeys(suspects))  # a claim that is named twice is one suspect, and lies in one cell
    total = [0, 0, 0]
    rest_ms = int(store.settings.suspect_cooldown_s * 1000)
    head = (worker, store.settings.max_kills, int(len(suspects) == 1), rest_ms)
    for shard, root in enumerate(store.roots):
        words = [word for claim in suspects if shard_of(claim[0]) == shard for word in claim]
        rank: int | str = ""
        while rank != 0:
            *moved, rank = await store.run(
                "maintenance/recover_dead_worker", root, *head, *store.ends, rank, RECOVER_LIMIT, *words
            )
            total = [sum(pair) for pair in zip(total, moved, strict=True)]
            words = []
    return Recovered(*total)
