"""Ends a bulk as completed, failed, cancelled or expired, and computes the backoff after a failed step."""

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
from jobs.contract.background_lease import BackgroundLease
from jobs.contract.errors import JitneyError, RetryLater, StoreUnavailable
from jobs.contract.job_view import format_timestamp
from jobs.redis_client.pipelined_connection import Arg
from jobs.store.job_store import JobStore

log = logging.getLogger("jitney.deliver")

MAX_BACKOFF_S: Final = 60.0  # between two tries of a step that fails unexpectedly
MAX_DOUBLINGS: Final = 10


class StepBackoff(NamedTuple):
    """What follows a step: seconds until the next, why the bulk cannot go on, whether the step failed unexpectedly."""

    after_s: float = 0.0
    stalled: str = ""
    is_fault: bool = False


def backoff_after(faults: int, first_s: float, fault: str) -> StepBackoff:
    """Give the rest after an unexpected failure that follows so many others in a row: each twice as long."""
    after_s = min(MAX_BACKOFF_S, first_s * 2 ** min(faults, MAX_DOUBLINGS))
    stalled = f"a step failed unexpectedly ({fault}) and is tried again; the log of `jitney background` has the details"
    return StepBackoff(after_s, stalled, is_fault=True)


def overdue_s(snapshot: BulkSnapshot) -> float:
    """Give for how many seconds a bulk should have ended, cancelled or expired; below 0: it should not yet."""
    bulk = snapshot.bulk
    due_ms = min(bulk.expires_ms, bulk.times.get("cancelling", bulk.expires_ms))
    return (snapshot.now_ms - due_ms) / 1000


class BulkFinalizer:
    """Ends bulks for one process."""

    def __init__(self, settings: BulkSettings, store: JobStore, storage: Storage, collector: Collector) -> None:
        self._settings, self._store, self._storage, self._collector = settings, store, storage, collector

    async def close(self, lease: BackgroundLease, bulk: Bulk, status: str, now_ms: int) -> None:
        """End a bulk, and have its webhook told; raises Overtaken, StoreUnavailable."""
        fields: dict[str, Arg] = {f"{status}_ms": now_ms}
        if bulk.errors:
            fields |= {"errors": bulk.errors, "total": bulk.total}
        if status == "completed":
            fields["finalizing_ms"] = now_ms
        times = {**bulk.times, **{name.removesuffix("_ms"): now_ms for name in fields if name.endswith("_ms")}}
        told = bulk_view(bulk._replace(status=status, times=times, stalled=""))  # type: ignore[arg-type]  # one of them
        message = {"type": f"batch.{status}", "timestamp": format_timestamp(now_ms * 1000), "data": told}
        end = checkpoints.BulkCompletion(status, bulk.webhook, orjson.dumps(message), fields)
        await checkpoints.close_bulk(self._store, lease, end, self._settings.kept_s)
        self._collector.forget(bulk.id)
        counts = (bulk.total, bulk.completed, bulk.failed)
        log.info("batch_%s %s: %d lines, %d completed, %d failed", bulk.id, status, *counts)
        with suppress(RetryLater):
            await self._storage.remove(f"bulks/{bulk.id}/plan")

    async def abort(self, lease: BackgroundLease, snapshot: BulkSnapshot, error: JitneyError) -> None:
        """End a bulk that cannot go on: cancelled or expired where it is overdue, else failed; `errors` has the reason.

        Outcomes that are there are stored before, if that is possible. Raises Overtaken, StoreUnavailable.
        """
        snapshot = await self._store_outcomes(lease, snapshot)
        bulk = snapshot.bulk
        status = "failed"
        if overdue_s(snapshot) >= 0:
            status = "cancelled" if bulk.status == "cancelling" else "expired"
        reason = {"code": error.code, "message": error.message, "param": error.details.get("param"), "line": None}
        errors = orjson.dumps({"object": "list", "data": [reason]})
        log.warning("batch_%s cannot go on and is %s: %s", bulk.id, status, error.message)
        await self.close(lease, bulk._replace(errors=errors), status, snapshot.now_ms)

    async def _store_outcomes(self, lease: BackgroundLease, snapshot: BulkSnapshot) -> BulkSnapshot:
        lease_ms = int(self._settings.bulk_step_lease_s * 1000)
        try:
            while await self._collector.collect(lease, snapshot, is_last=True):
                snapshot = await checkpoints.begin_step(self._store, lease, lease_ms)
        except (LeaseLost, StoreUnavailable):
            raise
        except Exception as error:  # noqa: BLE001 (the bulk ends all the same, and its reason is told)
            log.warning("outcomes of batch_%s are lost with it: %s", snapshot.bulk.id, error)
        return snapshot
