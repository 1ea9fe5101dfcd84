"""Where an engine finds the batch: as `model.toml` says, as dimensions are named, and as rows behave."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from batching.collation import split_outputs, stack_items
from model_runtime.engine.onnx_engine import GpuOptions, OnnxEngine, TensorSpec
from model_runtime.engine.onnx_session import OnnxSession
from model_runtime.spec.model_toml import ModelError
from model_runtime.spec.tensors import InputSpec, OutputSpec, TensorKeys
from model_runtime.tensor_spec import Array
from tests.support.model_files import graphs
from tests.support.model_files.graphs import node

I64 = onnx.TensorProto.INT64
STATE_KEYS = TensorKeys("model.toml", None, {"h": InputSpec(batch_axis=1), "rate": InputSpec(value=3)})


def run_each(engine: OnnxEngine, items: list[dict[str, Array]]) -> list[dict[str, Any]]:
    return split_outputs(engine.run(stack_items(items)), len(items))


def values(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.fixture
def stateful(tmp_path: Path) -> Path:
    """y = x * rate + sum(h), next = h + rate; the state has its batch second, and its output says nothing about it."""
    nodes = [
        node("Cast", ["rate"], ["r"], to=onnx.TensorProto.FLOAT),
        node("ReduceSum", ["h", "axes"], ["s"], keepdims=0),
        node("Unsqueeze", ["s", "one"], ["column"]),
        node("Mul", ["x", "r"], ["xr"]),
        node("Add", ["xr", "column"], ["y"]),
        node("Add", ["h", "r"], ["next"]),
    ]
    constants = {"axes": graphs.int64_constant(0, 2), "one": graphs.int64_constant(1)}
    inputs: dict[str, Any] = {"x": ["", 3], "h": [2, "", 4], "rate": []}
    outputs: dict[str, Any] = {"y": ["", ""], "next": ["", "", ""]}
    return graphs.write(tmp_path / "m.onnx", nodes, inputs, outputs, constants, kinds={"rate": I64})


def test_states_and_constants_are_stacked_where_the_model_has_them(stateful: Path) -> None:
    engine = OnnxEngine(stateful, "cpu", 1, keys=STATE_KEYS)
    assert (engine.batchable, engine.batch_note) == (True, "")
    assert engine.inputs == [TensorSpec("x", "FP32", (3,)), TensorSpec("h", "FP32", (2, 4))]
    items = [{"x": values(3, seed=n), "h": values(2, 4, seed=9 + n)} for n in range(5)]
    for item, found in zip(items, run_each(engine, items), strict=True):
        assert np.allclose(found["y"], item["x"] * 3 + item["h"].sum(), atol=1e-5)
        assert found["next"].shape == (2, 4)
        assert np.allclose(found["next"], item["h"] + 3)


def test_without_keys_the_file_is_refused_with_the_keys(stateful: Path) -> None:
    with pytest.raises(ModelError, match=r"'h' has the shape \[2, -1, 4\].*\[inputs\.h\] batch_axis = …"):
        OnnxEngine(stateful, "cpu", 1)
    keys = TensorKeys("model.toml", None, {"h": InputSpec(batch_axis=1)})
    engine = OnnxEngine(stateful, "cpu", 1, keys=keys)
    assert not engine.batchable
    assert engine.batch_note.endswith("[inputs.rate] value = … makes it a constant")
    assert "rate" in engine.unbatched
    item = {"x": values(3), "h": values(2, 4), "rate": np.array(2)}
    assert np.allclose(run_each(engine, [item])[0]["next"], item["h"] + 2)


def test_a_batch_elsewhere_uses_bound_buffers_of_its_own_size(stateful: Path) -> None:
    """The batch is not the longest first dimension: sizes 1 and 2 both have a state of two layers."""
    engine = OnnxEngine(stateful, "cpu", 1, keys=STATE_KEYS)
    session = OnnxSession(stateful, "cpu", 1, GpuOptions())
    batches = [{"x": values(n, 3), "h": values(n, 2, 4)} for n in (1, 2)]
    for rows, batch in enumerate(batches, 1):
        session.bind_buffers(engine.arrange(batch), "cpu", rows)
    assert sorted(session._bound) == [1, 2]
    for rows, batch in enumerate(batches, 1):
        assert np.array_equal(session.run(engine.arrange(batch), None, rows)["y"], engine.run(batch)["y"])


def test_outputs_are_chosen_ordered_and_alone_computed(stateful: Path) -> None:
    keys = STATE_KEYS._replace(outputs={"next": OutputSpec(answer=True), "y": OutputSpec(answer=True)})
    assert [output.name for output in OnnxEngine(stateful, "cpu", 1, keys=keys).outputs] == ["next", "y"]
    engine = OnnxEngine(stateful, "cpu", 1, keys=STATE_KEYS._replace(outputs={"next": OutputSpec(answer=False)}))
    assert run_each(engine, [{"x": values(3), "h": values(2, 4)}])[0].keys() == {"y"}


def test_an_output_for_the_whole_batch_may_be_left_out(tmp_path: Path) -> None:
    nodes = [node("Relu", ["x"], ["y"]), node("ReduceMax", ["x"], ["top"], keepdims=0)]
    path = graphs.write(tmp_path / "m.onnx", nodes, {"x": ["N", 3]}, {"y": ["N", 3], "top": []})
    assert not OnnxEngine(path, "cpu", 1).batchable
    engine = OnnxEngine(path, "cpu", 1, keys=TensorKeys(outputs={"y": OutputSpec(answer=True)}))
    assert (engine.batchable, [output.name for output in engine.outputs]) == (True, ["y"])


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            TensorKeys("f", 0, {"z": InputSpec(batch_axis=1)}),
            "f: inputs.z: the model has no such tensor; allowed: h, rate, x",
        ),
        (TensorKeys("f", 0, {}, {"x": OutputSpec()}), "f: outputs.x: the model has no such tensor; allowed: next, y"),
        (
            TensorKeys("f", None, {"x": InputSpec(batch_axis=2)}),
            'f: inputs.x.batch_axis: 2, but its shape is [-1, 3]; allowed: 0 to 1, or "none"',
        ),
        (
            TensorKeys("f", None, {"rate": InputSpec(batch_axis=0)}),
            'f: inputs.rate.batch_axis: 0, but its shape is []; allowed: "none"',
        ),
        (
            TensorKeys("f", None, {"rate": InputSpec(value=1.5)}),
            "f: inputs.rate.value: 1.5 is not allowed; allowed: whole numbers of INT64, one for all",
        ),
        (
            TensorKeys("f", None, {"rate": InputSpec(value=True)}),
            "f: inputs.rate.value: True is not allowed; allowed: whole numbers of INT64",
        ),
        (
            TensorKeys("f", None, {"rate": InputSpec(value=2**70)}),
            "f: inputs.rate.value: 1180591620717411303424 is not allowed; allowed: whole numbers of INT64",
        ),
        (
            TensorKeys("f", None, {"x": InputSpec(value=[1, 2])}),
            "f: inputs.x.value: has the shape [2]; allowed: numbers of FP32, one for all or lists of the shape [3]",
        ),
        (
            TensorKeys(
                "f",
                None,
                {name: InputSpec(value=1) for name in ("x", "rate")} | {"h": InputSpec(value=0, batch_axis=1)},
            ),
            "f: inputs: every input has a value; allowed: at least one input that jobs send",
        ),
        (
            TensorKeys("f", None, {}, {name: OutputSpec(answer=False) for name in ("y", "next")}),
            "f: outputs: no output is answered; allowed: at least one",
        ),
    ],
)
def test_keys_that_do_not_fit_are_refused(stateful: Path, keys: TensorKeys, message: str) -> None:
    with pytest.raises(ModelError) as caught:
        OnnxEngine(stateful, "cpu", 1, keys=keys)
    assert str(caught.value).startswith(message)


def test_a_constant_with_a_batch_dimension_is_repeated(tmp_path: Path) -> None:
    path = graphs.write(
        tmp_path / "m.onnx", [node("Add", ["x", "bias"], ["y"])], {"x": ["N", 2], "bias": ["N", 2]}, {"y": ["N", 2]}
    )
    engine = OnnxEngine(path, "cpu", 1, keys=TensorKeys(inputs={"bias": InputSpec(value=[1, 2.5])}))
    assert engine.batchable
    assert engine.run({"x": np.zeros((3, 2), np.float32)})["y"].tolist() == [[1, 2.5]] * 3


def recurrent(path: Path, batch: int | str, names: tuple[str, str] = ("seq", "")) -> Path:
    """An LSTM, time first: x [time, batch, 4] → y [time, batch, 8]."""
    weights = {"w": graphs.numbers(1, 32, 4), "r": graphs.numbers(1, 32, 8, seed=2), "one": graphs.int64_constant(1)}
    nodes = [node("LSTM", ["x", "w", "r"], ["all"], hidden_size=8), node("Squeeze", ["all", "one"], ["y"])]
    return graphs.write(path / "m.onnx", nodes, {"x": [names[0], batch, 4]}, {"y": [names[0], batch, 8]}, weights)


@pytest.mark.parametrize("name", ["seq", "", "x_dynamic_0"])
def test_a_time_axis_is_not_taken_for_the_batch(tmp_path: Path, name: str) -> None:
    engine = OnnxEngine(recurrent(tmp_path, 1, (name, "")), "cpu", 1)
    assert (engine.batchable, engine.inputs[0].shape) == (False, (-1, 1, 4))
    assert 'batch_axis = "none" in model.toml confirms that, batch_axis = 0' in engine.batch_note
    assert run_each(engine, [{"x": values(6, 1, 4)}])[0]["y"].shape == (6, 1, 8)


@pytest.mark.parametrize(("name", "keys"), [("batch", TensorKeys()), ("", TensorKeys(batch_axis=1))])
def test_time_first_models_are_batched_along_the_second_dimension(tmp_path: Path, name: str, keys: TensorKeys) -> None:
    engine = OnnxEngine(recurrent(tmp_path, name), "cpu", 1, keys=keys)
    assert (engine.batchable, engine.inputs[0].shape, engine.outputs[0].shape) == (True, (-1, 4), (-1, 8))
    items = [{"x": values(6, 4, seed=n)} for n in range(3)]
    for item, found in zip(items, run_each(engine, items), strict=True):
        assert np.allclose(found["y"], run_each(engine, [item])[0]["y"], atol=1e-6)


def test_an_output_whose_second_dimension_follows_the_batch_is_found(tmp_path: Path) -> None:
    nodes = [node("Reshape", ["x", "to"], ["r"]), node("Transpose", ["r"], ["y"], perm=[1, 0, 2])]
    path = graphs.write(
        tmp_path / "m.onnx", nodes, {"x": ["", 6]}, {"y": [3, "", 2]}, {"to": graphs.int64_constant(-1, 3, 2)}
    )
    engine = OnnxEngine(path, "cpu", 1)
    assert (engine.batchable, engine.outputs[0].shape) == (True, (3, 2))
    rows = values(4, 6)
    assert np.array_equal(engine.run({"x": rows})["y"], rows.reshape(4, 3, 2))


def samples(path: Path) -> Path:
    nodes = [
        node("Unsqueeze", ["x", "front"], ["x3"]),
        node("Conv", ["x3", "w"], ["c"], strides=[5]),
        node("Squeeze", ["c", "front"], ["y"]),
    ]
    constants = {"front": graphs.int64_constant(0, 1), "w": graphs.numbers(1, 1, 5)}
    return graphs.write(path / "m.onnx", nodes, {"x": ["samples"]}, {"y": ["frames"]}, constants)


def picture(path: Path, height: int | str) -> Path:
    nodes = [node("ReduceMean", ["img"], ["m"], axes=[0, 1], keepdims=0), node("MatMul", ["m", "w"], ["y"])]
    return graphs.write(path / "m.onnx", nodes, {"img": [height, height, 3]}, {"y": [8]}, {"w": graphs.numbers(3, 8)})


@pytest.mark.parametrize("keys", [TensorKeys(), TensorKeys(batch_axis="none")])
@pytest.mark.parametrize(
    ("make", "item", "shape"), [(samples, (20,), (-1,)), (lambda path: picture(path, ""), (9, 7, 3), (-1, -1, 3))]
)
def test_one_item_without_a_batch_dimension(
    tmp_path: Path, make: Callable[[Path], Path], keys: TensorKeys, item: tuple[int, ...], shape: tuple[int, ...]
) -> None:
    path = make(tmp_path)
    engine = OnnxEngine(path, "cpu", 1, keys=keys)
    assert (engine.batchable, engine.inputs[0].shape) == (False, shape)
    found = run_each(engine, [{engine.inputs[0].name: values(*item)}])[0]["y"]
    assert np.array_equal(
        found, OnnxSession(path, "cpu", 1, GpuOptions()).run({engine.inputs[0].name: values(*item)})["y"]
    )


def test_a_fixed_item_without_a_batch_dimension_needs_the_key(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match='if there is none, batch_axis = "none"'):
        OnnxEngine(picture(tmp_path, 32), "cpu", 1)
    engine = OnnxEngine(picture(tmp_path, 32), "cpu", 1, keys=TensorKeys(batch_axis="none"))
    assert (engine.inputs[0].shape, engine.outputs[0].shape) == ((32, 32, 3), (8,))
    assert run_each(engine, [{"img": values(32, 32, 3)}])[0]["y"].shape == (8,)


def test_batches_that_depend_on_each_other_are_still_batches(tmp_path: Path) -> None:
    """A softmax over the batch couples rows, but does not know their order: no time axis."""
    path = graphs.write(tmp_path / "m.onnx", [node("Softmax", ["x"], ["y"], axis=0)], {"x": ["", 4]}, {"y": ["", 4]})
    engine = OnnxEngine(path, "cpu", 1)
    assert engine.inputs[0].shape == (4,)


@pytest.mark.parametrize("size", [1, "N"])
def test_all_rows_that_one_item_gives_are_answered(tmp_path: Path, size: int | str) -> None:
    """NonZero gives as many rows as it finds: none for zeros, one for some items, several for others."""
    nodes = [node("Greater", ["x", "zero"], ["is"]), node("NonZero", ["is"], ["at"]), node("Transpose", ["at"], ["y"])]
    path = graphs.write(
        tmp_path / "m.onnx",
        nodes,
        {"x": [size, 8]},
        {"y": ["found", 2]},
        {"zero": np.zeros((), np.float32)},
        kinds={"y": I64},
    )
    engine = OnnxEngine(path, "cpu", 1)
    assert not engine.batchable
    for positive in ([0, 2, 4], [5], []):
        x = np.full(8, -1, np.float32)
        x[positive] = 1
        assert run_each(engine, [{"x": x}])[0]["y"].tolist() == [[0, at] for at in positive]


def test_a_wrongly_declared_label_is_batched(tmp_path: Path) -> None:
    """onnxmltools declares the labels of a classifier as [1]; they follow the batch."""
    nodes = [node("ArgMax", ["x"], ["label"], axis=1, keepdims=0)]
    path = graphs.write(tmp_path / "m.onnx", nodes, {"x": ["", 3]}, {"label": [1]}, kinds={"label": I64})
    model = onnx.load(path)
    onnx.save(model, path)
    engine = OnnxEngine(path, "cpu", 1)
    assert (engine.batchable, engine.outputs) == (True, [TensorSpec("label", "INT64", ())])
    assert engine.run({"x": np.eye(3, dtype=np.float32)})["label"].tolist() == [0, 1, 2]


def test_a_dimension_may_be_written_as_minus_one_and_be_empty(tmp_path: Path) -> None:
    weight = numpy_helper.from_array(np.ones((3, 8), np.float32), "w")
    ports = [helper.make_tensor_value_info(name, 1, [0, side]) for name, side in (("x", 3), ("y", 8))]
    for port in ports:
        port.type.tensor_type.shape.dim[0].dim_value = -1
    graph = helper.make_graph([node("MatMul", ["x", "w"], ["y"])], "m", ports[:1], ports[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    assert OnnxEngine(tmp_path / "m.onnx", "cpu", 1).batchable
    parts: dict[str, Any] = {"past": ["N", 2, "past", 4], "new": ["N", 2, 1, 4]}
    path = graphs.write(
        tmp_path / "p.onnx", [node("Concat", ["past", "new"], ["all"], axis=2)], parts, {"all": ["N", 2, "total", 4]}
    )
    engine = OnnxEngine(path, "cpu", 1)
    items = [{"past": np.zeros((2, 0, 4), np.float32), "new": values(2, 1, 4, seed=n)} for n in range(2)]
    assert [
        np.array_equal(found["all"], item["new"]) for item, found in zip(items, run_each(engine, items), strict=True)
    ] == [True] * 2
