"""Histograms of the whole queue, kept in Redis: workers add observations, any gateway reads the sum.

They are kept in Redis so that a scrape of any gateway covers all workers, and a restart loses nothing.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from math import fsum, inf
from typing import Final

from jobs.redis_client import generic_scripts, keys
from jobs.redis_client.client import RedisClient

BATCH_SIZES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)
STAGE_MS: Final = (0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 30_000)
STAGES: Final = ("queue", "decode", "batch", "infer", "total")
BOUNDS: Final[dict[str, Sequence[float]]] = {"size": BATCH_SIZES, **dict.fromkeys(STAGES, STAGE_MS)}
# Counters of a model beside its histograms, `<name>` or `<name>:<label>`: batches by what closed them, bisections of a
# failed batch, work that runs did and the padding in it (in rows, or in units of length), inputs that failed to decode.
CLOSED, SPLITS, WORK, PADDING, UNDECODED = COUNTERS = ("closed", "splits", "work", "padding", "undecoded")
MAX_UNCOUNTED: Final = 1024  # of one stage: then they are counted
_BUCKETS: Final = {what: [f"{what}:{bound}" for bound in (*bounds, "inf")] for what, bounds in BOUNDS.items()}
_SUMS: Final = {what: f"{what}:sum" for what in BOUNDS}


class HistogramBuffer:
    """Observations of one model since the last flush. They are counted many at a time, which costs least."""

    def __init__(self) -> None:
        self._values: dict[str, list[float]] = {what: [] for what in BOUNDS}
        self._counts: defaultdict[str, int] = defaultdict(int)

    def observe(self, what: str, values: Sequence[float]) -> None:
        """Add values: batch sizes, or times of a stage in ms."""
        observed = self._values[what]
        observed += values
        if len(observed) >= MAX_UNCOUNTED:
            self._count(what)

    def count(self, name: str, amount: int = 1) -> None:
        """Add to a counter of the model (`COUNTERS`), which is kept beside its histograms."""
        self._counts[name] += amount

    def take(self) -> dict[str, int]:
        """Return the counts per bucket, and the sums in µs (for batch sizes: in jobs), and clear them."""
        for what, observed in self._values.items():
            if observed:
                self._count(what)
        counts, self._counts = self._counts, defaultdict(int)
        return counts

    async def flush(self, connection: RedisClient, model: str) -> None:
        """Add the observations to Redis and clear them. A failed call loses them rather than count them twice."""
        if counts := self.take():
            await generic_scripts.increment(connection, keys.stats(model), counts)

    def _count(self, what: str) -> None:
        """Count the values of a stage in their buckets: those up to a bound, but above the bound before it."""
        observed, self._values[what] = self._values[what], []
        observed.sort()
        below = 0
        for bound, bucket in zip((*BOUNDS[what], inf), _BUCKETS[what], strict=True):
            up_to = bisect_right(observed, bound)
            if up_to > below:
                self._counts[bucket] += up_to - below
                below = up_to
        self._counts[_SUMS[what]] += round(fsum(observed) * (1 if what == "size" else 1000))


async def read_histograms(connection: RedisClient, models: Sequence[str]) -> dict[str, dict[str, int]]:
    """Return the histograms of models, with fields `<what>:<upper bound>` and `<what>:sum`."""
    answers = await connection.pipeline([("HGETALL", keys.stats(model)) for model in models]) if models else []
    return {
        model: {name.decode(): int(count) for name, count in answer.items()}
        for model, answer in zip(models, answers, strict=True)
    }
