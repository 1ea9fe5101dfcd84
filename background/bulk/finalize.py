"""Ends a bulk as completed, failed, cancelled or expired, and computes the backoff after a failed step."""

import logging
from contextlib import suppress
from typing import Final, NamedTuple

import orjson

from background.bulk.collect import Collector
from jobs.bulk import checkpoints
from jobs.bulk.checkpoints import Overtaken, Stand
from jobs.bulk.records import Bulk, view
from jobs.bulk.settings import BulkSettings
from jobs.bulk.storage import Storage
from jobs.contract.background_lease import Flight
from jobs.contract.errors import JitneyError, NotNow, StoreUnavailable
from jobs.contract.job_view import timestamp
from jobs.redis_client.pipelined_connection import Word
from jobs.store.job_store import JobStore

log = logging.getLogger("jitney.deliver")

LONGEST_REST_S: Final = 60.0  # between two tries of a step that fails unexpectedly
MOST_DOUBLINGS: Final = 10


class Rest(NamedTuple):
    """What follows a step: seconds until the next, why the bulk cannot go on, whether the step failed unexpectedly."""

    after_s: float = 0.0
    stalled: str = ""
    is_fault: bool = False


def rest_after(faults: int, first_s: float, fault: str) -> Rest:
    """Give the rest after an unexpected failure that follows so many others in a row: each twice as long."""
    after_s = min(LONGEST_REST_S, first_s * 2 ** min(faults, MOST_DOUBLINGS))
    stalled = f"a step failed unexpectedly ({fault}) and is tried again; the log of `jitney deliver` has the details"
    return Rest(after_s, stalled, is_fault=True)


def overdue_s(stand: Stand) -> float:
    """Give for how many seconds a bulk should have ended, cancelled or expired; below 0: it should not yet."""
    bulk = stand.bulk
    due_ms = min(bulk.expires_ms, bulk.times.get("cancelling", bulk.expires_ms))
    return (stand.now_ms - due_ms) / 1000


class Closer:
    """Ends bulks for one process."""

    def __init__(self, settings: BulkSettings, store: JobStore, storage: Storage, collector: Collector) -> None:
        self._settings, self._store, self._storage, self._collector = settings, store, storage, collector

    async def close(self, flight: Flight, bulk: Bulk, status: str, now_ms: int) -> None:
        """End a bulk, and have its webhook told; raises Overtaken, StoreUnavailable."""
        fields: dict[str, Word] = {f"{status}_ms": now_ms}
        if bulk.errors:
            fields |= {"errors": bulk.errors, "total": bulk.total}
        if status == "completed":
            fields["finalizing_ms"] = now_ms
        times = {**bulk.times, **{name.removesuffix("_ms"): now_ms for name in fields if name.endswith("_ms")}}
        told = view(bulk._replace(status=status, times=times, stalled=""))  # type: ignore[arg-type]  # one of them
        message = {"type": f"batch.{status}", "timestamp": timestamp(now_ms * 1000), "data": told}
        end = checkpoints.Close(status, bulk.webhook, orjson.dumps(message), fields)
        await checkpoints.close(self._store, flight, end, self._settings.kept_s)
        self._collector.forget(bulk.id)
        counts = (bulk.total, bulk.completed, bulk.failed)
        log.info("batch_%s %s: %d lines, %d completed, %d failed", bulk.id, status, *counts)
        with suppress(NotNow):
            await self._storage.remove(f"bulks/{bulk.id}/plan")

    async def give_up(self, flight: Flight, stand: Stand, error: JitneyError) -> None:
        """End a bulk that cannot go on: cancelled or expired where it is overdue, else failed; `errors` has the reason.

        Outcomes that are there are stored before, if that is possible. Raises Overtaken, StoreUnavailable.
        """
        stand = await self._store_outcomes(flight, stand)
        bulk = stand.bulk
        status = "failed"
        if overdue_s(stand) >= 0:
            status = "cancelled" if bulk.status == "cancelling" else "expired"
        reason = {"code": error.code, "message": error.message, "param": error.details.get("param"), "line": None}
        errors = orjson.dumps({"object": "list", "data": [reason]})
        log.warning("batch_%s cannot go on and is %s: %s", bulk.id, status, error.message)
        await self.close(flight, bulk._replace(errors=errors), status, stand.now_ms)

    async def _store_outcomes(self, flight: Flight, stand: Stand) -> Stand:
        flight_ms = int(self._settings.bulk_flight_s * 1000)
        try:
            while await self._collector.collect(flight, stand, is_last=True):
                stand = await checkpoints.begin(self._store, flight, flight_ms)
        except (Overtaken, StoreUnavailable):
            raise
        except Exception as error:  # noqa: BLE001 (the bulk ends all the same, and its reason is told)
            log.warning("outcomes of batch_%s are lost with it: %s", stand.bulk.id, error)
        return stand
