"""`jitney models check`: compares the outputs of rows run alone with those of the same rows in batches."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Final, NamedTuple

from batching import buckets
from cli.models.model_paths import ModelPath
from model_runtime.engine.onnx_engine import OnnxEngine, RunFailed
from model_runtime.engine.open_engine import AnyEngine
from model_runtime.graph.facts import GraphFacts, read_facts
from model_runtime.profiling import batch_consistency
from model_runtime.profiling.batch_cap import MeasuredModel
from model_runtime.profiling.batch_consistency import ConsistencyReport
from model_runtime.profiling.padding_check import decide_padding
from model_runtime.repository.repository import ModelFolder
from model_runtime.spec.model_toml import ModelError
from model_runtime.tasks import Task, attach_task
from model_runtime.tasks.examples import Row, read_own_examples

# Defaults: the smallest, an odd one, and a typical kernel size, which is skipped for slow models.
BATCH_SIZES: Final = (2, 3, 8)
LONG_ROW_S: Final = 0.05
MAX_LINES: Final = 5


class CheckResult(NamedTuple):
    """The result of a check. `reason`: why it failed, or empty. `report` is None if no batch can run.

    `padding`: what was found about items of different lengths, empty if the model's items do not differ in length.
    """

    title: str
    device: str
    sizes: Sequence[int]
    reason: str
    report: ConsistencyReport | None
    padding: str = ""

    @property
    def failure(self) -> str:
        """Return why the check failed; empty if it passed, or if it proves nothing."""
        return "" if self.report and self.report.checked is None else self.reason

    def lines(self) -> list[str]:
        """Format the result as text."""
        verdict = "FAILS the check" if self.failure else "cannot be checked" if self.reason else "passes the check"
        head = ": ".join(filter(None, [self.title, verdict, self.reason]))
        if self.report is None:
            return [head]
        sizes = ", ".join(map(str, self.sizes))
        drift = f"{self.report.drift:.3g} {self.report.where}" if self.report.drift else "none, bitwise equal"
        details = [
            f"{self.report.runs} runs of {self.report.rows} rows in batches of {sizes} on {self.device}",
            f"largest drift: {drift}; allowed: {self.report.tolerance:g} of the largest number of an output",
            *([self.padding] if self.padding else []),
            *_first_lines([*self.report.couplings, *self.report.leaks, *self.report.broken]),
        ]
        return [head, *(f"  {line}" for line in [*details, *filter(None, [self.report.note])])]

    def as_json(self) -> dict[str, Any]:
        report = asdict(self.report) if self.report else None
        return {"model": self.title, "device": self.device, "passed": not self.reason, "reason": self.reason} | {
            "checked": self.report.checked if self.report else None,
            "sizes": list(self.sizes),
            "padding": self.padding or None,
            "found": report,
        }


def _first_lines(lines: Sequence[str]) -> list[str]:
    """Return the first few lines and the number of others; JSON has all."""
    return [*lines[:MAX_LINES], *([f"and {len(lines) - MAX_LINES} more like these"] if len(lines) > MAX_LINES else [])]


def check(place: ModelPath, sizes: Sequence[int], provider: str, tolerance: float | None, seed: int) -> CheckResult:
    """Open a model folder as a worker does, or a single file, and check it. Raises ModelError."""
    engine = place.open_engine(provider)
    prepared: Sequence[int] = ()
    examples: Sequence[Row] = ()
    max_drift, task = None, None
    if place.folder is not None:
        spec = place.folder.spec
        task = attach_task(place.folder, engine)
        prepared = buckets.choose_buckets(engine.provider, spec.max_batch or max(BATCH_SIZES), spec.buckets)
        examples, max_drift = read_own_examples(place.folder.path, task, engine.inputs), spec.max_drift
    result = check_engine(
        place.title,
        engine,
        sizes or prepared or default_sizes(engine),
        tolerance=tolerance,
        seed=seed,
        prepared=prepared,
        max_drift=max_drift,
        examples=examples,
    )
    if place.folder is None or task is None or result.reason:
        return result
    return result._replace(padding=_check_padding(place.folder, engine, task))


def _check_padding(folder: ModelFolder, engine: AnyEngine, task: Task) -> str:
    """Compare rows of different lengths alone and padded. Raises ModelError for padding that model.toml asks for."""
    padding = decide_padding(folder, engine, task, checks_trusted=True)
    if padding is None:
        return ""
    return "padding changes no answer" if padding.is_used else engine.batch_note or "items are not padded"


def default_sizes(engine: AnyEngine) -> Sequence[int]:
    """Return the batch sizes to try, by the latency of one row; open shapes count as fast."""
    if not engine.batchable or not all(spec.is_fixed for spec in engine.inputs):
        return BATCH_SIZES
    model = MeasuredModel(engine.inputs, engine.run)
    try:
        model.warm_up(1)
        return BATCH_SIZES[:2] if model.time(1).run_s > LONG_ROW_S else BATCH_SIZES
    except RunFailed:  # the model cannot run zeros
        return BATCH_SIZES


def check_engine(
    title: str,
    engine: AnyEngine,
    sizes: Sequence[int],
    *,
    tolerance: float | None = None,
    seed: int = batch_consistency.SEED,
    prepared: Sequence[int] = (),
    max_drift: float | None = None,
    examples: Sequence[Row] = (),
) -> CheckResult:
    """Check an open engine. Raises ModelError if no synthetic row runs."""
    if not engine.batchable:
        reason = f"it cannot be batched: {engine.batch_note}; `jitney models doctor` shows whether that can be fixed"
        return CheckResult(title, engine.device, sizes, reason, None)
    allowed = tolerance or batch_consistency.tolerance_of([*engine.inputs, *engine.outputs], engine.provider)
    consistency = batch_consistency.ConsistencyCheck(
        engine.inputs,
        engine.run,
        lambda rows: buckets.padded_size(prepared, rows),
        allowed,
        facts=read_facts(engine.path, engine.batch_axes) if isinstance(engine, OnnxEngine) else GraphFacts(),
        max_drift=None if tolerance else max_drift,
        examples=examples,
        find_indices=engine.provider == "cpu",
    )
    try:
        report = consistency.full(sizes, seed)
    except RunFailed as error:
        raise ModelError(title, None, f"synthetic rows do not run, so it cannot be checked: {error}") from error
    return CheckResult(title, engine.device, sizes, report.reason, report)
