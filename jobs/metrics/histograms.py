"""Histograms of the whole queue, kept in Redis: workers add observations, any gateway reads the sum.

They are kept in Redis so that a scrape of any gateway covers all workers, and a restart loses nothing.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence
from typing import Final

from jobs.redis_client import generic_scripts, keys
from jobs.redis_client.client import RedisClient

BATCH_SIZES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)
STAGE_MS: Final = (0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 30_000)
STAGES: Final = ("queue", "decode", "batch", "infer", "total")
BOUNDS: Final[dict[str, Sequence[float]]] = {"size": BATCH_SIZES, **dict.fromkeys(STAGES, STAGE_MS)}
_BUCKETS: Final = {what: [f"{what}:{bound}" for bound in (*bounds, "inf")] for what, bounds in BOUNDS.items()}
_SUMS: Final = {what: f"{what}:sum" for what in BOUNDS}


class HistogramBuffer:
    """Observations of one model since the last flush: counts per bucket, and sums in µs (for batch sizes: in jobs)."""

    def __init__(self) -> None:
        self._counts: defaultdict[str, int] = defaultdict(int)

    def observe(self, what: str, value: float, times: int = 1) -> None:
        """Count a value (a batch size, or a stage's time in ms) in its bucket."""
        self._counts[_BUCKETS[what][bisect_left(BOUNDS[what], value)]] += times
        self._counts[_SUMS[what]] += times * (int(value) if what == "size" else round(value * 1000))

    async def tell(self, connection: RedisClient, model: str) -> None:
        """Add the observations to Redis and clear them. A failed call loses them rather than count them twice."""
        counts, self._counts = self._counts, defaultdict(int)
        if counts:
            await generic_scripts.increment(connection, keys.stats(model), counts)


async def read_histograms(connection: RedisClient, models: Sequence[str]) -> dict[str, dict[str, int]]:
    """Return the histograms of models, with fields `<what>:<upper bound>` and `<what>:sum`."""
    answers = await connection.pipeline([("HGETALL", keys.stats(model)) for model in models]) if models else []
    return {
        model: {name.decode(): int(count) for name, count in answer.items()}
        for model, answer in zip(models, answers, strict=True)
    }
