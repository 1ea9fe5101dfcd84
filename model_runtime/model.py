"""A loaded model: preprocesses, runs batches, encodes outputs, has a card; `load_model` opens, checks, warms it up.

The model states its largest batch; the caller forms the batches.
"""

import logging
import time
from collections.abc import Hashable, Mapping, Sequence
from functools import partial
from math import isfinite
from typing import Any, Final

from batching import buckets
from batching.collation import group_of, split_outputs, stack_items
from batching.padding import Padding
from jobs.contract.errors import Refused
from jobs.contract.tensors import size_bytes
from model_runtime.engine.device_info import summarize
from model_runtime.engine.onnx_engine import OnnxEngine, RunFailed, Stop
from model_runtime.engine.open_engine import QUICK_CHECK_ROWS, AnyEngine, Hardware, open_engine
from model_runtime.graph.facts import GraphFacts, read_facts
from model_runtime.output_encoding import encode_output
from model_runtime.profiling import batch_consistency
from model_runtime.profiling.batch_cap import (
    MAX_MEASURED_BATCH,
    MAX_TINY_BATCH,
    LengthCosts,
    Profile,
    count_prefetched_batches,
    sizes_up_to,
    zero_batch,
)
from model_runtime.profiling.choose_profile import choose_profile
from model_runtime.profiling.padding_check import decide_padding
from model_runtime.repository.repository import ModelFolder, with_version_spec
from model_runtime.spec.model_toml import ModelError
from model_runtime.tasks import TabularTask, Task, TextTask, attach_task, is_custom
from model_runtime.tasks.examples import read_own_examples
from model_runtime.tasks.task import PreparedRow
from model_runtime.tasks.text.text_task import IDS
from model_runtime.tensor_spec import Array

log = logging.getLogger("jitney.worker")

LARGE_OUTPUT_BYTES: Final = 64 << 10  # of one item's arrays: their JSON takes 0.6 ms
_UNCHECKED: Final = 'examples/ in the model\'s folder may help, and batching = "trust" batches it unchecked'


class Model:
    """A loaded model: one version with its engine and task.

    `max_batch`: the configured batch cap, or else the measured one; 1 if the model is not batchable.
    `prefetched_batches`: how many of its largest batches a worker claims ahead of their runs.
    `has_custom_task`, `runs_custom_code` (a custom task or engine): user code must not run on an event loop.
    `offload`: preprocess in a thread, unless the inputs have together at most `inline_bytes`. `is_journaled_singly`:
    preprocessing is slow, so the in-flight journal gets each item by itself instead of all that are preprocessed
    together.
    `stacks_rows`: the outputs of a job's rows are postprocessed together, stacked along a first dimension.
    `runs_stacked_rows`: the rows of a job have one shape and no padding, so they are preprocessed and run stacked.
    `row_group`: the batching group of all items, None if each item has its own.
    `padding`: how items of different lengths run together; None: items have no length. `run_overhead` and
    `max_batch_cost`: limits of its batches (batching/batcher.py).
    `largest_warm_batch`: the largest batch size that `warm_up` has prepared, 0 if none.
    """

    def __init__(
        self,
        folder: ModelFolder,
        engine: AnyEngine,
        task: Task,
        profile: Profile,
        *,
        padding: Padding | None = None,
        costs: LengthCosts | None = None,
    ) -> None:
        self.name = folder.name
        self.version = folder.version
        self.spec = folder.spec
        self.max_batch, self.prefetched_batches = profile.cap, count_prefetched_batches(profile)
        self.buckets = (
            buckets.choose_buckets(engine.provider, profile.cap, folder.spec.buckets) if engine.batchable else ()
        )
        self.max_wait_s = folder.spec.max_wait_ms / 1000
        self.has_custom_task = is_custom(folder.spec.task)
        self.runs_custom_code = self.has_custom_task or folder.spec.engine is not None
        self.offload = task.offload or self.has_custom_task
        self.inline_bytes = 0 if self.runs_custom_code else task.inline_bytes
        self.is_journaled_singly = bool(task.offload)
        self.row_group = None if self.has_custom_task else task.row_group
        self.inputs = engine.inputs
        self.padding, costs = padding, costs or LengthCosts()
        self.runs_stacked_rows = task.stacks_rows and not (padding and padding.is_used)
        self.run_overhead = costs.run_overhead if padding and padding.is_used else None
        max_cost = (folder.spec.max_batch_cost or costs.max_cost) if padding and engine.batchable else None
        self.max_batch_cost = float("inf") if max_cost is None else max_cost
        self._engine, self.gpu = engine, engine.gpu  # the CUDA device number of the GPU that runs it; None on a CPU
        self._task = task
        self._profile, self._onnx = profile, folder.onnx
        self.load_ms = 0.0
        self.largest_warm_batch = 0
        # Read in the loading thread: in a custom task these attributes may be properties that run user code.
        self._kinds = sorted(task.kinds)
        self._input_fields = list(task.input_fields) if "json" in self._kinds else []
        self.stacks_rows = task.stacks_rows
        self._max_rows = folder.spec.max_rows if task.takes_rows and not self.has_custom_task else None
        self._columns = [column.card() for column in task.named_columns()] if isinstance(task, TabularTask) else []
        self._from_file = [*map(str, task.from_file)]
        self._labels = task.label_count if isinstance(task.label_count, int) else None

    def preprocess(self, kind: str, data: bytes, parameters: dict[str, Any]) -> dict[str, Array]:
        """Return one item's arrays, without the batch dimension. Raises Refused, or whatever a custom task raises."""
        self._check_kind(kind)
        return self._task.preprocess(kind, data, parameters)

    def preprocess_rows(self, kind: str, data: bytes, parameters: dict[str, Any], rows: int) -> list[PreparedRow]:
        """Return the arrays and parameters of each row of an input. Raises Refused."""
        self._check_rows(kind)
        return self._task.preprocess_rows(kind, data, parameters, rows)

    def preprocess_stacked(self, kind: str, data: bytes, parameters: dict[str, Any], rows: int) -> dict[str, Array]:
        """Return the arrays of all rows of an input, `(rows, *shape)`, if `runs_stacked_rows`. Raises Refused."""
        self._check_rows(kind)
        return self._task.preprocess_stacked(kind, data, parameters, rows)

    def group_of(self, arrays: Mapping[str, Array]) -> tuple[Hashable, float]:
        """Return the batching group of an item, and its cost. Raises Refused if its arrays contradict each other."""
        if self.padding is None:
            return self.row_group or group_of(arrays), 1.0
        try:
            length = self.padding.length_of(arrays)
        except ValueError as error:
            raise Refused("invalid_input", str(error)) from error
        return group_of(arrays, self.padding), float(self.padding.padded_length(length))

    def _check_rows(self, kind: str) -> None:
        self._check_kind(kind)
        if self._max_rows is None:
            raise Refused("invalid_input", f"model {self.name} takes no inputs of several rows")

    def _check_kind(self, kind: str) -> None:
        if kind not in self._kinds:
            kinds = " or ".join(self._kinds)
            raise Refused("invalid_input", f"model {self.name} takes {kinds} as input, not {kind}")

    def warm_up(self) -> None:
        """Run each batch size once on zeros, because first runs are slow. Raises ModelError if the device is lost.

        Sizes that were measured at load are warm on a CPU; a GPU also binds its buffers. A model with free dimensions
        is not warmed up. A size that fails ends the warm-up: real inputs may still run.
        """
        engine = self._engine
        if not all(tensor_spec.is_fixed for tensor_spec in engine.inputs):
            return
        for size in self.buckets or sizes_up_to(self.max_batch):
            try:
                if engine.provider != "cpu" or size not in self._profile.measured:
                    (engine.warm_up if engine.batchable else engine.run)(zero_batch(engine.inputs, size))
            except RunFailed as error:
                if error.fault == "device":
                    hint = "; set [cuda] graphs = false in model.toml to run without CUDA graphs"
                    reason = f"the device was lost during the warm-up with {size} rows: {error}"
                    raise ModelError(
                        self._onnx, None, f"{reason}{hint if engine.provider == 'cuda' else ''}"
                    ) from error
                message = "model %s %s: warm-up with %d rows of zeros failed: %s"
                log.warning(message, self.name, self.version, size, error)
                return
            self.largest_warm_batch = size

    def padded_size(self, item_count: int) -> int:
        """Return the row count that a batch of `item_count` items is padded to: the next bucket, if there is one."""
        return buckets.padded_size(self.buckets, item_count) if self.buckets else item_count

    def run(self, arrays: Mapping[str, Array], stop: Stop | None = None) -> dict[str, Array]:
        """Run a batch of rows and return rows. Blocks; safe from any thread. Raises RunFailed."""
        return self._engine.run(arrays, stop)

    def postprocess(self, outputs: Mapping[str, Array], parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Convert one item's outputs, without the batch dimension, to JSON-able data. Raises as `preprocess` does."""
        return self._task.postprocess(outputs, parameters)

    def encode(self, outputs: Mapping[str, Array], parameters: Mapping[str, Any], chunk_bytes: int) -> list[bytes]:
        """Postprocess one item's outputs and return the JSON in chunks of `chunk_bytes`.

        Raises Refused for more than `max_output_bytes`, and whatever a custom task raises.
        """
        return encode_output(self.postprocess(outputs, parameters), self.spec.max_output_bytes, chunk_bytes)

    def encode_batch(
        self, outputs: Mapping[str, Array], parameters: Sequence[Mapping[str, Any]], chunk_bytes: int
    ) -> list[bytes] | None:
        """Return the JSON of each row of a batch, as `encode` returns it in one chunk. Outputs may have padding.

        None: the rows must be encoded one by one, because they are large, or because of an error, which may concern one
        of them only. Not for custom tasks.
        """
        if self.padding is not None and self.padding.outputs and not self._task.encodes_padded:
            return None
        try:
            bodies = self._task.encode_batch(outputs, parameters)
        except Exception:  # noqa: BLE001 (it is met again in the row that it concerns)
            return None
        most = min(self.spec.max_output_bytes, chunk_bytes)
        return bodies if bodies is not None and max(map(len, bodies)) <= most else None

    def has_large_output(self, outputs: Mapping[str, Array]) -> bool:
        """Return whether an item's outputs take long to postprocess, or their JSON to write."""
        if self._task.returns_arrays:
            return sum(array.nbytes for array in outputs.values()) > LARGE_OUTPUT_BYTES
        return self._task.is_slow

    @property
    def uses_gpu(self) -> bool:
        """Return whether the model runs on a GPU."""
        return self._engine.gpu is not None

    @property
    def running_on(self) -> str:
        """Describe the provider and device that run the model, in one line."""
        engine = self._engine
        gpu = f", GPU {engine.gpu}" if engine.gpu is not None else ""
        note = f" ({engine.provider_note})" if engine.provider_note else ""
        return f"{engine.provider}, {engine.device}{gpu}{note}"

    @property
    def summary(self) -> str:
        """Say what runs the model and in which batches, such as `CPU, batches up to 32`."""
        return summarize(self._engine, self.max_batch)

    def card(self) -> dict[str, Any]:
        """Return the model card that the worker announces, JSON-able."""
        return {
            "name": self.name,
            "version": self.version,
            "task": self.spec.task,
            "description": self.spec.description,
            "kinds": self._kinds,
            "input_fields": self._input_fields,
            "columns": self._columns,
            "inputs": [tensor_spec.card() for tensor_spec in self._engine.inputs],
            "outputs": [tensor_spec.card() for tensor_spec in self._engine.outputs],
            "unbatched": self._engine.unbatched,
            "max_batch": self.max_batch,
            "buckets": list(self.buckets),
            "lengths": self._lengths_card(),
            "run_ms": {str(size): ms for size, ms in self._profile.run_ms.items()},
            "profiles": [profile.as_json() for profile in self._profile.stored],
            "batchable": self._engine.batchable,
            "checked": self._engine.checked,
            "drift": self._engine.drift,
            "batch_note": self._engine.batch_note,
            "provider": self._engine.provider,
            "provider_note": self._engine.provider_note,
            "placement": self._engine.placement,
            "device": self._engine.device,
            "gpu": self._engine.gpu,
            "requested_provider": self.spec.provider,
            "limits": {"max_pixels": self.spec.image.max_pixels if "image" in self._kinds else None},
            "raw_bytes": self._raw_bytes(),
            "deadline_ms": self.spec.deadline_ms,
            "max_output_bytes": self.spec.max_output_bytes,
            "max_rows": self._max_rows,
            "load_ms": round(self.load_ms, 3),
            "labels": self._labels,
            "from_file": self._from_file,
        }

    def _lengths_card(self) -> dict[str, Any] | None:
        """Return how items of different lengths are batched; None if they have no length."""
        if self.padding is None:
            return None
        max_cost = round(self.max_batch_cost) if isfinite(self.max_batch_cost) else None
        run_overhead = None if self.run_overhead is None else round(self.run_overhead, 1)
        multiple = self.padding.multiple if self.padding.is_used else None
        return {"padded_to_multiple": multiple, "run_overhead": run_overhead, "max_batch_cost": max_cost}

    def _raw_bytes(self) -> int | None:
        """Return the size in bytes of an `application/octet-stream` body, or None if the model does not accept one."""
        tensor_spec = self._engine.inputs[0]
        fits = "raw" in self._kinds and len(self._engine.inputs) == 1 and tensor_spec.is_fixed
        return size_bytes(tensor_spec.datatype, tensor_spec.shape) if fits else None


def load_model(folder: ModelFolder, hardware: Hardware | None = None) -> Model:
    """Open and check the model, create its task, and warm it up. Raises ModelError only."""
    started = time.perf_counter()
    folder = with_version_spec(folder)
    engine = open_engine(folder, hardware)
    task = attach_task(folder, engine)
    facts = _read_graph(folder, engine, task)
    if isinstance(task, TextTask):
        check_text(folder, engine, task, facts)
    if engine.batchable:
        _decide_batching(folder, engine, task, facts)
    padding = decide_padding(folder, engine, task)
    profile, costs = choose_profile(folder, engine, task, padding)
    model = Model(folder, engine, task, profile, padding=padding, costs=costs)
    model.warm_up()
    model.load_ms = (time.perf_counter() - started) * 1000
    return model


def _read_graph(folder: ModelFolder, engine: AnyEngine, task: Task) -> GraphFacts:
    """Return the facts of the model's graph, if its checks need them."""
    is_checked = isinstance(task, TextTask) or (engine.batchable and folder.spec.batching == "auto")
    return read_facts(folder.onnx, engine.batch_axes) if is_checked and isinstance(engine, OnnxEngine) else GraphFacts()


def check_text(folder: ModelFolder, engine: AnyEngine, task: TextTask, facts: GraphFacts | None = None) -> None:
    """Run the longest text and the largest token id. Raises ModelError."""
    facts = facts or _read_graph(folder, engine, task)
    try:
        task.check_fit(partial(_run_row, engine), facts.heights.get(IDS, 0))
    except RunFailed as error:
        raise ModelError(folder.onnx, None, f"the device was lost while the tokenizer was checked: {error}") from error


def _run_row(engine: AnyEngine, row: Mapping[str, Array]) -> Mapping[str, Array]:
    return split_outputs(engine.run(stack_items([row])), 1)[0]


def _decide_batching(folder: ModelFolder, engine: AnyEngine, task: Task, facts: GraphFacts) -> None:
    """Run the short form of `jitney models check`. A model that does not pass is still served, one row at a time."""
    if folder.spec.batching == "off":
        engine.disable_batching('batching = "off" in model.toml')
    if folder.spec.batching != "auto":
        return
    try:
        _check_consistency(folder, engine, task, facts)
    except RunFailed as error:  # the model refuses synthetic rows, but may accept a caller's
        if error.fault == "device":
            raise ModelError(folder.onnx, None, f"the device was lost while the model was checked: {error}") from error
        engine.disable_batching(f"it could not be checked, as synthetic rows do not run: {error}; {_UNCHECKED}")
    if not engine.batchable:
        log.warning("model %s runs one row at a time: %s", folder.name, engine.batch_note)


def _check_consistency(folder: ModelFolder, engine: AnyEngine, task: Task, facts: GraphFacts) -> None:
    tolerance = batch_consistency.tolerance_of([*engine.inputs, *engine.outputs], engine.provider)
    check = batch_consistency.ConsistencyCheck(
        engine.inputs,
        engine.run,
        lambda rows: rows,
        tolerance,
        facts=facts,
        max_drift=folder.spec.max_drift,
        find_indices=engine.provider == "cpu",
        examples=read_own_examples(folder.path, task, engine.inputs, QUICK_CHECK_ROWS),
    )
    cap = folder.spec.max_batch or (MAX_TINY_BATCH if engine.provider == "cpu" else MAX_MEASURED_BATCH)
    larger = buckets.choose_buckets("cuda", cap, folder.spec.buckets)  # on a CPU, the same sizes as on a GPU
    report = check.short(QUICK_CHECK_ROWS, larger)
    engine.checked, engine.drift = report.checked, report.drift
    if report.checked is None:
        engine.disable_batching(f"{report.reason}; {_UNCHECKED}")
    elif not report.passed:
        engine.disable_batching(f"it fails the check: {report.reason}")
    else:
        engine.batch_note = "; ".join(filter(None, [engine.batch_note, *report.doubts]))
