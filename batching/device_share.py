"""Decides which model runs next on a shared device: by device time used, not by order of arrival. Owns no clock.

Start-time fair queueing: a run starts at the virtual time at which its model's earlier runs ended, but not before the
present one. A model that was idle has no credit, and none waits for more than the runs of models that used less.
"""

from collections.abc import Hashable, Iterable
from typing import TypeVar

M = TypeVar("M", bound=Hashable)


class DeviceShare:
    """Virtual times of the models of one device, in seconds of device time."""

    def __init__(self) -> None:
        self._now = 0.0  # start of the run that began last
        self._starts: dict[Hashable, float] = {}  # model → start of its run under way
        self._ends: dict[Hashable, float] = {}  # model → end of its last run

    def next_of(self, waiting: Iterable[M]) -> M:
        """Return the model to run next; the first one if several have used equally much."""
        return min(waiting, key=self._start_of)

    def begin(self, model: Hashable) -> None:
        """Record that a run of a model begins."""
        self._now = self._starts[model] = self._start_of(model)

    def end(self, model: Hashable, seconds: float) -> None:
        """Record that the run ended and how long it took."""
        self._ends[model] = self._starts.pop(model) + seconds

    def forget(self, model: Hashable) -> None:
        """Forget a model that is unloaded."""
        self._ends.pop(model, None)

    def _start_of(self, model: Hashable) -> float:
        return max(self._now, self._ends.get(model, 0.0))
