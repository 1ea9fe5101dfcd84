"""Turns results of `submit.lua` into acceptances and errors, and divides the queue's capacity by lane and shard."""

from collections.abc import Sequence
from functools import cache
from typing import Final, NamedTuple

from jobs.contract.errors import JitneyError, OverLimit, QueueFull, Refused, StoreUnavailable
from jobs.contract.job import Accepted, Lane, Submission
from jobs.store.settings import StoreSettings
from jobs.tenants.limits import TenantLimits

BROKEN_RETRY_AFTER_S: Final = 60  # an operator must repair it


def caps_of(settings: StoreSettings, lane: Lane) -> tuple[int, int]:
    """Return how many rows of one model may be open in a lane on one shard, and how many bytes of input.

    Bulk may use nine tenths of the capacity, so that it never blocks interactive jobs.
    """
    return _caps(settings.max_jobs, settings.max_input_bytes, settings.shards, lane == "bulk")


@cache
def _caps(max_jobs: int, max_bytes: int, shards: int, is_bulk: bool) -> tuple[int, int]:
    jobs, size = (max(1, cap // shards) for cap in (max_jobs, max_bytes))
    return (max(1, jobs * 9 // 10), max(1, size * 9 // 10)) if is_bulk else (jobs, size)


class SubmitResults(NamedTuple):
    """Reads results of `submit.lua` that are not a new job."""

    settings: StoreSettings
    tenants: TenantLimits

    def read(self, job: Submission, result: Sequence[bytes]) -> Accepted | JitneyError:
        """Return the acceptance of an earlier job, or the error. `result`: see `submit.lua`."""
        status, first, second, *kept = result
        if status == b"mismatch":
            message = f"Idempotency-Key {job.idempotency_key!r} was used with another request"
            return Refused("idempotency_mismatch", message)
        if status == b"broken":
            message = f"the Redis key that should hold the queue of model {job.model} is of another type"
            return StoreUnavailable(message, retry_after_s=BROKEN_RETRY_AFTER_S)
        if status == b"lost":
            return StoreUnavailable("the input was lost on its way to Redis: send the request again")
        if status == b"quota":
            kept_bytes = int(kept[0]) if kept else 0
            return self._refuse_oversized(job) or self._over_quota(job, int(first), int(second), kept_bytes)
        if status == b"full":
            return self._refuse_oversized(job) or self._full(job, int(first), int(second))
        return Accepted(first.decode(), int(second), replayed=status == b"replayed")

    def _refuse_oversized(self, job: Submission) -> Refused | None:
        """Refuse a job that alone is above a limit on the sum, so that no wait helps; None if it is not."""
        most_rows, most_bytes = caps_of(self.settings, job.lane)
        what, quota = f"the inputs of model {job.model} in lane {job.lane}", self.tenants.quota(job.tenant).split()
        if len(quota) > 1:  # of its tenant, on one shard
            most_rows = min(most_rows, int(quota[0]))
            if self.tenants.limits(job.tenant).bytes and int(quota[1]) < most_bytes:
                most_bytes, what = int(quota[1]), "the inputs of all your open jobs"
        if job.rows > 1 and job.rows > most_rows:
            message = f"the job has {job.rows} rows, and at most {most_rows} may be open: send several jobs"
            return Refused("invalid_request", message, limit=most_rows)
        if len(job.input) > most_bytes:
            message = f"the input has {len(job.input)} bytes, and {what} may have at most {most_bytes}"
            return Refused("body_too_large", f"{message}: send a smaller input", limit_bytes=most_bytes)
        return None

    def _full(self, job: Submission, jobs: int, size: int) -> JitneyError:
        message = f"{jobs} jobs of model {job.model} with {size} bytes of input are open; retry later"
        limits = {"limit_jobs": self.settings.max_jobs, "limit_bytes": self.settings.max_input_bytes}
        return QueueFull(message, model=job.model, **limits)

    def _over_quota(self, job: Submission, jobs: int, size: int, kept: int) -> JitneyError:
        limits = self.tenants.limits(job.tenant)
        outputs_kept = f" and {kept} bytes of outputs are kept" if kept else ""
        message = f"{jobs} jobs with {size} bytes of input are open{outputs_kept}, and this one would exceed your limit"
        if kept:
            message += f"; outputs count for {self.settings.result_ttl_s:g} s after their jobs have ended"
        facts = {"limit_jobs": limits.jobs, "limit_bytes": limits.bytes, "output_bytes": kept}
        return OverLimit("quota_exceeded", message, **{name: fact for name, fact in facts.items() if fact})
