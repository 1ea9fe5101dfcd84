"""Usage by tenant: jobs, bytes and device time; accepted jobs by queue. Each process adds them up and flushes.

Nothing is written for a single job. A killed process loses what it has not flushed. The flush also notes the tenants
that submit jobs, so that lists over all tenants find theirs.
"""

import time
from collections import Counter
from collections.abc import Sequence
from typing import Final, NamedTuple

from jobs.contract.ids import TENANT_NAME
from jobs.contract.job import Submission
from jobs.redis_client import generic_scripts, keys
from jobs.redis_client.client import RedisClient
from jobs.tenants import api_keys

NOTE_INTERVAL_S: Final = 300.0  # between two notes of the same tenant by one process
TENANTS_PER_FLUSH: Final = 200  # per script, so that other clients are served in between


class Usage(NamedTuple):
    """Usage of one tenant since the queue was created. Device time in µs; a batch's time is shared by its rows.

    `jobs`, `rows`, `input_bytes`: of accepted jobs. `jobs_run`, `output_bytes`, `device_us`: of jobs that workers ran.
    """

    jobs: int = 0
    rows: int = 0
    input_bytes: int = 0
    jobs_run: int = 0
    output_bytes: int = 0
    device_us: int = 0


class UsageBuffer:
    """Usage by tenant that was not flushed yet."""

    def __init__(self) -> None:
        self._sums: dict[str, list[float]] = {}
        self._accepted: Counter[tuple[str, str, str]] = Counter()  # jobs by model, version and lane
        self._noted_at: dict[str, float] = {}  # tenant → when it was noted, on the monotonic clock

    def count_submitted(self, job: Submission) -> None:
        """Count an accepted job."""
        sums = self._sums.get(job.tenant) or self._sums.setdefault(job.tenant, [0] * len(Usage._fields))
        sums[0] += 1
        sums[1] += job.rows or 1
        sums[2] += len(job.input)
        self._accepted[job.model, job.version, job.lane] += 1

    def count_run(self, tenant: str, output_bytes: int, device_ms: float) -> None:
        """Count a job that a worker has run."""
        sums = self._sums.get(tenant) or self._sums.setdefault(tenant, [0] * len(Usage._fields))
        sums[3] += 1
        sums[4] += output_bytes
        sums[5] += device_ms * 1000

    async def flush(self, connection: RedisClient) -> None:
        """Add the usage to Redis and clear it. A failed call loses it rather than count it twice."""
        sums, self._sums = self._sums, {}
        tenants = list(sums)
        for first in range(0, len(tenants), TENANTS_PER_FLUSH):
            amounts = {
                f"{tenant} {name}": round(amount)
                for tenant in tenants[first : first + TENANTS_PER_FLUSH]
                for name, amount in zip(Usage._fields, sums[tenant], strict=True)
                if round(amount)
            }
            await generic_scripts.increment(connection, keys.USAGE, amounts)
        accepted, self._accepted = self._accepted, Counter()
        for model in {model for model, _, _ in accepted}:
            counts = {accepted_field(*queue): jobs for (name, *queue), jobs in accepted.items() if name == model}
            await generic_scripts.increment(connection, keys.stats(model), counts)
        now = time.monotonic()
        if new := [
            tenant for tenant in tenants if now - self._noted_at.get(tenant, -NOTE_INTERVAL_S) >= NOTE_INTERVAL_S
        ]:
            await connection.command("SADD", keys.KNOWN_TENANTS, *new)
            self._noted_at |= dict.fromkeys(new, now)


def accepted_field(version: str, lane: str) -> str:
    """Return the field of a model's statistics that has how many jobs a queue has accepted."""
    return f"accepted:{version}:{lane}"


async def read_accepted(connection: RedisClient, queues: Sequence[tuple[str, str, str]]) -> list[int]:
    """Return how many jobs were accepted so far by queues: model, version and lane."""
    commands = [("HGET", keys.stats(model), accepted_field(version, lane)) for model, version, lane in queues]
    return [int(count or 0) for count in (await connection.pipeline(commands) if commands else [])]


async def read_usage(connection: RedisClient, tenants: Sequence[str]) -> dict[str, Usage]:
    """Return the usage of tenants; zeros for one that never submitted a job."""
    if not tenants:
        return {}
    fields = [f"{tenant} {name}" for tenant in tenants for name in Usage._fields]
    values: Sequence[bytes | None] = await connection.command("HMGET", keys.USAGE, *fields)
    size = len(Usage._fields)
    sums = [int(value or 0) for value in values]
    return {tenant: Usage(*sums[nth * size : (nth + 1) * size]) for nth, tenant in enumerate(tenants)}


async def read_known_tenants(connection: RedisClient) -> list[str]:
    """Return all tenants that have submitted jobs, or have a key or limits of their own, in the order of names."""
    noted, limited = await connection.pipeline([("SMEMBERS", keys.KNOWN_TENANTS), ("HKEYS", keys.TENANTS)])
    known = {name.decode(errors="replace") for name in (*noted, *limited)}
    known |= {key.tenant for key in (await api_keys.read_keys(connection)).values()}
    return sorted(name for name in known if TENANT_NAME.fullmatch(name))
