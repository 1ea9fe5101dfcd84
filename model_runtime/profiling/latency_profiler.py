"""Measures a model with care: every batch size in turn, round after round, so that other work falls on all alike."""

from collections.abc import Iterable, Sequence
from typing import Final

from model_runtime.profiling.batch_cap import MAX_MEASURED_BATCH, MeasuredModel, RunTimes, choose_cap
from model_runtime.profiling.profile_store import Latency

MAX_RUN_S: Final = 2.0  # a size whose run takes longer is not measured, nor a larger one
MIN_RUNS: Final = 5


def sizes_up_to(largest: int, others: Iterable[int] = ()) -> list[int]:
    """Powers of two, the largest, and what somebody set."""
    powers = (2**power for power in range(13))
    return sorted({size for size in (*powers, largest, *others) if size <= largest})


def measure_latencies(trial: MeasuredModel, sizes: Sequence[int], seconds: float) -> dict[int, Latency]:
    """Latencies by size; `seconds` in all, more where a few runs of each take longer. Raises what a run raises."""
    seen: dict[int, list[RunTimes]] = {}
    for size in sizes:
        trial.warm_up(size)
        first = trial.time(size)
        if seen and first.run_s > MAX_RUN_S:
            break
        seen[size] = [first]
    until = trial.clock() + seconds
    while trial.clock() < until or min(map(len, seen.values())) < MIN_RUNS:
        for size, times in seen.items():
            times.append(trial.time(size))
    return {size: _latency(size, times) for size, times in seen.items()}


def cap_from_latencies(latencies: dict[int, Latency], *, by_cpu: bool) -> int:
    """The batch cap that follows, as the worker finds it by itself."""
    known = {
        size: RunTimes(one.p50_ms / 1000, one.cpu_us_per_row * size / 1e6 if by_cpu else one.p50_ms / 1000)
        for size, one in latencies.items()
        if size <= MAX_MEASURED_BATCH
    }
    return choose_cap(known)


def _latency(size: int, times: Sequence[RunTimes]) -> Latency:
    by_time = sorted(one.run_s for one in times)
    cost = min(one.cost_s for one in times)
    tail = by_time[min(len(by_time) - 1, int(0.99 * len(by_time)))]
    middle = by_time[len(by_time) // 2]
    return Latency(round(middle * 1000, 4), round(tail * 1000, 4), round(cost * 1e6 / size, 2), len(times))
