"""Estimates when the full queue of a model has room again, for the Retry-After header of refused requests."""

from collections.abc import Mapping
from typing import Final

FREED_SHARE: Final = 0.01  # retry once this share of the queue's limit has finished
MIN_RETRY_AFTER_S: Final = 1.0
MAX_RETRY_AFTER_S: Final = 60.0
DEFAULT_RETRY_AFTER_S: Final = 10.0  # while no job has finished lately


class RetryAfterEstimator:
    """Finish rates by model in jobs per second, from successive totals. Callers pass the time."""

    def __init__(self) -> None:
        self._totals: dict[str, tuple[float, int]] = {}
        self._rates: dict[str, float] = {}

    def observe(self, counts: Mapping[str, int], now: float) -> None:
        """Update the rates from the store's counts (`finished:<model>:<outcome>`), read at `now` in seconds."""
        totals: dict[str, int] = {}
        for name, count in counts.items():
            event, model, *_ = name.split(":")
            if event == "finished":
                totals[model] = totals.get(model, 0) + count
        rates = {model: self._rates[model] for model in totals if model in self._rates}
        for model, total in totals.items():
            since, before = self._totals.get(model, (now, total))
            if now > since:
                rates[model] = max(0, total - before) / (now - since)
        self._totals, self._rates = {model: (now, total) for model, total in totals.items()}, rates

    def retry_after_s(self, model: str, limit_jobs: int) -> float:
        """Estimate the seconds until the queue of a model, which holds `limit_jobs`, has room again."""
        rate = self._rates.get(model, 0.0)
        if not rate:
            return DEFAULT_RETRY_AFTER_S
        return min(MAX_RETRY_AFTER_S, max(MIN_RETRY_AFTER_S, limit_jobs * FREED_SHARE / rate))
