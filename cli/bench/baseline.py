"""The limit that no queue beats: the same model in ONNX Runtime in a loop, in this process, one thread asking.

No HTTP, no Redis, no batcher: prepared arrays go in, arrays come out.
"""

import itertools
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from batching.collation import fold, group_of
from cli.bench.errors import CannotMeasure
from cli.bench.load.inputs import Inputs
from cli.bench.load.target import Target
from cli.bench.other_cpu_load import ForeignCpu
from cli.bench.statistics import RawRound
from jobs.contract.errors import JitneyError
from model_runtime.engine.onnx_engine import RunFailed
from model_runtime.model import Model, load
from model_runtime.repository.repository import BrokenModel, scan
from model_runtime.spec.model_toml import ModelError
from worker.versions.hardware import of_the_environment

WARM_S = 0.3


class RawSide:
    """The model with its inputs prepared, at batch 1 and at its largest batch."""

    def __init__(self, model: Model, inputs: Inputs) -> None:
        self.card = model.card()
        self.threads = model.spec.threads
        self._model, self._inputs = model, inputs
        prepared = [model.prepare(inputs.kind, body, {}) for body in inputs.bodies]
        riders = itertools.cycle(one for one in prepared if group_of(one) == group_of(prepared[0]))
        sizes = sorted({1, model.max_batch})
        self._batches: dict[int, Any] = {size: fold([next(riders) for _ in range(size)]) for size in sizes}

    def measure(self, seconds: float) -> RawRound:
        """Shares the seconds evenly: preparing, and running each batch size."""
        foreign, share = ForeignCpu(), seconds / (len(self._batches) + 1)
        rates = {size: size * _rate(partial(self._model.run, batch), share) for size, batch in self._batches.items()}
        bodies = itertools.cycle(self._inputs.bodies)
        prepares = _rate(lambda: self._model.prepare(self._inputs.kind, next(bodies), {}), share)
        return RawRound(rates, 1 / prepares, foreign.cores())


def open_raw(models_dir: Path, target: Target, inputs: Inputs) -> RawSide:
    """Loads the model as a worker does; raises CannotMeasure, with the reason for having no raw side."""
    try:
        (found,) = scan(models_dir, [target.model])
        if isinstance(found, BrokenModel):
            raise CannotMeasure(found.reason)
        if found.version != target.version:
            raise CannotMeasure(f"{found.path} has version {found.version}, the service runs {target.version}")
        side = RawSide(load(found, of_the_environment()), inputs)
    except (ModelError, JitneyError, RunFailed) as error:
        raise CannotMeasure(str(error)) from error
    for key in ("inputs", "outputs", "max_batch", "provider"):
        if side.card[key] != target.card[key]:
            raise CannotMeasure(f"{found.path}: {key} is {side.card[key]}, the service's model has {target.card[key]}")
    return side


def _rate(call: Callable[[], Any], seconds: float) -> float:
    """Calls per second; at least one call, warmed up."""
    _count(call, WARM_S)
    started = time.perf_counter()
    count = _count(call, seconds)
    return count / (time.perf_counter() - started)


def _count(call: Callable[[], Any], seconds: float) -> int:
    until, count = time.perf_counter() + seconds, 0
    while not count or time.perf_counter() < until:
        call()
        count += 1
    return count
