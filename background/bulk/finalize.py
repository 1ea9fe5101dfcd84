"""Ends a bulk job: stores its last outcomes, sets its status, queues its webhook; also the backoff of failed steps."""

import logging
from contextlib import suppress
from typing import Final, NamedTuple

import orjson

from background.bulk.collect import Collector
from jobs.bulk import checkpoints
from jobs.bulk.checkpoints import BulkSnapshot, LeaseLost
from jobs.bulk.records import Bulk, bulk_view
from jobs.bulk.settings import BulkSettings
from jobs.bulk.storage import Storage
from jobs.contract.errors import JitneyError, RetryLater, StoreUnavailable
from jobs.contract.job_view import format_timestamp
from jobs.redis_client.pipelined_connection import Arg
from jobs.store.background_lease import BackgroundLease
from jobs.store.job_store import JobStore

log = logging.getLogger("jitney.background")

MAX_BACKOFF_S: Final = 60.0  # longest pause before a failed step is retried
MAX_DOUBLINGS: Final = 10


class StepBackoff(NamedTuple):
    """Result of a step: seconds until the next, why the bulk job is stalled, whether the step failed unexpectedly."""

    after_s: float = 0.0
    stalled: str = ""
    is_fault: bool = False


def backoff_after(faults: int, first_s: float, fault: str) -> StepBackoff:
    """Return the backoff after an unexpected failure: `first_s`, doubled for each of `faults` earlier ones in a row."""
    after_s = min(MAX_BACKOFF_S, first_s * 2 ** min(faults, MAX_DOUBLINGS))
    stalled = f"a step failed unexpectedly ({fault}) and will be retried; see the log of `jitney background`"
    return StepBackoff(after_s, stalled, is_fault=True)


def overdue_s(snapshot: BulkSnapshot) -> float:
    """Return for how many seconds a bulk job is past its end (cancellation or expiry); negative before it."""
    bulk = snapshot.bulk
    due_ms = min(bulk.expires_ms, bulk.times.get("cancelling", bulk.expires_ms))
    return (snapshot.now_ms - due_ms) / 1000


class BulkFinalizer:
    """Ends the bulk jobs of one process."""

    def __init__(self, settings: BulkSettings, store: JobStore, storage: Storage, collector: Collector) -> None:
        self._settings, self._store, self._storage, self._collector = settings, store, storage, collector

    async def close(self, lease: BackgroundLease, bulk: Bulk, status: str, now_ms: int) -> None:
        """End a bulk job and queue its webhook; raises LeaseLost, StoreUnavailable."""
        fields: dict[str, Arg] = {f"{status}_ms": now_ms}
        if bulk.errors:
            fields |= {"errors": bulk.errors, "total": bulk.total}
        if status == "completed":
            fields["finalizing_ms"] = now_ms
        times = {**bulk.times, **{name.removesuffix("_ms"): now_ms for name in fields if name.endswith("_ms")}}
        view = bulk_view(bulk._replace(status=status, times=times, stalled=""))  # type: ignore[arg-type]
        message = {"type": f"batch.{status}", "timestamp": format_timestamp(now_ms * 1000), "data": view}
        end = checkpoints.BulkCompletion(status, bulk.webhook, orjson.dumps(message), fields)
        await checkpoints.close_bulk(self._store, lease, end, self._settings.kept_s)
        self._collector.forget(bulk.id)
        counts = (bulk.total, bulk.completed, bulk.failed)
        log.info("batch_%s %s: %d lines, %d completed, %d failed", bulk.id, status, *counts)
        with suppress(RetryLater):
            await self._storage.remove(f"bulks/{bulk.id}/plan")

    async def abort(self, lease: BackgroundLease, snapshot: BulkSnapshot, error: JitneyError) -> None:
        """End a bulk job that cannot go on, and record `error`: cancelled or expired if overdue, else failed.

        Stores the outcomes collected so far if possible. Raises LeaseLost, StoreUnavailable.
        """
        snapshot = await self._store_outcomes(lease, snapshot)
        bulk = snapshot.bulk
        status = "failed"
        if overdue_s(snapshot) >= 0:
            status = "cancelled" if bulk.status == "cancelling" else "expired"
        reason = {"code": error.code, "message": error.message, "param": error.details.get("param"), "line": None}
        errors = orjson.dumps({"object": "list", "data": [reason]})
        log.warning("batch_%s cannot go on and ends as %s: %s", bulk.id, status, error.message)
        await self.close(lease, bulk._replace(errors=errors), status, snapshot.now_ms)

    async def _store_outcomes(self, lease: BackgroundLease, snapshot: BulkSnapshot) -> BulkSnapshot:
        lease_ms = int(self._settings.bulk_step_lease_s * 1000)
        try:
            while await self._collector.collect(lease, snapshot, is_last=True):
                snapshot = await checkpoints.begin_step(self._store, lease, lease_ms)
        except (LeaseLost, StoreUnavailable):
            raise
        except Exception as error:  # noqa: BLE001 (the bulk job ends all the same, and records the reason)
            log.warning("cannot store the last outcomes of batch_%s: %s", snapshot.bulk.id, error)
        return snapshot
