"""Produces server-sent event streams: of one job's states, of all changes to a tenant's jobs, of queue snapshots.

The first two are resumable by event id.

A stream reads from Redis when a notification arrives, and at each keepalive in case a notification was lost. An outage
of Redis ends the stream. Its reader then reconnects.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

import orjson

from api.auth.authentication import Caller
from api.gateway.output_streams import OutputStreams, enclose
from api.gateway.snapshot_feed import SnapshotFeed
from jobs.contract.errors import OverLimit, Refused, StoreUnavailable
from jobs.contract.job import Job
from jobs.contract.job_view import job_view, linked_view, split_view
from jobs.redis_client.event_wait import wait_for_event
from jobs.redis_client.periodic_refresh import PeriodicRefresh
from jobs.store import events
from jobs.store.codec import read_notification
from jobs.store.job_store import JobStore
from jobs.store.outputs import OutputGone

log = logging.getLogger("jitney.api")

RETRY_FIELD: Final = b"retry: 1000\n\n"  # ms until a disconnected browser reconnects
KEEPALIVE: Final = b": beat\n\n"
LOST_EVENT: Final = (
    b'event: lost\ndata: {"detail":"some events are no longer stored; GET /v1/jobs lists the current states"}\n\n'
)
LISTENER_TTL_S: Final = 15.0  # a gateway that stops refreshing its listeners is dropped after this time
RETRY_AFTER_S: Final = 5

Stream = AsyncGenerator[bytes]


class EventStreams(PeriodicRefresh):
    """The event streams that this gateway process serves."""

    def __init__(
        self, store: JobStore, gateway_id: str, keepalive_s: float, max_streams: int, outputs: OutputStreams
    ) -> None:
        super().__init__(log, "refresh the listening tenants")
        self._outputs = outputs
        self._store, self._gateway, self._keepalive_s, self._max_streams = store, gateway_id, keepalive_s, max_streams
        self._jobs: dict[str, set[asyncio.Event]] = {}
        self._tenants: dict[str, set[asyncio.Event]] = {}
        self._snapshots: dict[str, set[asyncio.Event]] = {}
        self._open: dict[str, int] = {}  # streams by tenant
        self._closed = False

    # ---- notifications

    def on_notification(self, notification: bytes) -> None:
        """Wake the streams of the jobs that changed."""
        if self._jobs:
            with suppress(ValueError):  # JobWaiters logs it
                for job_id, _ in read_notification(notification):
                    _wake(self._jobs.get(job_id, ()))

    def on_log_change(self, tenant: bytes) -> None:
        """Wake the streams of a tenant whose event log has grown."""
        _wake(self._tenants.get(tenant.decode(errors="replace"), ()))

    async def refresh(self) -> None:
        """Register the tenants that listen here and read those that listen anywhere. Raises StoreUnavailable."""
        self._store.listened = await events.register_listeners(self._store, [*self._tenants], LISTENER_TTL_S)

    def close(self) -> None:
        """End all streams and refuse new ones. Their readers reconnect to another gateway and resume there."""
        self._closed = True
        for waiting in (self._jobs, self._tenants, self._snapshots):
            for streams in waiting.values():
                _wake(streams)

    # ---- streams

    async def stream_job(
        self,
        caller: Caller,
        job_id: str,
        last: int,
        is_known: Callable[[Caller], bool],
        evict: Callable[[], None] | None = None,
    ) -> Stream:
        """Yield each state change of a job after the `last` one, and end after its final state.

        `evict` ends the request when the memory of a large output that it reads slowly is needed for other tenants.
        """
        with self._stream(caller.tenant, self._jobs, job_id) as changed, suppress(StoreUnavailable):
            yield RETRY_FIELD
            while not self._closed and is_known(caller):
                changed.clear()
                job, changes = await events.follow_job(self._store, job_id, self._gateway)
                if job is None:
                    return
                for change in changes[last:]:
                    is_last, name = change is changes[-1], str(change.ordinal)
                    if is_last and job.output_bytes and job.output is None:
                        async for part in self._large_event(caller.tenant, name, job, evict):
                            yield part
                    else:
                        yield _encode_event(name, change.state, _view(job, change.state, is_last=is_last))
                last = max(last, len(changes))
                if job.is_final:
                    return
                if not await wait_for_event(changed, self._keepalive_s):
                    yield KEEPALIVE

    async def stream_tenant(self, caller: Caller, position: str, is_known: Callable[[Caller], bool]) -> Stream:
        """Yield each change of a tenant's jobs after a position in its event log; '' starts at the end of the log."""
        tenant = caller.tenant
        with self._stream(tenant, self._tenants, tenant) as changed, suppress(StoreUnavailable):
            await self.refresh()
            await events.notify_listeners_changed(self._store)
            yield RETRY_FIELD
            if position and await events.has_gap(self._store, tenant, position):
                yield LOST_EVENT
            position = position or await events.find_log_end(self._store, tenant)
            while not self._closed and is_known(caller):
                changed.clear()
                entries = await events.read_log(self._store, tenant, position)
                for entry in entries:
                    position = entry.position
                    yield _encode_event(position, entry.state, {"id": entry.job_id, "status": entry.state})
                if not entries and not await wait_for_event(changed, self._keepalive_s):
                    yield KEEPALIVE

    async def stream_snapshots(self, caller: Caller, feed: SnapshotFeed, is_known: Callable[[Caller], bool]) -> Stream:
        """Yield each snapshot of a feed, from the present one on. A slow reader misses some."""
        with self._stream(caller.tenant, self._snapshots, "") as closed, suppress(StoreUnavailable):
            yield RETRY_FIELD
            while not self._closed and is_known(caller):
                yield b"event: snapshot\ndata: %s\n\n" % await feed.read_latest()
                await wait_for_event(closed, feed.due_in_s())

    async def _large_event(
        self, tenant: str, name: str, job: Job, evict: Callable[[], None] | None
    ) -> AsyncIterator[bytes]:
        """Yield the event with a job's large output in parts, or with a link to it if it cannot be read now."""
        try:
            share, pieces = await self._outputs.open(tenant, job, evict)
        except (Refused, OverLimit):
            yield _encode_event(name, job.state, linked_view(job))
            return
        head, tail = split_view(lambda marked: _encode_event(name, marked.state, job_view(marked)), job)
        with share, suppress(OutputGone):  # then the stream ends within the event, which its reader drops
            async for part in enclose(head, pieces, tail):
                yield part

    @contextmanager
    def _stream(self, tenant: str, waiting: dict[str, set[asyncio.Event]], key: str) -> Iterator[asyncio.Event]:
        """Count an open stream and give the event that wakes it."""
        changed = asyncio.Event()
        self._open[tenant] = self._open.get(tenant, 0) + 1
        waiting.setdefault(key, set()).add(changed)
        try:
            yield changed
        finally:
            waiting[key].discard(changed)
            if not waiting[key]:
                del waiting[key]
            self._open[tenant] -= 1
            if not self._open[tenant]:
                del self._open[tenant]

    def check_stream_limit(self, tenant: str) -> None:
        """Raise OverLimit if a tenant has reached its limit of open streams."""
        if self._open.get(tenant, 0) >= self._max_streams:
            message = f"this tenant has reached its limit of {self._max_streams} open event streams at this gateway"
            raise OverLimit("rate_limited", message, limit=self._max_streams, retry_after_s=RETRY_AFTER_S)


def _wake(streams: "set[asyncio.Event] | tuple[()]") -> None:
    for changed in streams:
        changed.set()


def _view(job: Job, state: str, *, is_last: bool) -> dict[str, object]:
    """Return the full job for its latest change; only the state of earlier changes is stored."""
    return job_view(job) if is_last else {"id": job.id, "status": state}


def _encode_event(event_id: str, event: str, view: dict[str, object]) -> bytes:
    data = orjson.dumps(view).replace(b"\n", b"\ndata: ")
    return b"id: %s\nevent: %s\ndata: %s\n\n" % (event_id.encode(), event.encode(), data)
