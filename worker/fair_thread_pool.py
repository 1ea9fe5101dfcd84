"""Runs preprocessing and custom code on threads, shared fairly among tenants.

One thread more than configured is reserved for tenants that have no work running and whose last inputs were fast.
A tenant's models are served in rotation. Called from the event loop; idle threads fetch work themselves.
"""

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Final, Generic, NamedTuple, Protocol, TypeVar

T = TypeVar("T")

SLOW_S: Final = 0.05  # a tenant whose inputs take longer is slow
_SLOWNESS_DECAY: Final = 0.7  # share of the measured slowness that remains after one more input


class WorkExecutor(Protocol):
    """Runs work outside the event loop."""

    def submit(self, work: "Work[T]") -> "asyncio.Future[T]":
        """Run work in a thread."""


class Work(NamedTuple, Generic[T]):
    """A function to run for `inputs` inputs. `until`: when its jobs expire, on the monotonic clock."""

    tenant: str
    model: str
    run: Callable[[], T]
    inputs: int = 1
    until: float = math.inf


class _PendingWork(NamedTuple):
    work: Work[Any]
    future: "Future[Any]"


class FairThreadPool:
    """Threads and their pending work."""

    def __init__(self, threads: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Create a pool; threads start with the first work. `threads`: most that one tenant may use at a time."""
        self._max_per_tenant, self._clock = threads, clock
        self._changed = threading.Condition()
        self._pending: dict[str, dict[str, deque[_PendingWork]]] = {}  # tenant → model → work, both in rotation order
        self._running: dict[str, int] = {}
        self._slow: dict[str, float] = {}  # tenant → seconds per input
        self._threads: list[threading.Thread] = []
        self._until: dict[int, float] = {}  # thread → when its work expires
        self._idle = 0
        self._closed = False

    @property
    def size(self) -> int:
        """Maximum number of threads."""
        return self._max_per_tenant + 1

    def is_slow(self, tenant: str) -> bool:
        """Return whether the last inputs of a tenant were slow."""
        return self._slow.get(tenant, 0.0) > SLOW_S

    def has_other_tenants(self, tenant: str) -> bool:
        """Return whether other tenants have running or pending work."""
        with self._changed:
            return any(other != tenant for other in (*self._running, *self._pending))

    def are_all_stuck(self, since_s: float) -> bool:
        """Return whether every thread has run expired work for over `since_s` seconds, so that nothing else can run."""
        with self._changed:
            return len(self._until) == self.size and max(self._until.values()) + since_s < self._clock()

    def submit(self, work: Work[T]) -> "asyncio.Future[T]":
        """Run work in a thread when the tenant rotation reaches it."""
        future: Future[T] = Future()
        with self._changed:
            by_model = self._pending.setdefault(work.tenant, {})
            by_model.setdefault(work.model, deque()).append(_PendingWork(work, future))
            self._wake()
        return asyncio.wrap_future(future)

    def close(self) -> None:
        """Start no more work; cancel pending work."""
        with self._changed:
            self._closed = True
            canceled = [item for by_model in self._pending.values() for queue in by_model.values() for item in queue]
            self._pending.clear()
            self._changed.notify_all()
        for item in canceled:
            item.future.cancel()

    def _wake(self) -> None:
        """Wake or start a thread if work may run now."""
        if self._next_tenant() is None:
            return
        if self._idle:
            self._idle -= 1
            self._changed.notify()
        elif len(self._threads) < self.size:
            # Daemon threads, so that one that never ends does not keep the process alive.
            thread = threading.Thread(target=self._serve, name=f"fair_{len(self._threads)}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self) -> None:
        while (item := self._take()) is not None:
            work, future = item
            began = self._clock()
            if future.set_running_or_notify_cancel():
                try:
                    result = work.run()
                except BaseException as error:  # noqa: BLE001 (custom code may raise anything; the thread goes on)
                    future.set_exception(error)
                else:
                    future.set_result(result)
                    del result
            self._record_end(work.tenant, (self._clock() - began) / work.inputs)
            del item, work, future

    def _take(self) -> _PendingWork | None:
        with self._changed:
            while not self._closed:
                if (tenant := self._next_tenant()) is not None:
                    item = self._pop(tenant)
                    self._running[tenant] = self._running.get(tenant, 0) + 1
                    self._until[threading.get_ident()] = item.work.until
                    self._wake()
                    return item
                self._idle += 1
                self._changed.wait()
        return None

    def _next_tenant(self) -> str | None:
        """Return the first tenant in rotation that may use one more thread, or None."""
        free = self.size - len(self._until)
        for tenant in self._pending if free else ():
            busy = self._running.get(tenant, 0)
            if (free > 1 and busy < self._max_per_tenant) or (not busy and not self.is_slow(tenant)):
                return tenant
        return None

    def _pop(self, tenant: str) -> _PendingWork:
        """Remove and return a tenant's next work; move the tenant and the work's model to the end of the rotation."""
        by_model = self._pending.pop(tenant)
        model, queue = next(iter(by_model.items()))
        item = queue.popleft()
        del by_model[model]
        if queue:
            by_model[model] = queue
        if by_model:
            self._pending[tenant] = by_model
        return item

    def _record_end(self, tenant: str, seconds: float) -> None:
        with self._changed:
            del self._until[threading.get_ident()]
            left = self._running.pop(tenant) - 1
            if left:
                self._running[tenant] = left
            seconds = max(seconds, _SLOWNESS_DECAY * self._slow.pop(tenant, 0.0))
            if seconds > SLOW_S:
                self._slow[tenant] = seconds
