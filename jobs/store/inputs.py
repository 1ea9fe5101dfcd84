"""Large inputs in Redis: each is written to a key of its own before the submit, and read by the worker of its job.

An input above this size would be copied several times by a script. Until the submit accepts the job and makes the key
permanent, it expires soon, so that a refused or lost submit leaves nothing. It is deleted when the job ends.
"""

from collections.abc import Sequence
from typing import Final

from jobs.contract.job import ClaimedJob, Submission
from jobs.redis_client import keys
from jobs.redis_client.client import RedisClient
from jobs.redis_client.pipelined_connection import pack_set
from jobs.store.codec import OWN_KEY_BYTES

UNSUBMITTED_TTL_MS: Final = 60_000


def script_bytes(job: Submission) -> int:
    """Return the size of the input in the arguments of the submit script: 0 for a large one."""
    size = len(job.input)
    return size if size < OWN_KEY_BYTES else 0


async def write_inputs(connection: RedisClient, jobs: Sequence[Submission]) -> None:
    """Write the inputs of these jobs. Raises StoreFull, StoreUnavailable."""
    # NX: a line of a bulk job may be submitted again, and then its input must not start to expire.
    commands = [pack_set(keys.input_key(job.id), job.input, "NX", "PX", UNSUBMITTED_TTL_MS) for job in jobs]
    await connection.pipeline(commands, large=True)


async def drop_inputs(connection: RedisClient, job_ids: Sequence[str]) -> None:
    """Delete inputs whose jobs were not accepted. Raises StoreUnavailable: then they expire."""
    await connection.command("UNLINK", *map(keys.input_key, job_ids))


async def read_inputs(connection: RedisClient, claimed: Sequence[ClaimedJob]) -> list[ClaimedJob]:
    """Return claimed jobs with their inputs; a missing input stays None. Raises StoreUnavailable."""
    apart = [job.id for job in claimed if job.input is None]
    if not apart:
        return list(claimed)
    values = await connection.pipeline([("GET", keys.input_key(job_id)) for job_id in apart], large=True)
    found = dict(zip(apart, values, strict=True))
    return [job if job.input is not None else job._replace(input=found[job.id]) for job in claimed]
