"""Server-sent events: what happens to one job, or to all of a tenant's, as it happens; after a break from where it was.

A stream is told by notices that there is something to read, and reads at each heartbeat too: a lost notice costs time.
An outage of the queue ends it; whoever reads it comes back.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

import orjson

from api.auth.authentication import Caller
from jobs.contract.errors import OverLimit, Refused, StoreUnavailable
from jobs.contract.job import Job
from jobs.contract.job_view import job_view
from jobs.redis_client.event_wait import wait_for_event
from jobs.redis_client.periodic_refresh import PeriodicRefresh
from jobs.store import events
from jobs.store.codec import read_notification
from jobs.store.job_store import JobStore

log = logging.getLogger("jitney.api")

RETRY_FIELD: Final = b"retry: 1000\n\n"  # ms until a browser that was cut off comes back
KEEPALIVE: Final = b": beat\n\n"
LOST_EVENT: Final = (
    b'event: lost\ndata: {"detail":"some events are kept no more; GET /v1/jobs lists how jobs stand"}\n\n'
)
LISTENER_TTL_S: Final = 15.0  # a gateway that falls silent is thought to listen for so long
RETRY_AFTER_S: Final = 5

Stream = AsyncGenerator[bytes]


class EventStreams(PeriodicRefresh):
    """The streams of this gateway."""

    def __init__(self, store: JobStore, gateway_id: str, heartbeat_s: float, most: int) -> None:
        super().__init__(log, "learn who is listened to")
        self._store, self._gateway, self._heartbeat_interval_s, self._most = store, gateway_id, heartbeat_s, most
        self._jobs: dict[str, set[asyncio.Event]] = {}
        self._tenants: dict[str, set[asyncio.Event]] = {}
        self._open: dict[str, int] = {}  # streams by tenant
        self._closed = False

    # ---- what is heard

    def on_notification(self, notice: bytes) -> None:
        """Hear that jobs stand anew."""
        if self._jobs:
            with suppress(ValueError):  # it was complained about already
                for job_id, _ in read_notification(notice):
                    _wake(self._jobs.get(job_id, ()))

    def on_log_change(self, tenant: bytes) -> None:
        """Hear that a tenant's log has grown."""
        _wake(self._tenants.get(tenant.decode(errors="replace"), ()))

    async def refresh(self) -> None:
        """Tell and learn once."""
        self._store.listened = await events.register_listeners(self._store, [*self._tenants], LISTENER_TTL_S)

    def close(self) -> None:
        """End all streams, now and from now on; their readers come back elsewhere, and go on where they were."""
        self._closed = True
        for waiting in (self._jobs, self._tenants):
            for some in waiting.values():
                _wake(some)

    # ---- what is told

    async def stream_job(self, caller: Caller, job_id: str, last: int, is_known: Callable[[Caller], bool]) -> Stream:
        """Tell each state that a job came into since the `last`, and end with the final one."""
        with self._stream(caller.tenant, self._jobs, job_id) as changed, suppress(StoreUnavailable):
            yield RETRY_FIELD
            while not self._closed and is_known(caller):
                changed.clear()
                job, changes = await events.follow_job(self._store, job_id, self._gateway)
                if job is None:
                    return
                with suppress(Refused):  # its output is kept no more
                    job = await self._store.with_output(job)
                for change in changes[last:]:
                    yield _encode_event(
                        str(change.ordinal), change.state, _view(job, change.state, is_last=change is changes[-1])
                    )
                last = max(last, len(changes))
                if job.is_final:
                    return
                if not await self._next(changed):
                    yield KEEPALIVE

    async def stream_tenant(self, caller: Caller, position: str, is_known: Callable[[Caller], bool]) -> Stream:
        """Tell each change of a tenant's jobs behind a place in its log; '': those from now on."""
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
                if not entries and not await self._next(changed):
                    yield KEEPALIVE

    @contextmanager
    def _stream(self, tenant: str, where: dict[str, set[asyncio.Event]], key: str) -> Iterator[asyncio.Event]:
        """Count a stream, and let it be woken."""
        changed = asyncio.Event()
        self._open[tenant] = self._open.get(tenant, 0) + 1
        where.setdefault(key, set()).add(changed)
        try:
            yield changed
        finally:
            where[key].discard(changed)
            if not where[key]:
                del where[key]
            self._open[tenant] -= 1
            if not self._open[tenant]:
                del self._open[tenant]

    def check_stream_limit(self, tenant: str) -> None:
        """Raise OverLimit where a tenant has as many streams open as it may."""
        if self._open.get(tenant, 0) >= self._most:
            message = f"{self._most} event streams of yours are open at this gateway, as many as may be"
            raise OverLimit("rate_limited", message, limit=self._most, retry_after_s=RETRY_AFTER_S)

    async def _next(self, changed: asyncio.Event) -> bool:
        """Wait for a word; False where none came for a heartbeat."""
        return await wait_for_event(changed, self._heartbeat_interval_s)


def _wake(streams: "set[asyncio.Event] | tuple[()]") -> None:
    for changed in streams:
        changed.set()


def _view(job: Job, state: str, *, is_last: bool) -> dict[str, object]:
    """Show the job as it stands now; of what it went through before, no more is kept than the state."""
    return job_view(job) if is_last else {"id": job.id, "status": state}


def _encode_event(event_id: str, event: str, view: dict[str, object]) -> bytes:
    data = orjson.dumps(view).replace(b"\n", b"\ndata: ")
    return b"id: %s\nevent: %s\ndata: %s\n\n" % (event_id.encode(), event.encode(), data)
