"""Measure a model's latency by batch size, in rounds over all sizes, so that other work affects them equally."""

from collections.abc import Iterable, Sequence
from typing import Final

from model_runtime.profiling.batch_cap import MAX_MEASURED_BATCH, MeasuredModel, RunTimes, choose_cap
from model_runtime.profiling.profile_store import Latency

MAX_RUN_S: Final = 2.0  # stop at the first size whose run takes longer
MIN_RUNS: Final = 5


def sizes_up_to(largest: int, others: Iterable[int] = ()) -> list[int]:
    """Return the powers of two up to `largest`, `largest` itself, and those of `others` that are not larger."""
    powers = (2**power for power in range(13))
    return sorted({size for size in (*powers, largest, *others) if size <= largest})


def measure_latencies(model: MeasuredModel, sizes: Sequence[int], seconds: float) -> dict[int, Latency]:
    """Measure for `seconds`, at least MIN_RUNS runs per size, and return latencies. Raises what a run raises."""
    times_by_size: dict[int, list[RunTimes]] = {}
    for size in sizes:
        model.warm_up(size)
        first = model.time(size)
        if times_by_size and first.run_s > MAX_RUN_S:
            break
        times_by_size[size] = [first]
    until = model.clock() + seconds
    while model.clock() < until or min(map(len, times_by_size.values())) < MIN_RUNS:
        for size, times in times_by_size.items():
            times.append(model.time(size))
    return {size: _latency(size, times) for size, times in times_by_size.items()}


def cap_from_latencies(latencies: dict[int, Latency], *, by_cpu: bool) -> int:
    """Choose the batch cap by the same rule as a worker."""
    known = {
        size: RunTimes(latency.p50_ms / 1000, latency.cpu_us_per_row * size / 1e6 if by_cpu else latency.p50_ms / 1000)
        for size, latency in latencies.items()
        if size <= MAX_MEASURED_BATCH
    }
    return choose_cap(known)


def _latency(size: int, times: Sequence[RunTimes]) -> Latency:
    by_time = sorted(run.run_s for run in times)
    cost = min(run.cost_s for run in times)
    tail = by_time[min(len(by_time) - 1, int(0.99 * len(by_time)))]
    middle = by_time[len(by_time) // 2]
    return Latency(round(middle * 1000, 4), round(tail * 1000, 4), round(cost * 1e6 / size, 2), len(times))
