"""Measures two versions in alternation, as other load affects both: latency per batch size, and preprocessing."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from batching import buckets
from cli.models.optimizing.evaluation.loaded_version import LoadedVersion
from model_runtime.engine.onnx_engine import OnnxEngine, RunFailed
from model_runtime.profiling.batch_cap import MeasuredModel
from model_runtime.tasks.examples import Example

DEFAULT_BATCH_SIZES: Final = (1, 2, 4, 8, 16)
MAX_RUN_S: Final = 2.0  # larger batches are not measured after a run this long
MIN_ROUNDS: Final = 5
_MAX_PREPROCESSED: Final = 16


class Latency(NamedTuple):
    """The minimum and median duration of a run, in ms."""

    min_ms: float
    p50_ms: float


class LatencyPair(NamedTuple):
    """The latencies of the original and the new version."""

    old: Latency
    new: Latency


def batch_sizes(version: LoadedVersion) -> Sequence[int]:
    """Return the padded sizes that workers use for the model; without such, common batch sizes."""
    if not version.engine.batchable:
        return (1,)
    max_batch = version.folder.spec.max_batch or max(DEFAULT_BATCH_SIZES)
    return buckets.choose_buckets(version.engine.provider, max_batch, version.folder.spec.buckets) or [
        size for size in DEFAULT_BATCH_SIZES if size <= max_batch
    ]


def measure_latency(
    engines: tuple[OnnxEngine, OnnxEngine],
    sizes: Sequence[int],
    seconds: float,
    track: Callable[[Iterable[int]], Iterable[int]],
) -> dict[int, LatencyPair]:
    """Measure each size for an equal share of the seconds. Empty if rows have open dimensions or zeros do not run."""
    if not all(spec.is_fixed for engine in engines for spec in engine.inputs):
        return {}
    latencies: dict[int, LatencyPair] = {}
    models = [MeasuredModel(engine.inputs, engine.run) for engine in engines]
    try:
        for size in track(sizes):
            for model in models:
                model.warm_up(size)
            deadline = time.perf_counter() + seconds / len(sizes)
            durations: tuple[list[float], list[float]] = ([], [])
            while len(durations[0]) < MIN_ROUNDS or time.perf_counter() < deadline:
                for model, times in zip(models, durations, strict=True):
                    times.append(model.time(size).run_s)
            latencies[size] = LatencyPair(*map(_to_latency, durations))
            if min(durations[0]) > MAX_RUN_S:
                break
    except RunFailed:
        return latencies
    return latencies


def measure_preprocessing(old: LoadedVersion, new: LoadedVersion, examples: Sequence[Example]) -> LatencyPair:
    """Measure reading and preprocessing of examples; the best of three runs counts for each."""
    durations: tuple[list[float], list[float]] = ([], [])
    for example in examples[:_MAX_PREPROCESSED]:
        example(old.task)  # warm the file cache for both
        runs: tuple[list[float], list[float]] = ([], [])
        for which in (0, 1, 1, 0, 0, 1):
            started = time.perf_counter()
            example((old, new)[which].task)
            runs[which].append(time.perf_counter() - started)
        for best, times in zip(durations, runs, strict=True):
            best.append(min(times))
    return LatencyPair(*map(_to_latency, durations))


def max_rows_per_s(latencies: Mapping[int, LatencyPair]) -> tuple[float, float]:
    """Return the highest rows per second of each version over all sizes, by medians."""
    old = max(size * 1000 / pair.old.p50_ms for size, pair in latencies.items())
    return old, max(size * 1000 / pair.new.p50_ms for size, pair in latencies.items())


def _to_latency(seconds: Sequence[float]) -> Latency:
    in_order = sorted(seconds)
    return Latency(round(in_order[0] * 1000, 4), round(in_order[len(in_order) // 2] * 1000, 4))
