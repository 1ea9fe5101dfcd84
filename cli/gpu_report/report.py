"""Measures a model on CPU, CUDA and TensorRT: agreement of outputs, speed alone, and speed through the queue.

It prints one JSON document on stdout and messages on stderr. An unavailable provider becomes a row with the reason.
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
from cli.gpu_report.command import CANNOT_MEASURE, DISAGREES, MISSING
from cli.gpu_report.service import CannotServe, measure_service
from cli.models.errors import ModelPathNotFound
from cli.models.model_paths import find_single_model
from model_runtime.engine.device_info import query_driver
from model_runtime.engine.onnx_engine import OnnxEngine, RunFailed
from model_runtime.engine.onnx_runtime import VERSION
from model_runtime.engine.open_engine import Hardware, gpu_options, tensor_keys
from model_runtime.profiling import batch_consistency, synthetic_inputs
from model_runtime.profiling.batch_cap import MAX_MEASURED_BATCH, zero_batch
from model_runtime.repository.repository import ModelFolder
from model_runtime.spec.model_toml import ModelError
from model_runtime.tensor_spec import Array

ROWS: Final = 32  # rows of noise on which providers are compared with the CPU
MIN_RUNS: Final = 5

Row = Mapping[str, Array]


def run(args: argparse.Namespace) -> int:
    try:
        report = _build_report(_find_model(args.path), args)
    except (ModelPathNotFound, ModelError, RunFailed) as error:
        _print_message(str(error))
        return CANNOT_MEASURE
    print(json.dumps(report, indent=2))
    rows = report["providers"]
    for name, row in rows.items():
        if not row["ran"]:
            _print_message(f"{name} was not measured: {row['missing']}")
        elif not row["agrees"]:
            drift = f"drift {row['drift']:.3g}, allowed {row['tolerance']:g}"
            _print_message(f"{name} does NOT agree with the CPU: {drift}")
    if not all(row["agrees"] for row in rows.values() if row["ran"]):
        return DISAGREES
    return 0 if all(row["ran"] for row in rows.values()) else MISSING


def _find_model(path: Path) -> ModelFolder:
    """Return the model in a folder. Raises ModelPathNotFound, ModelError."""
    folder = find_single_model(path).folder
    if folder is None or folder.spec.engine is not None:
        raise ModelPathNotFound(f"{path}: must be the folder of a model that ONNX Runtime runs")
    return folder


def _build_report(folder: ModelFolder, args: argparse.Namespace) -> dict[str, Any]:
    title = f"{folder.name} version {folder.version}"
    rows: dict[str, dict[str, Any]] = {}
    expected: list[Row] = []
    inputs: list[dict[str, Array]] = []
    for name in args.providers:
        _print_message(f"{name}: loading {title}")
        started = time.perf_counter()
        try:
            engine = _open_engine(folder, name, args)
        except ModelError as error:
            if name == "cpu":
                raise
            rows[name] = {"ran": False, "missing": error.reason}
            continue
        load_s = time.perf_counter() - started
        if not expected:
            run_one = partial(_run_single, engine)
            inputs = synthetic_inputs.make_rows(engine.inputs, ROWS, batch_consistency.SEED, run_one).rows
            expected = [_run_single(engine, row) for row in inputs]
        measured = _measure_provider(folder, engine, inputs, expected, args)
        rows[name] = {"ran": True, "load_s": round(load_s, 3), **measured}
    driver = query_driver()
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "jitney": importlib.metadata.version("jitney"),
        "onnxruntime": VERSION,
        "machine": describe_machine(),
        "gpu_driver": {"gpus": driver.gpus, "cuda": driver.cuda / 1000, "problem": driver.problem},
        "model": title,
        "rows_compared": ROWS,
        "seconds": args.seconds,
        "providers": rows,
    }


def _open_engine(folder: ModelFolder, provider: str, args: argparse.Namespace) -> OnnxEngine:
    spec = folder.spec
    options = gpu_options(spec, Hardware(args.device, args.engine_cache))
    return OnnxEngine(folder.onnx, provider, spec.threads, options, tensor_keys(folder))


def _measure_provider(
    folder: ModelFolder, engine: OnnxEngine, inputs: Sequence[Row], expected: Sequence[Row], args: argparse.Namespace
) -> dict[str, Any]:
    spec = folder.spec
    cap = spec.max_batch or MAX_MEASURED_BATCH
    # The same sizes for all providers.
    sizes = buckets.choose_buckets("cuda", cap, spec.buckets) if engine.batchable else (1,)
    sized = [_measure_batch_size(engine, size, args.seconds) for size in sizes]
    for bucket in sized:  # warmed up by now, as in a worker
        outputs = _run_batched(engine, inputs, bucket["rows"])
        # Relative to the largest number of an output.
        bucket["drift"] = max(map(batch_consistency.relative_difference, expected, outputs))
        bucket["max_abs_drift"] = max(map(_max_difference, expected, outputs))
        bucket["top1_agreement"] = sum(map(_has_same_top, expected, outputs)) / len(expected)
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
    if not args.no_service:
        best = max(bucket["rows_per_s"] for bucket in sized)
        row["service"] = _measure_service(folder, engine.provider, best, args)
    return row


def _measure_batch_size(engine: OnnxEngine, size: int, seconds: float) -> dict[str, Any]:
    """Measure a batch size in a plain session, and as a worker runs it: with bound buffers and CUDA graphs."""
    batch = zero_batch(engine.inputs, size)
    raw = _time_calls(lambda: engine.run(batch), seconds / 2)
    started = time.perf_counter()
    engine.warm_up(batch)
    prepare_ms = (time.perf_counter() - started) * 1000
    prepared = _time_calls(lambda: engine.run(batch), seconds / 2)
    raw_s, prepared_s = (times[len(times) // 2] for times in (raw, prepared))
    return {
        "rows": size,
        "p50_ms": round(prepared_s * 1000, 4),
        "p99_ms": round(prepared[min(len(prepared) - 1, int(0.99 * len(prepared)))] * 1000, 4),
        "rows_per_s": round(size / prepared_s, 1),
        "raw_rows_per_s": round(size / raw_s, 1),
        "share_of_raw": round(raw_s / prepared_s, 3),
        "prepare_ms": round(prepare_ms, 1),
    }


def _time_calls(call: Callable[[], object], seconds: float) -> list[float]:
    """Return the seconds of each call, ascending, after a warm-up call."""
    call()
    times: list[float] = []
    deadline = time.perf_counter() + seconds
    while len(times) < MIN_RUNS or time.perf_counter() < deadline:
        started = time.perf_counter()
        call()
        times.append(max(1e-9, time.perf_counter() - started))
    return sorted(times)


def _measure_service(folder: ModelFolder, provider: str, best: float, args: argparse.Namespace) -> dict[str, Any]:
    """Measure through the queue. `best`: rows per second of the engine alone."""
    _print_message(f"{provider}: measuring through the queue")
    try:
        measured = measure_service(folder, provider, args.device, args.engine_cache, args)
    except CannotServe as error:
        return {"missing": str(error)}
    return {**measured, "share_of_best_bucket": round(measured["throughput"] / best, 3)}


def _run_single(engine: OnnxEngine, row: Row) -> Row:
    return {name: value[0] for name, value in engine.run(stack_items([row])).items()}


def _run_batched(engine: OnnxEngine, inputs: Sequence[Row], size: int) -> list[Row]:
    """Return the outputs of batches that are padded to the size, as in a worker."""
    outputs: list[Row] = []
    for start in range(0, len(inputs), size):
        batch = inputs[start : start + size]
        outputs += split_outputs(engine.run(stack_items(batch, size)), len(batch), size)
    return outputs


def _max_difference(expected: Row, actual: Row) -> float:
    pairs = [(value.astype("f8"), actual[name].astype("f8")) for name, value in expected.items()]
    return max(float(np.max(np.abs(first - second), initial=0)) for first, second in pairs)


def _has_same_top(expected: Row, actual: Row) -> bool:
    """Return whether the largest number of each output has the same position."""
    return all(int(value.argmax()) == int(actual[name].argmax()) for name, value in expected.items())


def _print_message(line: str) -> None:
    print(f"jitney gpu-report: {line}", file=sys.stderr, flush=True)
