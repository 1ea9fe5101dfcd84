"""`jitney gpu-report`: one model by CPU, CUDA and TensorRT: whether they agree, how fast each is, also queued.

One JSON document on stdout, words on stderr. A provider that can not be used here is a row that says what is missing.
"""

import argparse
import importlib.metadata
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from batching import buckets
from batching.collation import split_outputs, stack_items
from cli.bench.report.environment import describe_machine
from cli.gpu_report.service import CannotServe, measure_service
from cli.models.model_paths import ModelPath, ModelPathNotFound, find_models
from model_runtime.engine.device_info import query_driver
from model_runtime.engine.onnx_engine import OnnxEngine, RunFailed
from model_runtime.engine.onnx_runtime import VERSION
from model_runtime.engine.open_engine import Hardware, gpu_options
from model_runtime.profiling import batch_consistency, synthetic_inputs
from model_runtime.profiling.batch_cap import MAX_MEASURED_BATCH, zero_batch
from model_runtime.spec.model_toml import ModelError
from model_runtime.tensor_spec import Array

PROVIDERS: Final = ("cpu", "cuda", "tensorrt")
ROWS: Final = 32  # of noise, on which providers are compared with the CPU
MIN_RUNS: Final = 5

DISAGREES, CANNOT_MEASURE, MISSING = 1, 2, 3

Row = Mapping[str, Array]


def main(argv: Sequence[str]) -> int:
    """The verb `gpu-report`; returns the exit code."""
    given = _read(argv)
    try:
        place = _find_model(given.path)
        report = _report(place, given)
    except (ModelPathNotFound, ModelError, RunFailed) as error:
        _print_line(str(error))
        return CANNOT_MEASURE
    print(json.dumps(report, indent=2))
    rows = report["providers"]
    for name, row in rows.items():
        if not row["ran"]:
            _print_line(f"{name} was not measured: {row['missing']}")
        elif not row["agrees"]:
            _print_line(f"{name} does NOT agree with the CPU: drift {row['drift']:.3g}, allowed {row['tolerance']:g}")
    if not all(row["agrees"] for row in rows.values() if row["ran"]):
        return DISAGREES
    return 0 if all(row["ran"] for row in rows.values()) else MISSING


def _read(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="jitney gpu-report",
        description="Measure a model by CPU, CUDA and TensorRT, alone and through the queue; prints JSON.",
        epilog=f"exit code: 0 all were measured and agree, {DISAGREES} one does not agree with the CPU, "
        f"{CANNOT_MEASURE} nothing could be measured, {MISSING} a provider is missing here. docs/gpu.md",
    )
    add = parser.add_argument
    add("path", type=Path, nargs="?", default=Path("models/digits"), help="a model's folder (%(default)s)")
    add("--providers", default=",".join(PROVIDERS), metavar="NAMES", help="which, beside the CPU (%(default)s)")
    add("--device", type=int, default=0, metavar="N", help="the GPU's number (0)")
    add("--seconds", type=float, default=2.0, help="for each batch size, and each load of the service (2)")
    add("--concurrency", type=int, default=64, metavar="N", help="requests in flight at the service (64)")
    add("--input", nargs="+", type=Path, default=[], metavar="FILE", help="request bodies, for models of images")
    add("--no-service", action="store_true", help="leave the queue out")
    add("--engine-cache", type=Path, default=Path(".data/engines"), help="where TensorRT keeps what it builds")
    given = parser.parse_args(argv)
    names = [name.strip() for name in given.providers.split(",")]
    if not set(names) <= set(PROVIDERS):
        parser.error(f"--providers {given.providers}: one or more of {', '.join(PROVIDERS)}, commas between")
    if not (0 < given.seconds <= 3600 and 1 <= given.concurrency <= 4096 and 0 <= given.device < 1024):
        parser.error("--seconds: above 0, at most 3600; --concurrency: 1 to 4096; --device: 0 to 1023")
    given.providers = [name for name in PROVIDERS if name == "cpu" or name in names]
    return given


def _find_model(path: Path) -> ModelPath:
    """The one model meant; raises NothingThere, ModelError."""
    places = find_models(path)
    if len(places) > 1:
        raise ModelPathNotFound(f"{path}: {len(places)} models are there; name one")
    if isinstance(places[0], ModelError):
        raise places[0]
    folder = places[0].folder
    if folder is None or folder.spec.engine is not None:
        raise ModelPathNotFound(f"{path}: allowed is the folder of a model that ONNX Runtime runs")
    return places[0]


def _report(place: ModelPath, given: argparse.Namespace) -> dict[str, Any]:
    rows: dict[str, dict[str, Any]] = {}
    truth: list[Row] = []
    made: list[dict[str, Array]] = []
    for name in given.providers:
        _print_line(f"{name}: opening {place.title}")
        started = time.perf_counter()
        try:
            engine = _open_engine(place, name, given)
        except ModelError as error:
            if name == "cpu":
                raise
            rows[name] = {"ran": False, "missing": error.reason}
            continue
        opened_s = time.perf_counter() - started
        if not truth:
            made = synthetic_inputs.make_rows(
                engine.inputs, ROWS, batch_consistency.SEED, partial(_run_single, engine)
            ).rows
            truth = [_run_single(engine, row) for row in made]
        rows[name] = {"ran": True, "load_s": round(opened_s, 3), **_measure_provider(place, engine, made, truth, given)}
    driver = query_driver()
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "jitney": importlib.metadata.version("jitney"),
        "onnxruntime": VERSION,
        "machine": describe_machine(),
        "gpu_driver": {"gpus": driver.gpus, "cuda": driver.cuda / 1000, "problem": driver.problem},
        "model": place.title,
        "rows_compared": ROWS,
        "seconds": given.seconds,
        "providers": rows,
    }


def _open_engine(place: ModelPath, provider: str, given: argparse.Namespace) -> OnnxEngine:
    assert place.folder is not None  # noqa: S101 - `_place` has seen to it
    spec = place.folder.spec
    return OnnxEngine(place.onnx, provider, spec.threads, gpu_options(spec, Hardware(given.device, given.engine_cache)))


def _measure_provider(
    place: ModelPath, engine: OnnxEngine, made: Sequence[Row], truth: Sequence[Row], given: argparse.Namespace
) -> dict[str, Any]:
    assert place.folder is not None  # noqa: S101 - likewise
    spec = place.folder.spec
    cap = spec.max_batch or MAX_MEASURED_BATCH
    sizes = (
        buckets.choose_buckets("cuda", cap, spec.buckets) if engine.batchable else (1,)
    )  # the same for all that are compared
    sized = [_measure_batch_size(engine, size, given.seconds) for size in sizes]
    for bucket in sized:  # as a worker runs them by now
        found = _run_batched(engine, made, bucket["rows"])
        bucket["drift"] = max(
            map(batch_consistency.relative_difference, truth, found)
        )  # as a share of an output's largest number
        bucket["max_abs_drift"] = max(map(_max_difference, truth, found))
        bucket["top1_agreement"] = sum(map(_same_top_share, truth, found)) / len(truth)
    drift = max(bucket["drift"] for bucket in sized)
    tolerance = batch_consistency.tolerance_of([*engine.inputs, *engine.outputs], engine.provider)
    row = {
        "provider": engine.provider,
        "device": engine.device,
        "placement": engine.placement,
        "note": engine.provider_note,
        "drift": drift,
        "tolerance": tolerance,
        "agrees": bool(drift <= tolerance),
        "top1_agreement": min(bucket["top1_agreement"] for bucket in sized),
        "buckets": sized,
        "service": None,
    }
    if not given.no_service:
        best = max(one["rows_per_s"] for one in sized)
        row["service"] = _measure_service(place, engine.provider, best, given)
    return row


def _measure_batch_size(engine: OnnxEngine, size: int, seconds: float) -> dict[str, Any]:
    """One batch size, as ONNX Runtime runs it by itself, and as a worker does: bound, and recorded where it can be."""
    batch = zero_batch(engine.inputs, size)
    raw = _time_calls(lambda: engine.run(batch), seconds / 2)
    started = time.perf_counter()
    engine.warm_up(batch)
    prepare_ms = (time.perf_counter() - started) * 1000
    ours = _time_calls(lambda: engine.run(batch), seconds / 2)
    raw_s, ours_s = (times[len(times) // 2] for times in (raw, ours))
    return {
        "rows": size,
        "p50_ms": round(ours_s * 1000, 4),
        "p99_ms": round(ours[min(len(ours) - 1, int(0.99 * len(ours)))] * 1000, 4),
        "rows_per_s": round(size / ours_s, 1),
        "raw_rows_per_s": round(size / raw_s, 1),
        "share_of_raw": round(raw_s / ours_s, 3),
        "prepare_ms": round(prepare_ms, 1),
    }


def _time_calls(call: Callable[[], object], seconds: float) -> list[float]:
    """Seconds of each call, ascending; warmed up."""
    call()
    times: list[float] = []
    until = time.perf_counter() + seconds
    while len(times) < MIN_RUNS or time.perf_counter() < until:
        began = time.perf_counter()
        call()
        times.append(max(1e-9, time.perf_counter() - began))
    return sorted(times)


def _measure_service(place: ModelPath, provider: str, best: float, given: argparse.Namespace) -> dict[str, Any]:
    """Through the queue; `best`: rows a second of the engine alone."""
    _print_line(f"{provider}: through the queue")
    assert place.folder is not None  # noqa: S101 - likewise
    try:
        found = measure_service(place.folder, provider, given.device, given.engine_cache, given)
    except CannotServe as error:
        return {"missing": str(error)}
    return {**found, "share_of_best_bucket": round(found["throughput"] / best, 3)}


def _run_single(engine: OnnxEngine, row: Row) -> Row:
    return {name: value[0] for name, value in engine.run(stack_items([row])).items()}


def _run_batched(engine: OnnxEngine, made: Sequence[Row], size: int) -> list[Row]:
    """Answers of batches that are padded to the size, as a worker pads them."""
    found: list[Row] = []
    for start in range(0, len(made), size):
        some = made[start : start + size]
        found += split_outputs(engine.run(stack_items(some, size)), len(some), size)
    return found


def _max_difference(one: Row, other: Row) -> float:
    pairs = [(value.astype("f8"), other[name].astype("f8")) for name, value in one.items()]
    return max(float(np.max(np.abs(mine - theirs), initial=0)) for mine, theirs in pairs)


def _same_top_share(one: Row, other: Row) -> bool:
    """By the largest number of each output."""
    return all(int(value.argmax()) == int(other[name].argmax()) for name, value in one.items())


def _print_line(line: str) -> None:
    print(f"jitney gpu-report: {line}", file=sys.stderr, flush=True)
