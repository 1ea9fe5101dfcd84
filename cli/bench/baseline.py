"""The limit that no queue beats: the same model in ONNX Runtime in a loop, in this process, one thread asking.

No HTTP, no Redis, no batcher: prepared arrays go in, arrays come out.
"""

import itertools
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from batching.collation import group_of, stack_items
from cli.bench.errors import CannotMeasure
from cli.bench.load.inputs import Inputs
from cli.bench.load.target import Target
from cli.bench.other_cpu_load import OtherCpuLoad
from cli.bench.statistics import RawRound
from jobs.contract.errors import JitneyError
from model_runtime.engine.onnx_engine import RunFailed
from model_runtime.model import Model, load_model
from model_runtime.repository.repository import BrokenModel, list_models
from model_runtime.spec.model_toml import ModelError
from worker.versions.hardware import hardware_from_environment

WARMUP_S = 0.3


class RawBaseline:
    """The model with its inputs prepared, at batch 1 and at its largest batch."""

    def __init__(self, model: Model, inputs: Inputs) -> None:
        self.card = model.card()
        self.threads = model.spec.threads
        self._model, self._inputs = model, inputs
        prepared = [model.preprocess(inputs.kind, body, {}) for body in inputs.bodies]
        items = itertools.cycle(one for one in prepared if group_of(one) == group_of(prepared[0]))
        sizes = sorted({1, model.max_batch})
        self._batches: dict[int, Any] = {size: stack_items([next(items) for _ in range(size)]) for size in sizes}

    def measure(self, seconds: float) -> RawRound:
        """Shares the seconds evenly: preparing, and running each batch size."""
        foreign, share = OtherCpuLoad(), seconds / (len(self._batches) + 1)
        rates = {
            size: size * _call_rate(partial(self._model.run, batch), share) for size, batch in self._batches.items()
        }
        bodies = itertools.cycle(self._inputs.bodies)
        prepares = _call_rate(lambda: self._model.preprocess(self._inputs.kind, next(bodies), {}), share)
        return RawRound(rates, 1 / prepares, foreign.cores())


def open_raw_baseline(models_dir: Path, target: Target, inputs: Inputs) -> RawBaseline:
    """Loads the model as a worker does; raises CannotMeasure, with the reason for having no raw side."""
    try:
        (found,) = list_models(models_dir, [target.model])
        if isinstance(found, BrokenModel):
            raise CannotMeasure(found.reason)
        if found.version != target.version:
            raise CannotMeasure(f"{found.path} has version {found.version}, the service runs {target.version}")
        side = RawBaseline(load_model(found, hardware_from_environment()), inputs)
    except (ModelError, JitneyError, RunFailed) as error:
        raise CannotMeasure(str(error)) from error
    for key in ("inputs", "outputs", "max_batch", "provider"):
        if side.card[key] != target.card[key]:
            raise CannotMeasure(f"{found.path}: {key} is {side.card[key]}, the service's model has {target.card[key]}")
    return side


def _call_rate(call: Callable[[], Any], seconds: float) -> float:
    """Calls per second; at least one call, warmed up."""
    _count_calls(call, WARMUP_S)
    started = time.perf_counter()
    count = _count_calls(call, seconds)
    return count / (time.perf_counter() - started)


def _count_calls(call: Callable[[], Any], seconds: float) -> int:
    until, count = time.perf_counter() + seconds, 0
    while not count or time.perf_counter() < until:
        call()
        count += 1
    return count
