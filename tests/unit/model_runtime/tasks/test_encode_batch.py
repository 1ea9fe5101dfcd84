"""Outputs of a batch that are encoded together are byte for byte those that are encoded one by one."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from model_runtime.output_encoding import SLICE_VALUES, encode_output
from model_runtime.spec.model_toml import read_spec
from model_runtime.tasks.tensor import MAX_ROW_VALUES, TensorTask
from model_runtime.tensor_spec import DTYPES, Array, TensorSpec

ALL = 1 << 30


def task_with(outputs: Sequence[TensorSpec], folder: Path) -> TensorTask:
    (folder / "model.toml").write_text('task = "tensor"')
    return TensorTask(read_spec(folder), folder, [TensorSpec("x", "FP32", (4,))], outputs)


def one_by_one(
    task: TensorTask, outputs: dict[str, Array], parameters: Sequence[dict[str, str]] | None = None
) -> list[bytes]:
    count = len(next(iter(outputs.values())))
    rows = [{name: array[row, ...] for name, array in outputs.items()} for row in range(count)]
    each = parameters or [{}] * count
    return [encode_output(task.postprocess(row, own), ALL, ALL)[0] for row, own in zip(rows, each, strict=True)]


def values(datatype: str, shape: Sequence[int]) -> Array:
    random = np.random.default_rng(5)
    if datatype == "BYTES":
        return random.choice(np.array(["", 'a "quoted" word', "größe\n"], object), shape)
    array = (random.standard_normal(shape) * 1000).astype(DTYPES[datatype])
    if array.dtype.kind == "f" and array.size > 2:
        array.ravel()[:3] = (np.nan, np.inf, -0.0)
    return array


@pytest.mark.parametrize("count", [1, 2, 37])
@pytest.mark.parametrize("shape", [(), (1,), (10,), (2, 3), (0,), (MAX_ROW_VALUES,)])
@pytest.mark.parametrize("datatype", DTYPES)
def test_one_output(datatype: str, shape: tuple[int, ...], count: int, tmp_path: Path) -> None:
    task = task_with([TensorSpec("y", datatype, shape)], tmp_path)
    outputs = {"y": values(datatype, (count, *shape))}
    assert task.encode_batch(outputs, [{}] * len(next(iter(outputs.values())))) == one_by_one(task, outputs)


@pytest.mark.parametrize("count", [1, 37])
@pytest.mark.parametrize("shape", [(), (10,), (2, 3), (0,)])
@pytest.mark.parametrize("datatype", DTYPES)
def test_base64(datatype: str, shape: tuple[int, ...], count: int, tmp_path: Path) -> None:
    task = task_with([TensorSpec("y", datatype, shape), TensorSpec("z", datatype, shape)], tmp_path)
    outputs = {name: values(datatype, (count, *shape)) for name in "yz"}
    parameters = [{"encoding": "base64"}] * count
    assert task.encode_batch(outputs, parameters) == one_by_one(task, outputs, parameters)


def test_rows_of_different_encodings(tmp_path: Path) -> None:
    task = task_with([TensorSpec("y", "FP32", (3,))], tmp_path)
    outputs = {"y": values("FP32", (4, 3))}
    parameters: list[dict[str, str]] = [{}, {"encoding": "base64"}, {"encoding": "json"}, {"encoding": "base64"}]
    assert task.encode_batch(outputs, parameters) == one_by_one(task, outputs, parameters)


def test_several_outputs_with_names_to_be_escaped(tmp_path: Path) -> None:
    names = ('a"]}', "größe", "z")
    task = task_with([TensorSpec(name, "FP32", (-1,)) for name in names], tmp_path)
    outputs = {name: values("FP32", (9, size)) for size, name in enumerate(names)}
    assert task.encode_batch(outputs, [{}] * len(next(iter(outputs.values())))) == one_by_one(task, outputs)


def test_more_rows_than_are_encoded_at_a_time_and_any_layout(tmp_path: Path) -> None:
    task = task_with([TensorSpec("y", "FP64", (100,))], tmp_path)
    outputs = {"y": values("FP64", (100, SLICE_VALUES // 50)).T}
    assert not outputs["y"].flags.c_contiguous
    assert task.encode_batch(outputs, [{}] * len(next(iter(outputs.values())))) == one_by_one(task, outputs)


def test_large_rows_are_left_to_be_encoded_one_by_one(tmp_path: Path) -> None:
    task = task_with([TensorSpec("y", "FP32", (-1,))], tmp_path)
    assert task.encode_batch({"y": values("FP32", (2, MAX_ROW_VALUES + 1))}, [{}, {}]) is None
