"""`[inputs.NAME] pad_axis`: items of different lengths are padded only if that changes no answer."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto

from batching.collation import split_outputs, stack_items
from cli import main
from model_runtime.model import Model, load_model
from model_runtime.repository.repository import ModelFolder, list_models
from model_runtime.spec.model_toml import ModelError
from tests.support.model_files.graphs import Shape, int64_constant, node, numbers, write

DECLARED = 'task = "tensor"\n[inputs.x]\npad_axis = 1\n'


def lay_out(models_dir: Path, kind: str, toml: str) -> Path:
    """A model of `x` [batch, time, 3]: its sum over time, the mean over what a mask or a length says, or an LSTM."""
    inputs: dict[str, Shape] = {"x": ["batch", "time", 3]}
    outputs: dict[str, Shape] = {"y": ["batch", 3]}
    constants, kinds = {"time": int64_constant(1)}, {}
    if kind == "sum":
        nodes = [node("ReduceSum", ["x", "time"], ["y"], keepdims=0)]
    elif kind == "each":
        nodes, outputs = [node("Add", ["x", "x"], ["y"])], {"y": ["batch", "time", 3]}
    elif kind == "mask":
        inputs["mask"] = ["batch", "time"]
        constants["last"] = int64_constant(2)
        nodes = [
            node("Unsqueeze", ["mask", "last"], ["flags"]),
            node("Mul", ["x", "flags"], ["seen"]),
            node("ReduceSum", ["seen", "time"], ["total"], keepdims=0),
            node("ReduceSum", ["mask", "time"], ["count"]),
            node("Div", ["total", "count"], ["y"]),
        ]
    elif kind == "length":
        inputs["steps"] = ["batch", 1]
        kinds["steps"] = TensorProto.INT64
        nodes = [
            node("ReduceSum", ["x", "time"], ["total"], keepdims=0),
            node("Cast", ["steps"], ["count"], to=TensorProto.FLOAT),
            node("Div", ["total", "count"], ["y"]),
        ]
    else:
        constants |= {"w": numbers(1, 8, 3), "r": numbers(1, 8, 2, seed=2), "first": int64_constant(0)}
        outputs = {"y": ["batch", 2]}
        nodes = [
            node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
            node("LSTM", ["t", "w", "r"], ["", "h", ""], hidden_size=2),
            node("Squeeze", ["h", "first"], ["y"]),
        ]
    write(models_dir / "m" / "1" / "model.onnx", nodes, inputs, outputs, constants, kinds=kinds)
    (models_dir / "m" / "model.toml").write_text(toml)
    return models_dir


def load(models_dir: Path) -> Model:
    (folder,) = list_models(models_dir)
    assert isinstance(folder, ModelFolder)
    return load_model(folder)


def answers(model: Model, lengths: list[int]) -> list[Any]:
    """The answers of rows that run together, of 1, 2, 3 … in each step."""
    items = [{"x": np.arange(1, length + 1, dtype=np.float32).repeat(3).reshape(length, 3)} for length in lengths]
    assert model.padding is not None
    rows = split_outputs(model.run(stack_items(items, 0, model.padding)), len(items))
    return [model.padding.cut(row, length)["y"].tolist() for row, length in zip(rows, lengths, strict=True)]


def test_zeros_change_no_sum(tmp_path: Path) -> None:
    model = load(lay_out(tmp_path, "sum", DECLARED))
    assert answers(model, [2, 5]) == [[3] * 3, [15] * 3]
    groups = [model.group_of({"x": np.zeros((length, 3), np.float32)}) for length in (2, 5)]
    assert groups[0][0] == groups[1][0]
    assert [cost for _, cost in groups] == [2, 5]
    card = model.card()["lengths"]
    assert card["padded_to_multiple"] == 1
    assert card["run_overhead"] > 0


@pytest.mark.parametrize(
    ("kind", "more"), [("mask", '[inputs.mask]\nfill = "mask"'), ("length", '[inputs.steps]\nfill = "length"')]
)
def test_a_mask_and_lengths_are_filled_by_the_worker(tmp_path: Path, kind: str, more: str) -> None:
    model = load(lay_out(tmp_path, kind, f"{DECLARED}{more}"))
    assert [each["name"] for each in model.card()["inputs"]] == ["x"]
    assert answers(model, [2, 5, 1]) == [[1.5] * 3, [3] * 3, [1] * 3]


def test_outputs_are_cut_where_it_is_declared(tmp_path: Path) -> None:
    model = load(lay_out(tmp_path, "each", f"{DECLARED}[outputs.y]\npad_axis = 1"))
    assert answers(model, [1, 2]) == [[[2] * 3], [[2] * 3, [4] * 3]]


@pytest.mark.parametrize("kind", ["lstm", "each"])
def test_padding_that_changes_answers_is_refused(tmp_path: Path, kind: str) -> None:
    """A recurrent network goes on through the padding; an output that is not cut has some."""
    with pytest.raises(
        ModelError, match=r"padding: padding changes an answer by .*; allowed: \[padding\] enabled = false"
    ):
        load(lay_out(tmp_path, kind, DECLARED))
    (tmp_path / "m" / "model.toml").write_text(f"{DECLARED}[padding]\nenabled = false")
    model = load(tmp_path)
    assert model.card()["lengths"]["padded_to_multiple"] is None
    groups = [model.group_of({"x": np.zeros((length, 3), np.float32)})[0] for length in (2, 5)]
    assert groups[0] != groups[1]


def test_another_value_of_padding_is_checked(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="padding changes an answer"):
        load(lay_out(tmp_path, "sum", f"{DECLARED}pad_value = 1"))


def test_the_examples_of_the_owner_are_used(tmp_path: Path) -> None:
    """Random rows of the task would pass: only rows of large numbers show that 9 is no neutral element of a maximum."""
    lay_out(tmp_path, "sum", f"{DECLARED}pad_value = -100")
    write(
        tmp_path / "m" / "1" / "model.onnx",
        [node("ReduceMax", ["x"], ["y"], axes=[1], keepdims=0)],
        {"x": ["batch", "time", 3]},
        {"y": ["batch", 3]},
    )
    assert answers(load(tmp_path), [2, 4]) == [[2] * 3, [4] * 3]
    examples = tmp_path / "m" / "examples"
    examples.mkdir()
    for length in (2, 4):
        rows = np.full((2, length, 3), -1000 - length, np.float32) - np.arange(2).reshape(2, 1, 1)
        np.save(examples / f"{length}.npy", rows.astype(np.float32))
    with pytest.raises(ModelError, match="padding changes an answer"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("[inputs.x]\npad_axis = 0", "inputs.x.pad_axis: 0, but the shape is .* allowed: 1"),
        ("[inputs.x]\npad_axis = 2", "inputs.x.pad_axis: 2, but the shape is .* allowed: 1"),
        ('[inputs.x]\npad_axis = 1\nfill = "mask"', "inputs.x: has pad_axis and fill; allowed: one of them"),
        ("[inputs.x]\npad_axis = 1\nvalue = 1", "inputs.x: has value and pad_axis; allowed: one of them"),
        ("[outputs.y]\npad_axis = 0\n[inputs.x]\npad_axis = 1", "outputs.y.pad_axis: 0, but the shape is"),
        ("[padding]\nmultiple = 4", "padding.multiple: the items of this model do not differ in length"),
        ("[outputs.y]\npad_axis = 1", "outputs.y.pad_axis: 1, but the shape is .* allowed: no axis"),
        ('[inputs.x]\nfill = "length"', r"inputs.x.fill: \"length\", but its shape is .* allowed: \[batch\]"),
        (
            "[padding]\nenabled = true",
            "padding.enabled: the items of this model do not differ in length: set pad_axis",
        ),
        ("max_batch_cost = 9", "max_batch_cost: the items of this model do not differ in length"),
    ],
)
def test_keys_that_do_not_fit_are_refused(tmp_path: Path, toml: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load(lay_out(tmp_path, "sum", f'task = "tensor"\n{toml}'))


def test_a_written_cost_limits_batches(tmp_path: Path) -> None:
    model = load(lay_out(tmp_path, "sum", f"max_batch_cost = 40\n{DECLARED}"))
    assert model.max_batch_cost == 40
    assert model.max_batch == 64


def test_an_example_that_contradicts_itself_is_named(tmp_path: Path) -> None:
    lay_out(tmp_path, "sum", f"{DECLARED}[inputs.z]\npad_axis = 1")
    write(
        tmp_path / "m" / "1" / "model.onnx",
        [node("Add", ["x", "z"], ["s"]), node("ReduceSum", ["s", "time"], ["y"], keepdims=0)],
        {"x": ["batch", "time", 3], "z": ["batch", "time", 3]},
        {"y": ["batch", 3]},
        {"time": int64_constant(1)},
    )
    examples = tmp_path / "m" / "examples"
    examples.mkdir()
    random = np.random.default_rng(1)
    for at, (one, other) in enumerate([(4, 4), (4, 4), (4, 4), (4, 4), (6, 7)]):
        x, z = (random.random((1, side, 3), np.float32) for side in (one, other))
        np.savez(examples / f"{at}.npz", x=x, z=z)
    with pytest.raises(ModelError, match="examples: an example does not fit the model: the inputs differ in length: x"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("kind", "toml", "code", "said"),
    [
        ("sum", DECLARED, 0, "padding changes no answer"),
        ("lstm", f'batching = "trust"\n{DECLARED}', 1, "padding: padding changes an answer by"),
        ("lstm", f"{DECLARED}[padding]\nenabled = false", 0, "items are not padded"),
    ],
)
def test_the_command_checks_padding(
    tmp_path: Path, kind: str, toml: str, *, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where `batching = "trust"` keeps a worker from checking it."""
    folder = lay_out(tmp_path, kind, toml) / "m"
    assert main.main(["models", "check", str(folder), "--provider", "cpu"]) == code
    printed = capsys.readouterr()
    assert said in printed.out + printed.err


@pytest.mark.parametrize(("value", "kind"), [("300", TensorProto.UINT8), ("0.5", TensorProto.INT64)])
def test_padding_that_the_type_does_not_have_is_refused(tmp_path: Path, value: str, kind: int) -> None:
    lay_out(tmp_path, "sum", f"{DECLARED}pad_value = {value}")
    nodes = [node("Cast", ["x"], ["f"], to=TensorProto.FLOAT), node("ReduceSum", ["f", "time"], ["y"], keepdims=0)]
    write(
        tmp_path / "m" / "1" / "model.onnx",
        nodes,
        {"x": ["batch", "time", 3]},
        {"y": ["batch", 3]},
        {"time": int64_constant(1)},
        kinds={"x": kind},
    )
    with pytest.raises(ModelError, match=rf"inputs.x.pad_value: {value} is not a number of U?INT"):
        load(tmp_path)


def test_texts_are_padded_with_empty_ones(tmp_path: Path) -> None:
    lay_out(tmp_path, "sum", f"{DECLARED}[outputs.y]\npad_axis = 1")
    nodes = [node("Identity", ["x"], ["y"])]
    kinds = dict.fromkeys("xy", TensorProto.STRING)
    shape = ["batch", "time"]
    write(tmp_path / "m" / "1" / "model.onnx", nodes, {"x": shape}, {"y": shape}, kinds=kinds)
    model = load(tmp_path)
    assert model.padding is not None
    assert model.card()["lengths"]["padded_to_multiple"] == 1
    items = [{"x": np.array(texts, object)} for texts in (["a"], ["b", "c"])]
    assert stack_items(items, 0, model.padding)["x"].tolist() == [["a", ""], ["b", "c"]]
