"""Determine whether a model accepts several rows at once, and where its rows are, by running it.

Takes the declared tensor specs, with the batch dimension, and a function that runs arrays. A free first dimension may
be the batch, but also time, samples or a height; two rows, run together and apart, tell which.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np

from model_runtime.engine.batch_axes import Axes, BatchAxes, DimNames, is_batch_name, without
from model_runtime.profiling.synthetic_inputs import GUESSES, WORDS
from model_runtime.tensor_spec import DTYPES, Array, TensorSpec

Run = Callable[[dict[str, Array]], Mapping[str, Array]]

_APART: Final = 0.01  # of an output's largest number: rows that differ less, together and alone, are kept apart
_LENGTH_NAME: Final = re.compile(
    r"seq(?!s|uences)|time|frame|len|step|height|width|token|audio|points|wave|^[thwsl]$", re.IGNORECASE
)
_SEED: Final = 11


class OutOfMemory(Exception):
    """A single row of zeros does not fit into memory."""


class Batchability(NamedTuple):
    """`note`: why not, or what could not be tested. `axes`: where the batch is, as far as one row or two show it."""

    batchable: bool
    note: str
    axes: BatchAxes

    @property
    def unbatched_outputs(self) -> frozenset[str]:
        """Return the outputs without a batch dimension, such as [boxes, 4]."""
        return frozenset(name for name, axis in self.axes.outputs.items() if axis is None)


class _Probe(NamedTuple):
    """`inputs`: those that items have. `axes`: what is written or declared. `side`: the size of free dimensions."""

    inputs: Sequence[TensorSpec]
    outputs: Sequence[TensorSpec]
    run: Run
    axes: BatchAxes
    names: DimNames
    side: int = 1

    def run_zeros(self, rows: int) -> Mapping[str, Array]:
        zeros = {tensor_spec.name: tensor_spec.zeros(self._sides(tensor_spec, rows)) for tensor_spec in self.inputs}
        return self.run_rows(zeros, rows)

    def run_rows(self, arrays: dict[str, Array], rows: int) -> Mapping[str, Array]:
        """Run rows that are stacked along the first dimension."""
        return self.run(self.axes.arrange_inputs(arrays, rows))

    def random_row(self, seed: int) -> dict[str, Array]:
        random = np.random.default_rng(seed)
        return {
            tensor_spec.name: _random_values(tensor_spec.datatype, self._sides(tensor_spec, 1), random)
            for tensor_spec in self.inputs
        }

    def _sides(self, tensor_spec: TensorSpec, rows: int) -> list[int]:
        row = without(tensor_spec.shape, self.axes.inputs[tensor_spec.name])
        return [rows, *(self.side if side == -1 else side for side in row)]


def probe_batchability(
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    run: Run,
    axes: BatchAxes | None = None,
    names: DimNames | None = None,
) -> Batchability:
    """Run one row, then two if the declared shapes allow. `run` may raise anything. Raises OutOfMemory."""
    if axes is None:
        first = {tensor_spec.name: 0 if tensor_spec.shape else None for tensor_spec in (*inputs, *outputs)}
        axes = BatchAxes({i.name: first[i.name] for i in inputs}, {o.name: first[o.name] for o in outputs})
    own = [tensor_spec for tensor_spec in inputs if tensor_spec.name in axes.inputs]
    answered = [next(output for output in outputs if output.name == name) for name in axes.outputs]
    probe = _Probe(own, answered, run, axes, names or {})
    probe, alone, error = _run_one(probe)
    if alone is None:
        return _without_a_run(probe, error)
    obstacle = _input_obstacle(probe)
    found, mismatch = _try_two(probe, alone) if not obstacle or _has_free_batch(probe) else ({}, obstacle)
    axes = axes._replace(outputs={**axes.outputs, **found})
    probe = probe._replace(axes=axes)
    if not obstacle and (reason := _not_a_batch(probe, mismatch)):
        return _single_item(probe, reason)
    if not obstacle and not mismatch:
        return Batchability(batchable=True, note="", axes=axes)
    note = obstacle or _output_obstacle(probe) or mismatch
    return Batchability(batchable=False, note=note, axes=_alone_axes(probe, alone))


def _run_one(probe: _Probe) -> tuple[_Probe, Mapping[str, Array] | None, str]:
    """Run one row of zeros, with several sizes for free dimensions. Return the first error if none runs."""
    first_error = ""
    for side in (1, *GUESSES[:-1]) if _has_free_sides(probe) else (1,):
        probe = probe._replace(side=side)
        try:
            return probe, probe.run_zeros(1), ""
        except Exception as error:  # the model may still serve real inputs
            if getattr(error, "fault", None) == "memory" and not first_error:
                raise OutOfMemory(str(error)) from error
            first_error = first_error or str(error)
    return probe._replace(side=1), None, first_error


def _has_free_sides(probe: _Probe) -> bool:
    return any(-1 in without(spec.shape, probe.axes.inputs[spec.name]) for spec in probe.inputs)


def _input_obstacle(probe: _Probe) -> str:
    for tensor_spec in probe.inputs:
        axis, name = probe.axes.inputs[tensor_spec.name], tensor_spec.name
        if axis is None and name in probe.axes.written:
            return f'input {name!r} has no batch dimension: batch_axis = "none"'
        if axis is None:
            return (
                f"input {name!r} is a scalar, without a batch dimension; [inputs.{name}] value = … makes it a constant"
            )
        if tensor_spec.shape[axis] != -1:
            return f"input {name!r} has its {_ordinal(axis)} dimension fixed at {tensor_spec.shape[axis]}"
    for name, output_axis in probe.axes.outputs.items():
        if output_axis is None and name in probe.axes.written:
            return f'output {name!r} has no batch dimension: batch_axis = "none"; outputs = […] can leave it out'
    return ""


def _output_obstacle(probe: _Probe) -> str:
    for tensor_spec in probe.outputs:
        axis = probe.axes.outputs[tensor_spec.name]
        if axis is None:
            return f"output {tensor_spec.name!r} is a scalar, without a batch dimension"
        if tensor_spec.shape[axis] != -1:
            return f"output {tensor_spec.name!r} has its {_ordinal(axis)} dimension fixed at {tensor_spec.shape[axis]}"
    return ""


def _ordinal(axis: int) -> str:
    return ("first", "second", "third", "fourth")[axis] if axis < 4 else f"{axis + 1}th"


def _try_two(probe: _Probe, alone: Mapping[str, Array]) -> tuple[Axes, str]:
    """Return the outputs' batch axes as far as one row and two show them, and why not all follow the rows."""
    for output in probe.outputs:  # a free dimension that one row does not fill with one is no batch
        shape, axis = alone[output.name].shape, probe.axes.outputs[output.name]
        if output.name in probe.axes.written and axis is not None and shape[axis : axis + 1] != (1,):
            return {}, f"1 rows in, but output {output.name!r} has the shape {list(shape)}"
    try:
        together = probe.run_zeros(2)
    except Exception as error:  # noqa: BLE001 - one row ran, so two rows are the cause
        return {}, f"it runs one row, but not two: {error}"
    found = dict[str, int | None]()
    for output in probe.outputs:
        one, two = alone[output.name].shape, together[output.name].shape
        follows = [at for at, sides in enumerate(zip(one, two, strict=False)) if sides == (1, 2)] * (
            len(one) == len(two)
        )
        axis = probe.axes.outputs[output.name]
        if axis not in follows and output.name not in probe.axes.written and len(follows) == 1:
            axis = follows[0]
        if axis is None or axis not in follows:
            rows, shape = (1, one) if not axis and one[:1] != (1,) else (2, two)
            return found, f"{rows} rows in, but output {output.name!r} has the shape {list(shape)}"
        found[output.name] = axis
    return found, ""


def _not_a_batch(probe: _Probe, obstacle: str) -> str | None:
    """Return why the free first dimension of the inputs is a part of one item; None if it is the batch, or unknown."""
    guessed = [
        spec for spec in probe.inputs if spec.name not in probe.axes.written and probe.axes.inputs[spec.name] == 0
    ]
    names = [(probe.names.get(spec.name) or [""])[0] for spec in guessed]
    ranks = [len(spec.shape) for spec in guessed]
    if len(guessed) < len(probe.inputs) or any(
        is_batch_name(name) and (rank > 1 or "batch" in name.lower()) for name, rank in zip(names, ranks, strict=True)
    ):
        return None
    for name, rank in zip(names, ranks, strict=True):
        if _LENGTH_NAME.search(name) or (rank == 1 and "sample" in name.lower()):
            return f"it is named {name!r}"
    if not names or max(ranks) > 3:  # images
        return None if obstacle or not names or _rows_apart(probe) != "sequence" else _SEQUENCE
    if obstacle:
        return f"its size does not show in the outputs: {obstacle}"
    return _SEQUENCE if _rows_apart(probe) == "sequence" else None


_SEQUENCE: Final = "a row's result depends on the rows before or after it"


def _random_values(datatype: str, shape: Sequence[int], random: np.random.Generator) -> Array:
    """Return numbers of usual size; integers are 0 and 1, which suits indices, counts and flags. Texts are words."""
    dtype = DTYPES[datatype]
    if dtype.kind == "O":
        return random.choice(np.array(WORDS, object), shape)
    if dtype.kind == "f":
        return random.standard_normal(shape).astype(dtype)
    return random.integers(0, 256 if datatype == "UINT8" else 2, shape).astype(dtype)


def _rows_apart(probe: _Probe) -> str:
    """Run two random rows alone, together, and in the other order.

    Return "apart"; "coupled" if each row's result depends on the other one, but not on their order; "sequence" if it
    depends on the order; or "unknown".
    """
    first, second = probe.random_row(_SEED), probe.random_row(_SEED + 1)
    try:
        alone = [probe.axes.arrange_outputs(probe.run_rows(row, 1), 1) for row in (first, second)]
        both, again, swapped = (
            probe.axes.arrange_outputs(probe.run_rows({name: np.concatenate([a[name], b[name]]) for name in a}, 2), 2)
            for a, b in ((first, second), (first, second), (second, first))
        )
    except Exception:  # noqa: BLE001 - zeros ran; random values may be refused
        return "unknown"
    names = list(probe.axes.outputs)
    if any(_differs(both[name], again[name]) for name in names):
        return "unknown"
    if not any(_differs(both[name][at : at + 1], alone[at][name]) for name in names for at in (0, 1)):
        return "apart"
    is_swapped = not any(_differs(both[name][::-1], swapped[name]) for name in names)
    return "coupled" if is_swapped else "sequence"


def _differs(expected: Array, actual: Array) -> bool:
    if expected.shape != actual.shape:
        return True
    if expected.dtype.kind == "O":
        return not np.array_equal(expected, actual)
    a, b = expected.astype(np.float64), actual.astype(np.float64)
    largest = float(np.abs(a[np.isfinite(a)]).max(initial=0.0))
    return not np.allclose(a, b, rtol=0, atol=_APART * largest, equal_nan=True)


def _without_a_run(probe: _Probe, error: str) -> Batchability:
    """Decide without a run of one row: perhaps the first dimension needs more, or free dimensions other sizes."""
    if not _input_obstacle(probe) and not any(
        is_batch_name(name) for dims in probe.names.values() for name in dims[:1]
    ):
        whole = _whole_items(probe)
        if _run_one(whole)[1] is not None:
            return _single_item(probe, f"one row does not run: {error}")
    guessed = _has_free_sides(probe)
    obstacle = _input_obstacle(probe) or _output_obstacle(probe)
    note = obstacle or f"a test run with zeros{' and free dimensions of 1' if guessed else ''} failed: {error}"
    batchable = guessed and not obstacle
    return Batchability(batchable, note, probe.axes if batchable else _alone_axes(probe, {}))


def _whole_items(probe: _Probe) -> _Probe:
    axes = probe.axes
    return probe._replace(axes=axes._replace(inputs=dict.fromkeys(axes.inputs), outputs=dict.fromkeys(axes.outputs)))


def _single_item(probe: _Probe, reason: str) -> Batchability:
    """Return the verdict for tensors without a batch dimension."""
    whole = _whole_items(probe).axes
    name = next(iter(whole.inputs))
    note = f"the first dimension of input {name!r} is taken for a part of one item: {reason}"
    hint = 'batch_axis = "none" in model.toml confirms that, batch_axis = 0 says that it is the batch'
    return Batchability(batchable=False, note=f"{note}; {hint}", axes=whole)


def _alone_axes(probe: _Probe, alone: Mapping[str, Array]) -> BatchAxes:
    """Return the axes for single rows: an output whose size there is not always 1 has no batch dimension."""
    runs = [alone]
    inputs = {name for spec in probe.inputs for name in (probe.names.get(spec.name) or ())[:1] if name}
    doubtful = [
        output for output in probe.outputs if output.shape[:1] == (-1,) or (output.shape and -1 in output.shape[1:])
    ]
    if doubtful and alone:
        runs += _more_runs(probe)
    outputs = dict[str, int | None]()
    for output in probe.outputs:
        axis = probe.axes.outputs[output.name]
        if axis is not None and output.name not in probe.axes.written:
            shapes = [run[output.name].shape for run in runs if output.name in run] or [
                tuple(1 if side == -1 else side for side in output.shape)
            ]
            name = (*(probe.names.get(output.name) or ()), *[""] * (axis + 1))[axis]
            is_other = bool(name) and output.shape[axis] == -1 and not is_batch_name(name) and name not in inputs
            fits = all(len(shape) == len(output.shape) and shape[axis] == 1 for shape in shapes)
            axis = axis if fits and not (is_other and not _has_free_batch(probe)) else None
        outputs[output.name] = axis
    return probe.axes._replace(outputs=outputs)


def _has_free_batch(probe: _Probe) -> bool:
    """Return true if an input has a free batch dimension, and none has a fixed one."""
    axes = {spec.name: axis for spec in probe.inputs if (axis := probe.axes.inputs[spec.name]) is not None}
    return bool(axes) and all(spec.shape[axes[spec.name]] == -1 for spec in probe.inputs if spec.name in axes)


def _more_runs(probe: _Probe) -> list[Mapping[str, Array]]:
    """Run random rows, with another size for free dimensions too, to see which outputs change their size."""
    runs = []
    for side in (probe.side, 32, 224) if _has_free_sides(probe) else (1,):
        other = probe._replace(side=side)
        for seed in range(2):
            try:
                runs.append(other.run_rows(other.random_row(_SEED + seed), 1))
            except Exception:  # noqa: BLE001, S112 - the runs that succeed tell enough
                continue
    return runs
