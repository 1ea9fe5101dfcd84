"""Schedules preprocessing and custom code on threads fairly among tenants; reserves one thread for fast tenants.

One thread more than configured is kept for tenants that have none at work, and whose last inputs were quick. Within a
tenant its models take turns. Called from the event loop; threads take the next piece of work by themselves.
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
_SLOWNESS_DECAY: Final = 0.7  # of that is left after one more input


class WorkExecutor(Protocol):
    """What runs work outside the event loop."""

    def submit(self, work: "Work[T]") -> "asyncio.Future[T]":
        """Run it in a thread."""


class Work(NamedTuple, Generic[T]):
    """Something to run. `inputs`: how many it is of; `until`: when nobody wants it any more, on the monotonic clock."""

    tenant: str
    model: str
    run: Callable[[], T]
    inputs: int = 1
    until: float = math.inf


class _Waiting(NamedTuple):
    work: Work[Any]
    future: "Future[Any]"


class FairThreadPool:
    """Threads, and what waits for them."""

    def __init__(self, threads: int, clock: Callable[[], float] = time.monotonic) -> None:
        """`threads`: that one tenant may have at work at a time. They start with the first work."""
        self._most, self._clock = threads, clock
        self._changed = threading.Condition()
        self._waiting: dict[str, dict[str, deque[_Waiting]]] = {}  # tenant → model → work; both in the order of turns
        self._at_work: dict[str, int] = {}
        self._slow: dict[str, float] = {}  # tenant → how long an input of it takes
        self._threads: list[threading.Thread] = []
        self._until: dict[int, float] = {}  # thread → of its work
        self._idle = 0
        self._closed = False

    @property
    def size(self) -> int:
        """How many threads there are at most."""
        return self._most + 1

    def is_slow(self, tenant: str) -> bool:
        """Tell whether the last inputs of a tenant took long."""
        return self._slow.get(tenant, 0.0) > SLOW_S

    def has_other_tenants(self, tenant: str) -> bool:
        """Tell whether other tenants have work here too."""
        with self._changed:
            return any(other != tenant for other in (*self._at_work, *self._waiting))

    def are_all_stuck(self, since_s: float) -> bool:
        """Tell whether every thread has run for so long what nobody wants any more: nothing else will run here."""
        with self._changed:
            return len(self._until) == self.size and max(self._until.values()) + since_s < self._clock()

    def submit(self, work: Work[T]) -> "asyncio.Future[T]":
        """Run work in a thread when its turn comes."""
        future: Future[T] = Future()
        with self._changed:
            lines = self._waiting.setdefault(work.tenant, {})
            lines.setdefault(work.model, deque()).append(_Waiting(work, future))
            self._wake()
        return asyncio.wrap_future(future)

    def close(self) -> None:
        """Begin nothing more."""
        with self._changed:
            self._closed = True
            waiting = [one for lines in self._waiting.values() for line in lines.values() for one in line]
            self._waiting.clear()
            self._changed.notify_all()
        for one in waiting:
            one.future.cancel()

    def _wake(self) -> None:
        """Have a thread take what may run now."""
        if self._next_tenant() is None:
            return
        if self._idle:
            self._idle -= 1
            self._changed.notify()
        elif len(self._threads) < self.size:
            # Daemons: one that never ends does not keep the process.
            thread = threading.Thread(target=self._serve, name=f"turns_{len(self._threads)}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self) -> None:
        while (one := self._take()) is not None:
            work, future = one
            began = self._clock()
            if future.set_running_or_notify_cancel():
                try:
                    result = work.run()
                except BaseException as error:  # noqa: BLE001 - somebody else's code: the thread goes on
                    future.set_exception(error)
                else:
                    future.set_result(result)
                    del result
            self._ended(work.tenant, (self._clock() - began) / work.inputs)
            del one, work, future

    def _take(self) -> _Waiting | None:
        with self._changed:
            while not self._closed:
                if (tenant := self._next_tenant()) is not None:
                    one = self._pop(tenant)
                    self._at_work[tenant] = self._at_work.get(tenant, 0) + 1
                    self._until[threading.get_ident()] = one.work.until
                    self._wake()
                    return one
                self._idle += 1
                self._changed.wait()
        return None

    def _next_tenant(self) -> str | None:
        """The first in turn that may have a thread more."""
        free = self.size - len(self._until)
        for tenant in self._waiting if free else ():
            busy = self._at_work.get(tenant, 0)
            if (free > 1 and busy < self._most) or (not busy and not self.is_slow(tenant)):
                return tenant
        return None

    def _pop(self, tenant: str) -> _Waiting:
        """Take the next work of a tenant; both it and the model of that go last."""
        lines = self._waiting.pop(tenant)
        model, line = next(iter(lines.items()))
        one = line.popleft()
        del lines[model]
        if line:
            lines[model] = line
        if lines:
            self._waiting[tenant] = lines
        return one

    def _ended(self, tenant: str, took_s: float) -> None:
        with self._changed:
            del self._until[threading.get_ident()]
            left = self._at_work.pop(tenant) - 1
            if left:
                self._at_work[tenant] = left
            took_s = max(took_s, _SLOWNESS_DECAY * self._slow.pop(tenant, 0.0))
            if took_s > SLOW_S:
                self._slow[tenant] = took_s
