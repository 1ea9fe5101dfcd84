"""How fast each model's jobs end, and from that: when a caller who is refused should come back. Owns no clock."""

from collections.abc import Mapping
from typing import Final

DRAINED_SHARE: Final = 0.01  # a full queue is worth coming back to once so much of it has drained
MIN_RETRY_AFTER_S: Final = 1.0
MAX_RETRY_AFTER_S: Final = 60.0
DEFAULT_RETRY_AFTER_S: Final = 10.0  # nothing has ended lately: nobody knows


class RetryAfterEstimator:
    """Rates by model, from totals that are looked at now and then."""

    def __init__(self) -> None:
        self._totals: dict[str, tuple[float, int]] = {}
        self._rates: dict[str, float] = {}

    def observe(self, counts: Mapping[str, int], now: float) -> None:
        """Take in the store's counts, `finished:<model>:<outcome>`, at a time in seconds."""
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
        """Say when so many jobs of a model that its queue has room again will have ended."""
        rate = self._rates.get(model, 0.0)
        if not rate:
            return DEFAULT_RETRY_AFTER_S
        return min(MAX_RETRY_AFTER_S, max(MIN_RETRY_AFTER_S, limit_jobs * DRAINED_SHARE / rate))
