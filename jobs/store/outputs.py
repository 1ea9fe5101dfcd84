"""Large outputs in Redis: written in chunks before the outcome that names them, read piece by piece.

An output of at most 16 kB lies in the job's record, one of at most a chunk in a field of its own, a larger one in the
keys `:output:<id>:<attempt>:<number>`. Chunks travel on the connection of large calls, one at a time and with pauses,
so that claims, lease renewals and small outcomes never wait behind them.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final

from jobs.contract.errors import JitneyError, StoreFull, StoreUnavailable
from jobs.contract.job import Job, Outcome
from jobs.contract.lifecycle import State
from jobs.metrics.server_memory import read_server_memory
from jobs.redis_client import keys
from jobs.redis_client.client import RedisClient
from jobs.redis_client.pipelined_connection import pack_set
from jobs.store import codec

PAUSE_FACTOR: Final = 3  # pause after a chunk, in multiples of the time that it took
OUTAGE_PAUSE_S: Final = 0.2
LEASES_TO_FINISH: Final = 10  # lease lengths after which chunks without an outcome expire


class OutputGone(Exception):
    """The output is no longer kept, or part of it was lost with its server."""


class OutputWriter:
    """Writes the chunks of large outputs, in turn with other outputs of this process."""

    def __init__(self, connection: RedisClient, lease_s: float, watermark: float = 1) -> None:
        """Create a writer. `watermark`: share of the server's memory above which no output is written."""
        self._connection, self._lease_s, self._watermark = connection, lease_s, watermark
        self._unwritten_bytes = 0  # of outputs that passed the watermark
        self._ttl_ms = int(LEASES_TO_FINISH * lease_s * 1000)
        self._lock = asyncio.Lock()  # held while a chunk is on its way to Redis, and during the pause after it

    async def write(self, outcome: Outcome, is_needed: Callable[[], bool]) -> Outcome | None:
        """Write the chunks of an outcome; return the outcome that names them, or a failed one if there is no memory.

        Returns None, and leaves no chunk, once `is_needed` returns False. Raises StoreUnavailable if Redis is away for
        longer than a lease.
        """
        size = sum(map(len, outcome.chunks))
        if reason := await self._refusal(size):
            return _not_stored(outcome, size, reason)
        self._unwritten_bytes += size
        try:
            return await self._write_chunks(outcome, size, is_needed)
        finally:
            self._unwritten_bytes -= size

    async def _refusal(self, size: int) -> str:
        """Return why an output of this size is not written; "" if it is."""
        try:
            used, limit = await read_server_memory(self._connection)
        except StoreUnavailable:  # the first chunk waits for the end of the outage
            return ""
        mark = int(limit * self._watermark)
        if not limit or used + self._unwritten_bytes + size <= mark:
            return ""
        return f"Redis uses {used} of {limit} bytes, and large outputs are stored up to {mark}"

    async def _write_chunks(self, outcome: Outcome, size: int, is_needed: Callable[[], bool]) -> Outcome | None:
        writes = [self._write_chunk(outcome, number, is_needed) for number in range(len(outcome.chunks))]
        tasks = [asyncio.ensure_future(write) for write in writes]
        try:
            are_written = await asyncio.gather(*tasks)
        except BaseException as error:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._drop(outcome)
            if isinstance(error, StoreFull):
                return _not_stored(outcome, size, "Redis is out of memory")
            raise
        if not all(are_written):
            await self._drop(outcome)
            return None
        return outcome._replace(body=b"", chunks=(), chunk_count=len(outcome.chunks), chunked_bytes=size)

    async def _write_chunk(self, outcome: Outcome, number: int, is_needed: Callable[[], bool]) -> bool:
        async with self._lock:
            clock = asyncio.get_running_loop().time
            give_up_at = clock() + self._lease_s
            key = keys.output(outcome.id, outcome.attempt, number)
            while is_needed():
                began = clock()
                try:
                    command = pack_set(key, outcome.chunks[number], "PX", self._ttl_ms)
                    await self._connection.pipeline([command], large=True)
                except StoreFull:
                    raise
                except StoreUnavailable:
                    if clock() > give_up_at:
                        raise
                    await asyncio.sleep(OUTAGE_PAUSE_S)
                else:
                    await asyncio.sleep(PAUSE_FACTOR * (clock() - began))
                    return True
            return False

    async def _drop(self, outcome: Outcome) -> None:
        try:
            await drop_chunks(self._connection, outcome.id, outcome.attempt, len(outcome.chunks))
        except StoreUnavailable:  # then they expire
            return


def _not_stored(outcome: Outcome, size: int, reason: str) -> Outcome:
    message = f"there is no memory for this output of {size} bytes: {reason}; send the job again later"
    error = JitneyError("output_not_stored", message)
    return outcome._replace(state=State.FAILED, body=codec.error_body(error), chunks=())


async def drop_chunks(connection: RedisClient, job_id: str, attempt: int, count: int) -> None:
    """Delete the chunks of an output. Raises StoreUnavailable."""
    await connection.command("UNLINK", *(keys.output(job_id, attempt, number) for number in range(count)))


async def have_chunks(connection: RedisClient, job_id: str, attempt: int, count: int) -> bool:
    """Return whether all chunks of an output exist. Raises StoreUnavailable."""
    names = [keys.output(job_id, attempt, number) for number in range(count)]
    return bool(await connection.command("EXISTS", *names) == count)


async def read_pieces(connection: RedisClient, job: Job) -> AsyncIterator[bytes]:
    """Yield a job's output, at most a chunk at a time. Raises OutputGone, StoreUnavailable."""
    if job.output is not None:
        yield job.output
        return
    fields = ("large_output", "output_chunks")
    ((whole, count),) = await connection.pipeline([("HMGET", keys.job(job.id), *fields)], large=True)
    if whole is not None:
        yield whole
        return
    if count is None:
        raise OutputGone
    async for piece in read_chunks(connection, job.id, job.attempts, int(count)):
        yield piece


async def read_chunks(connection: RedisClient, job_id: str, attempt: int, count: int) -> AsyncIterator[bytes]:
    """Yield the chunks of an output. Raises OutputGone, StoreUnavailable."""
    for number in range(count):
        (piece,) = await connection.pipeline([("GET", keys.output(job_id, attempt, number))], large=True)
        if piece is None:
            raise OutputGone
        yield piece


async def count_kept_bytes(connection: RedisClient, shards: int, tenants: Sequence[str] = ()) -> dict[str, int]:
    """Return the bytes of kept outputs by tenant; "" has those of all. Small ones count where a tenant has a quota."""
    fields = ("outputs", *(f"@{tenant}:outputs" for tenant in tenants))
    commands = [("HMGET", keys.open_totals(shard), *fields) for shard in range(shards)]
    answers = await connection.pipeline(commands)
    sums = [sum(int(value or 0) for value in values) for values in zip(*answers, strict=True)]
    return dict(zip(("", *tenants), sums, strict=True))
