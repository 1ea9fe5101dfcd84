"""Counts what this process refused by error code, and adds the counts to a sum in Redis that all processes share."""

from collections import Counter
from typing import Final

from jobs.contract.errors import JitneyError
from jobs.redis_client import generic_scripts, keys
from jobs.redis_client.client import RedisClient

_JOB: Final = "job"  # in the details of an error about a job that was accepted before

_uncounted: Counter[str] = Counter()  # since the last flush


def count_refusal(error: JitneyError) -> None:
    """Count an error that a caller gets, unless it tells the end of an accepted job."""
    if _JOB not in error.details:
        _uncounted[error.code] += 1


async def flush(connection: RedisClient) -> None:
    """Add the counts to Redis and clear them. A failed call loses them rather than count them twice."""
    if _uncounted:
        counts = dict(_uncounted)
        _uncounted.clear()
        await generic_scripts.increment(connection, keys.REFUSALS, counts)


async def read_refusals(connection: RedisClient) -> dict[str, int]:
    """Return the refusals of all processes by error code."""
    return {code.decode(): int(count) for code, count in (await connection.command("HGETALL", keys.REFUSALS)).items()}
