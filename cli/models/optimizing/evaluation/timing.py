"""How long two versions take for each batch size: in turns, round after round, so that other work falls on both."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from batching import buckets
from cli.models.optimizing.evaluation.calibration_data import Example
from cli.models.optimizing.evaluation.loaded_version import LoadedVersion
from model_runtime.engine.onnx_engine import OnnxEngine, RunFailed
from model_runtime.profiling.batch_cap import MeasuredModel

DEFAULT_BATCH_SIZES: Final = (1, 2, 4, 8, 16)
MAX_RUN_S: Final = 2.0  # a run that takes longer is not measured, nor is a larger one
MIN_ROUNDS: Final = 5
_PREPARED: Final = 16


class Latency(NamedTuple):
    """Of one run of a size, in ms: the shortest, and the median."""

    min_ms: float
    p50_ms: float


class LatencyPair(NamedTuple):
    """The same of the version there was and of the new one."""

    old: Latency
    new: Latency


def batch_sizes(served: LoadedVersion) -> Sequence[int]:
    """What workers prepare the model for; where they prepare for none, the usual ones that it may be given."""
    if not served.engine.batchable:
        return (1,)
    most = served.folder.spec.max_batch or max(DEFAULT_BATCH_SIZES)
    return buckets.choose_buckets(served.engine.provider, most, served.folder.spec.buckets) or [
        size for size in DEFAULT_BATCH_SIZES if size <= most
    ]


def measure_latency(
    engines: tuple[OnnxEngine, OnnxEngine],
    sizes: Sequence[int],
    seconds: float,
    watch: Callable[[Iterable[int]], Iterable[int]],
) -> dict[int, LatencyPair]:
    """Each size has its share of the time; empty where rows have open dimensions or zeros do not run."""
    if not all(port.is_fixed for engine in engines for port in engine.inputs):
        return {}
    found: dict[int, LatencyPair] = {}
    trials = [MeasuredModel(engine.inputs, engine.run) for engine in engines]
    try:
        for size in watch(sizes):
            for trial in trials:
                trial.warm_up(size)
            until = time.perf_counter() + seconds / len(sizes)
            seen: tuple[list[float], list[float]] = ([], [])
            while len(seen[0]) < MIN_ROUNDS or time.perf_counter() < until:
                for trial, times in zip(trials, seen, strict=True):
                    times.append(trial.time(size).run_s)
            found[size] = LatencyPair(*map(_to_latency, seen))
            if min(seen[0]) > MAX_RUN_S:
                break
    except RunFailed:
        return found
    return found


def measure_preprocessing(old: LoadedVersion, new: LoadedVersion, examples: Sequence[Example]) -> LatencyPair:
    """What a row costs before it rides, read and decoded and made into the input: the best of some looks at each."""
    seen: tuple[list[float], list[float]] = ([], [])
    for example in examples[:_PREPARED]:
        example(old.task)  # so that neither of them finds the file cold
        looks: tuple[list[float], list[float]] = ([], [])
        for which in (0, 1, 1, 0, 0, 1):
            began = time.perf_counter()
            example((old, new)[which].task)
            looks[which].append(time.perf_counter() - began)
        for best, times in zip(seen, looks, strict=True):
            best.append(min(times))
    return LatencyPair(*map(_to_latency, seen))


def max_rows_per_s(found: Mapping[int, LatencyPair]) -> tuple[float, float]:
    """The most that each of them manages, of all sizes, by their medians."""
    old = max(size * 1000 / pair.old.p50_ms for size, pair in found.items())
    return old, max(size * 1000 / pair.new.p50_ms for size, pair in found.items())


def _to_latency(seconds: Sequence[float]) -> Latency:
    in_order = sorted(seconds)
    return Latency(round(in_order[0] * 1000, 4), round(in_order[len(in_order) // 2] * 1000, 4))
