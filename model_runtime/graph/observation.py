"""Run a model at two batch sizes and record the shapes and small values inside its graph.

Shape inference does not follow free dimensions and computed shapes; a run does.
"""

from collections.abc import Iterable, Mapping
from math import prod
from typing import Any, Final, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from model_runtime.engine.onnx_runtime import onnxruntime

Values = NDArray[Any]

BATCHES: Final = (5, 7)  # primes, so that few other dimensions are multiples of them
_SIDES: Final = (16, 32, 64, 224, 128, 8, 1)  # for free dimensions, until the model runs
_MAX_VALUES: Final = 1 << 16  # of a tensor that is recorded with its values
_SEED: Final = 3


class Observation(NamedTuple):
    """A run with a batch of `batch`, and one with another batch if the batch is free.

    `inputs`: shapes. `shapes`: of every recorded tensor. `values`, `other_values`: small tensors of the two runs.
    """

    batch: int
    inputs: Mapping[str, tuple[int, ...]]
    shapes: Mapping[str, tuple[int, ...]]
    values: Mapping[str, Values]
    other_batch: int = 0
    other_values: Mapping[str, Values] = {}


def observe(
    model: onnx.ModelProto,
    inputs: Mapping[str, list[int | str]],
    axes: Mapping[str, int],
    row_shapes: Mapping[str, tuple[int, ...]],
    known: Mapping[str, tuple[int, ...]],
) -> Observation | None:
    """Return what a run shows; None if no run succeeds.

    `inputs`: declared dimensions. `axes`: batch axes. `row_shapes`: shapes to use. `known`: shapes of large tensors,
    which are not recorded.
    """
    types = {value_info.name: value_info.type.tensor_type.elem_type for value_info in model.graph.input}
    recorded = [
        name
        for node in model.graph.node
        for name in node.output
        if name and (name not in known or prod(known[name]) <= _MAX_VALUES)
    ]
    try:
        session = _open(model, recorded)
    except Exception:  # noqa: BLE001 - an operator or an opset that this runtime does not have
        return None
    if not all(types.values()):  # sequences and maps
        return None
    fixed = next((size for name, dims in inputs.items() if dims and isinstance(size := dims[axes[name]], int)), 0)
    for side in _SIDES if any(isinstance(size, str) for dims in inputs.values() for size in dims) else (1,):
        runs = []
        for batch in (fixed,) if fixed else BATCHES:
            shapes = {
                name: _sizes(dims, axes[name], batch, side, row_shapes.get(name)) for name, dims in inputs.items()
            }
            random = np.random.default_rng(_SEED)
            feed = {name: _values(types[name], shape, random) for name, shape in shapes.items()}
            try:
                runs.append((batch, shapes, dict(zip(recorded, session.run(recorded, feed), strict=True))))
            except Exception:  # noqa: BLE001 - another size may run
                break
        if len(runs) == (1 if fixed else len(BATCHES)):
            return _summarize(runs)
    return None


def _open(model: onnx.ModelProto, recorded: Iterable[str]) -> Any:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    present = {value_info.name for value_info in copy.graph.output}
    copy.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in recorded if name not in present)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(copy.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _sizes(
    dims: list[int | str], axis: int, batch: int, side: int, row_shape: tuple[int, ...] | None
) -> tuple[int, ...]:
    if not dims:
        return ()
    row = row_shape or tuple(size if isinstance(size, int) else side for at, size in enumerate(dims) if at != axis)
    return (*row[:axis], batch, *row[axis:])


def _values(kind: int, shape: tuple[int, ...], random: np.random.Generator) -> Values:
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(kind))
    if dtype.kind == "f":
        return random.standard_normal(shape).astype(dtype)
    return random.integers(0, 2, shape).astype(dtype)


def _summarize(runs: list[tuple[int, dict[str, tuple[int, ...]], dict[str, Any]]]) -> Observation:
    batch, inputs, first = runs[0]
    arrays = {name: value for name, value in first.items() if isinstance(value, np.ndarray)}
    small = {name: value for name, value in arrays.items() if value.size <= _MAX_VALUES}
    other_batch, _, other = runs[1] if len(runs) > 1 else (0, {}, {})
    return Observation(
        batch,
        inputs,
        {name: value.shape for name, value in arrays.items()},
        small,
        other_batch,
        {name: other[name] for name in small if name in other},
    )
