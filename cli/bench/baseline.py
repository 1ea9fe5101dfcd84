"""The raw baseline: runs the model with ONNX Runtime in a loop in this process, without HTTP, Redis and batching.

Meanwhile it measures the CPU use of other processes on this machine, on Linux.
"""

import itertools
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import orjson

from batching.collation import group_of, stack_items
from cli.bench.errors import CannotMeasure
from cli.bench.load.inputs import Inputs
from cli.bench.load.target import Target
from cli.bench.statistics import RawRound
from jobs.contract.errors import JitneyError
from jobs.contract.job_request import read_json_fields
from model_runtime.engine.onnx_engine import RunFailed
from model_runtime.model import Model, load_model
from model_runtime.repository.repository import BrokenModel, list_models
from model_runtime.spec.model_toml import ModelError
from model_runtime.tasks.examples import encode_request
from model_runtime.tensor_spec import Array
from worker.versions.hardware import hardware_from_environment

WARMUP_S = 0.3
_STAT: Final = Path("/proc/stat")
_IDLE: Final = (3, 4)  # idle and iowait, counted from user
_GUEST: Final = 8  # guest times, which are already included in user


class RawBaseline:
    """A model with preprocessed inputs, at batch size 1 and at `max_batch`, the service's largest batch.

    `usual_share`: of the inputs that have the most frequent shape, which batches are made of.
    """

    def __init__(self, model: Model, inputs: Inputs, max_batch: int) -> None:
        self.card = model.card()
        self.spec = model.spec
        self._model = model
        self._prepare = [_preprocessor(model, inputs.kind, body) for body in inputs.bodies]
        prepared = [prepare() for prepare in self._prepare]
        groups = [group_of(row) for row in prepared]
        usual = max(groups, key=groups.count)
        self.usual_share = groups.count(usual) / len(groups)
        items = itertools.cycle(row for row, group in zip(prepared, groups, strict=True) if group == usual)
        sizes = sorted({1, max_batch})
        self._batches: dict[int, Any] = {size: stack_items([next(items) for _ in range(size)]) for size in sizes}

    def measure(self, seconds: float) -> RawRound:
        """Measure preprocessing and each batch size, with equal shares of the seconds."""
        other_load, share = OtherCpuLoad(), seconds / (len(self._batches) + 1)
        rates = {n: n * _call_rate(partial(self._model.run, batch), share) for n, batch in self._batches.items()}
        calls = itertools.cycle(self._prepare)

        def preprocess_next() -> None:
            next(calls)()

        preprocess_rate = _call_rate(preprocess_next, share)
        return RawRound(rates, 1 / preprocess_rate, other_load.cores())


def open_raw_baseline(models_dir: Path, target: Target, inputs: Inputs) -> RawBaseline:
    """Load the model as a worker does. Raises CannotMeasure with the reason if there is no comparable model."""
    try:
        (listed,) = list_models(models_dir, [target.model])
        if isinstance(listed, BrokenModel):
            raise CannotMeasure(listed.reason)
        if listed.version != target.version:
            raise CannotMeasure(f"{listed.path} has version {listed.version}, the service runs {target.version}")
        side = RawBaseline(load_model(listed, hardware_from_environment()), inputs, target.card["max_batch"])
    except (ModelError, JitneyError, RunFailed) as error:
        raise CannotMeasure(str(error)) from error
    # Two measurements of a cap differ on the same machine: only a configured one tells models apart.
    configured = ("max_batch",) if side.spec.max_batch else ()
    for key in ("inputs", "outputs", "provider", *configured):
        if side.card[key] != target.card[key]:
            raise CannotMeasure(f"{listed.path}: {key} is {side.card[key]}, the service's model has {target.card[key]}")
    return side


def _preprocessor(model: Model, kind: str, body: bytes) -> Callable[[], dict[str, Array]]:
    """Return a call that preprocesses an input as a worker does. A job in JSON is parsed now, as by the gateway."""
    if kind != "json":
        return lambda: model.preprocess(kind, body, {})
    request = read_json_fields(orjson.loads(body))
    job_kind, data = encode_request(request, model.card()["kinds"])
    if rows := request.rows:
        return lambda: model.preprocess_rows(job_kind, data, dict(request.parameters), rows)[0][0]
    return lambda: model.preprocess(job_kind, data, dict(request.parameters))


def _call_rate(call: Callable[[], Any], seconds: float) -> float:
    """Return calls per second over at least one call, after a warm-up."""
    _count_calls(call, WARMUP_S)
    started = time.perf_counter()
    return _count_calls(call, seconds) / (time.perf_counter() - started)


def _count_calls(call: Callable[[], Any], seconds: float) -> int:
    deadline, count = time.perf_counter() + seconds, 0
    while not count or time.perf_counter() < deadline:
        call()
        count += 1
    return count


class OtherCpuLoad:
    """CPU use of other processes since it was created; use it while the service is idle."""

    def __init__(self) -> None:
        self._wall, self._own, self._busy = time.perf_counter(), time.process_time(), _busy_s()

    def cores(self) -> float | None:
        """Return the mean cores used by others; None if unknown."""
        busy = _busy_s()
        if busy is None or self._busy is None:
            return None
        own = time.process_time() - self._own
        return max(0.0, (busy - self._busy - own) / (time.perf_counter() - self._wall))


def _busy_s() -> float | None:
    try:
        line = _STAT.read_text(encoding="ascii").partition("\n")[0]
        ticks = [int(field) for field in line.split()[1:]][:_GUEST]
        return sum(count for index, count in enumerate(ticks) if index not in _IDLE) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError):
        return None
