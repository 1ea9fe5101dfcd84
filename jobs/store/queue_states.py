"""Reads how many jobs wait in the queues of a model version, and since when."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from jobs.contract.job import LANES
from jobs.redis_client.client import RedisClient
from jobs.store.codec import MAX_TIME_US

TENANTS_BATCH: Final = 200  # tenants whose queues one script counts


class QueueState(NamedTuple):
    """Jobs that wait in a lane of a model version, and when the oldest of them was accepted (None: there is none)."""

    waiting: int
    oldest_us: int | None


async def read_queue_states(
    connection: RedisClient, roots: Sequence[str], model: str, version: str
) -> dict[str, QueueState]:
    """Return the queued jobs of a model version by lane; the lane "suspect" has those that run in isolation."""
    lanes = (*LANES, "suspect")
    sums, oldest = [0] * len(lanes), [MAX_TIME_US] * len(lanes)
    for root in roots:
        first, more = 0, 1
        while more:
            more, *found = await connection.script("job/queue_depth", root, model, version, first, TENANTS_BATCH)
            sums = [sum(pair) for pair in zip(sums, found[::2], strict=True)]
            oldest = [min(pair) for pair in zip(oldest, (int(us or MAX_TIME_US) for us in found[1::2]), strict=True)]
            first += TENANTS_BATCH
    states = [QueueState(n, None if us == MAX_TIME_US else us) for n, us in zip(sums, oldest, strict=True)]
    return dict(zip(lanes, states, strict=True))
