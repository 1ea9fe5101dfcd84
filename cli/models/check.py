"""`jitney models check`: the same rows alone, in each batch size, padded, shuffled and beside noise."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Final, NamedTuple

from batching import buckets
from cli.models.model_paths import ModelPath
from model_runtime.engine.onnx_engine import OnnxEngine, RunFailed
from model_runtime.engine.open_engine import AnyEngine, open_engine
from model_runtime.profiling import batch_consistency
from model_runtime.profiling.batch_cap import MeasuredModel
from model_runtime.profiling.batch_consistency import ConsistencyReport
from model_runtime.spec.model_toml import ModelError
from model_runtime.tasks import load_task

# Where nobody says which: the least, an odd one, and one that many kernels are made for, unless that takes long.
BATCH_SIZES: Final = (2, 3, 8)
LONG_ROW_S: Final = 0.05
MAX_LINES: Final = 3


class CheckResult(NamedTuple):
    """`reason`: why not, one line, empty where it passed. `found` is None where nothing could be run together."""

    title: str
    device: str
    sizes: Sequence[int]
    reason: str
    found: ConsistencyReport | None

    def lines(self) -> list[str]:
        """For people."""
        head = f"{self.title}: {'FAILS the check: ' + self.reason if self.reason else 'passes the check'}"
        if self.found is None:
            return [head]
        sizes = ", ".join(map(str, self.sizes))
        drift = f"{self.found.drift:.3g} {self.found.where}" if self.found.drift else "none: equal to the last bit"
        details = [
            f"{self.found.runs} runs of made-up rows in batches of {sizes} on {self.device}",
            f"largest drift: {drift}; allowed: {self.found.tolerance:g} of an answer's largest number",
            *_first_lines([*self.found.leaks, *self.found.broken]),
        ]
        return [head, *(f"  {line}" for line in [*details, *filter(None, [self.found.note])])]

    def as_json(self) -> dict[str, Any]:
        found = asdict(self.found) if self.found else None
        return {"model": self.title, "device": self.device, "passed": not self.reason, "reason": self.reason} | {
            "sizes": list(self.sizes),
            "found": found,
        }


def _first_lines(lines: Sequence[str]) -> list[str]:
    """A few say enough; JSON has all."""
    return [
        *lines[:MAX_LINES],
        *([f"and {len(lines) - MAX_LINES} more like these"] if len(lines) > MAX_LINES else []),
    ]


def check(place: ModelPath, sizes: Sequence[int], provider: str, tolerance: float | None, seed: int) -> CheckResult:
    """Open a model as a worker does, with its whole folder, and try it; raises ModelError."""
    if place.folder is None:
        alone = OnnxEngine(place.onnx, provider)
        return check_engine(place.title, alone, sizes or default_sizes(alone), tolerance=tolerance, seed=seed)
    spec = place.folder.spec
    engine = open_engine(place.folder, provider=provider)
    load_task(spec, place.folder.path, engine.inputs, engine.outputs)
    prepared = buckets.choose_buckets(engine.provider, spec.max_batch or max(BATCH_SIZES), spec.buckets)
    return check_engine(
        place.title,
        engine,
        sizes or prepared or default_sizes(engine),
        tolerance=tolerance,
        seed=seed,
        prepared=prepared,
    )


def default_sizes(engine: AnyEngine) -> Sequence[int]:
    """By how long one row takes; those of open shape are taken for short."""
    if not engine.batchable or not all(port.is_fixed for port in engine.inputs):
        return BATCH_SIZES
    trial = MeasuredModel(engine.inputs, engine.run)
    try:
        trial.warm_up(1)
        return BATCH_SIZES[:2] if trial.time(1).run_s > LONG_ROW_S else BATCH_SIZES
    except RunFailed:  # zeros are not to its taste
        return BATCH_SIZES


def check_engine(
    title: str,
    engine: AnyEngine,
    sizes: Sequence[int],
    *,
    tolerance: float | None = None,
    seed: int = batch_consistency.SEED,
    prepared: Sequence[int] = (),
) -> CheckResult:
    """Try what is open; raises ModelError where not even one made-up row runs."""
    if not engine.batchable:
        reason = f"it can not be batched: {engine.batch_note}; `jitney models doctor` tells whether that can be mended"
        return CheckResult(title, engine.device, sizes, reason, None)
    allowed = tolerance or batch_consistency.tolerance_of([*engine.inputs, *engine.outputs], engine.provider)
    trial = batch_consistency.ConsistencyCheck(
        engine.inputs, engine.run, lambda rows: buckets.padded_size(prepared, rows), allowed
    )
    try:
        found = trial.full(sizes, seed)
    except RunFailed as error:
        raise ModelError(title, None, f"made-up rows do not run, so nothing can be told: {error}") from error
    return CheckResult(title, engine.device, sizes, found.reason, found)
