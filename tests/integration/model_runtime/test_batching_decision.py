"""Planted leaks are found when a worker loads a model, with and without the graph; sound models are batched."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from model_runtime.graph.coupling import examine, read_without_weights
from model_runtime.graph.facts import GraphFacts
from model_runtime.model import Model, load_model
from model_runtime.repository.repository import ModelFolder, list_models
from tests.support import models
from tests.support.model_files.graphs import Values, int64_constant, node, numbers, write

INT64 = TensorProto.INT64


def quantized_ids(path: Path, rows: int = 100) -> Path:
    """Look integer ids up in a table whose rows grow, and multiply by one scale for the whole batch."""
    table = numbers(rows, 16) * np.linspace(0.1, 10, rows, dtype=np.float32)[:, np.newaxis]
    constants: dict[str, Values] = {
        "table": table,
        "w": (numbers(16, 4) * 20).astype(np.int8),
        "s": np.ones(1, np.float32),
    }
    nodes = [
        node("Gather", ["table", "ids"], ["e"]),
        node("DynamicQuantizeMatMul", ["e", "w", "s"], ["y"], domain="com.microsoft"),
    ]
    write(path, nodes, {"ids": ["N", "S"]}, {"y": ["N", "S", 4]}, constants, kinds={"ids": INT64})
    return with_domain(path)


def quantized_recurrent(path: Path) -> Path:
    constants = {
        "table": numbers(50, 6),
        "w": (numbers(1, 6, 32) * 20).astype(np.int8),
        "r": (numbers(1, 8, 32) * 20).astype(np.int8),
        **{name: np.array([0.02], np.float32) for name in ("ws", "rs")},
        **{name: np.zeros(1, np.int8) for name in ("wz", "rz")},
    }
    inputs = ["t", "w", "r", "", "", "", "", "", "ws", "wz", "rs", "rz"]
    nodes = [
        node("Gather", ["table", "ids"], ["e"]),
        node("Transpose", ["e"], ["t"], perm=[1, 0, 2]),
        node("DynamicQuantizeLSTM", inputs, ["a"], domain="com.microsoft", hidden_size=8),
        node("Transpose", ["a"], ["u"], perm=[2, 0, 1, 3]),
        node("Reshape", ["u", "to"], ["y"]),
    ]
    constants["to"] = int64_constant(0, -1, 8)
    write(path, nodes, {"ids": ["N", 5]}, {"y": ["N", 5, 8]}, constants, kinds={"ids": INT64})
    return with_domain(path)


def quantized_floats(path: Path) -> Path:
    """Behind an `If`, where the walk through the graph ends."""
    value = helper.make_tensor_value_info("same", TensorProto.FLOAT, None)
    branches = {
        name: helper.make_graph([node("Identity", ["x"], ["same"])], name, [], [value])
        for name in ("then_branch", "else_branch")
    }
    nodes = [
        node("If", ["yes"], ["i"], **branches),
        node("DynamicQuantizeLinear", ["i"], ["q", "s", "z"], name="the-culprit"),
        node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    return write(path, nodes, {"x": ["N", 4]}, {"y": ["N", 4]}, {"yes": np.array(True)})


def conditional(path: Path) -> Path:
    """Double all rows if any number of the batch is above 50."""
    value = helper.make_tensor_value_info("o", TensorProto.FLOAT, None)
    double = helper.make_graph([node("Mul", ["x", "two"], ["o"])], "double", [], [value])
    same = helper.make_graph([node("Identity", ["x"], ["o"])], "same", [], [value])
    nodes = [
        node("ReduceMax", ["x"], ["m"], keepdims=0),
        node("Greater", ["m", "limit"], ["c"]),
        node("If", ["c"], ["y"], then_branch=double, else_branch=same),
    ]
    constants = {"two": np.array(2, np.float32), "limit": np.array(50, np.float32)}
    return write(path, nodes, {"x": ["N", 4]}, {"y": ["N", 4]}, constants)


def padded(path: Path) -> Path:
    """Add the number of rows of the batch, padding included."""
    nodes = [
        node("Shape", ["x"], ["s"], end=1),
        node("Cast", ["s"], ["n"], to=TensorProto.FLOAT),
        node("Add", ["x", "n"], ["y"]),
    ]
    return write(path, nodes, {"x": ["N", 4]}, {"y": ["N", 4]})


def listed(path: Path) -> Path:
    """The first positive numbers of the batch, one for each row."""
    nodes = [
        node("Greater", ["x", "zero"], ["g"]),
        node("Compress", ["x", "g1"], ["c"]),
        node("Shape", ["x"], ["rows"], end=1),
        node("Concat", ["c", "x1"], ["all"], axis=0),
        node("Slice", ["all", "first", "rows"], ["y"]),
    ]
    nodes.insert(1, node("Reshape", ["g", "flat"], ["g1"]))
    nodes.insert(2, node("Reshape", ["x", "flat"], ["x1"]))
    constants = {"zero": np.array(0, np.float32), "flat": int64_constant(-1), "first": int64_constant(0)}
    return write(path, nodes, {"x": ["N", 4]}, {"y": ["N"]}, constants)


def with_domain(path: Path) -> Path:
    import onnx  # noqa: PLC0415

    model = onnx.load(path)
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    onnx.save(model, path)
    return path


def looked_up(path: Path) -> Path:
    """A sound model of ids and a mask."""
    nodes = [
        node("Gather", ["table", "ids"], ["e"]),
        node("Cast", ["mask"], ["m"], to=TensorProto.FLOAT),
        node("Unsqueeze", ["m", "last"], ["m1"]),
        node("Mul", ["e", "m1"], ["p"]),
        node("ReduceSum", ["p", "second"], ["y"], keepdims=0),
    ]
    constants = {"table": numbers(3000, 8), "last": int64_constant(2), "second": int64_constant(1)}
    kinds = {"ids": INT64, "mask": INT64}
    return write(path, nodes, {"ids": ["N", "S"], "mask": ["N", "S"]}, {"y": ["N", 8]}, constants, kinds=kinds)


def steps_at_large_numbers(path: Path) -> Path:
    """Every usual row has the same result, but larger rows do not."""
    nodes = [node("Greater", ["x", "limit"], ["g"]), node("Cast", ["g"], ["y"], to=TensorProto.FLOAT)]
    return write(path, nodes, {"x": ["N", 4]}, {"y": ["N", 4]}, {"limit": np.array(40, np.float32)})


def constant(path: Path) -> Path:
    nodes = [node("Sub", ["x", "x"], ["y"])]
    return write(path, nodes, {"x": ["N", 4]}, {"y": ["N", 4]})


LEAKS = [quantized_ids, quantized_recurrent, quantized_floats, conditional, padded, listed]
Maker = Callable[[Path], Path]


@pytest.fixture
def loaded(tmp_path: Path) -> Callable[..., Model]:
    """Serve a made file as a worker does."""

    def load(make: Maker, toml: str = "") -> Model:
        make(tmp_path / "m" / "1" / "model.onnx")
        (tmp_path / "m" / "model.toml").write_text(f'task = "tensor"\nprovider = "cpu"\n{toml}')
        [folder] = list_models(tmp_path)
        assert isinstance(folder, ModelFolder)
        return load_model(folder)

    return load


@pytest.fixture(params=["with the graph", "without the graph"])
def graph(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Take the `onnx` package away, as in a worker's image that does not have it."""
    if request.param == "without the graph":
        monkeypatch.setattr("model_runtime.model.read_facts", lambda *_: GraphFacts(note="its graph was not read"))
    return bool(request.param == "with the graph")


@pytest.mark.parametrize("make", LEAKS)
@pytest.mark.usefixtures("graph")
def test_a_planted_leak_is_served_one_at_a_time(make: Maker, loaded: Callable[..., Model]) -> None:
    card = loaded(make).card()
    assert (card["checked"], card["batchable"], card["max_batch"]) == (False, False, 1)
    assert card["batch_note"].startswith("it fails the check: ")


@pytest.mark.parametrize("make", [looked_up, steps_at_large_numbers])
def test_a_sound_model_is_batched(make: Maker, loaded: Callable[..., Model], *, graph: bool) -> None:
    card = loaded(make).card()
    assert (card["checked"], card["batchable"]) == (True, True)
    assert card["max_batch"] > 1
    assert card["drift"] < 1e-5
    assert ("graph was not read" in card["batch_note"]) is not graph


@pytest.mark.parametrize("make", [quantized_ids, quantized_recurrent, quantized_floats])
def test_dynamic_quantization_is_named_with_what_the_owner_can_do(make: Maker, loaded: Callable[..., Model]) -> None:
    note = loaded(make).card()["batch_note"]
    assert "rows are mixed by DynamicQuantize" in note
    assert "jitney models optimize" in note
    assert "max_drift" in note


def test_rows_that_are_all_alike_prove_nothing(loaded: Callable[..., Model]) -> None:
    card = loaded(constant).card()
    assert (card["checked"], card["batchable"], card["max_batch"]) == (None, False, 1)
    assert "every row that was tried has the same result" in card["batch_note"]
    assert 'batching = "trust"' in card["batch_note"]


def test_batching_is_off_or_trusted_by_the_owner(loaded: Callable[..., Model]) -> None:
    off = loaded(looked_up, 'batching = "off"').card()
    assert (off["checked"], off["batchable"], off["batch_note"]) == (None, False, 'batching = "off" in model.toml')
    trusted = loaded(conditional, 'batching = "trust"').card()
    assert (trusted["checked"], trusted["batchable"]) == (None, True)


def test_drift_that_the_owner_allows_is_batched(loaded: Callable[..., Model]) -> None:
    drift = loaded(quantized_ids, "max_drift = 1.0").card()["drift"]
    assert drift > 1e-3
    allowed = loaded(quantized_ids, f"max_drift = {min(1.0, drift * 1.01)}").card()
    assert (allowed["checked"], allowed["batchable"], allowed["drift"]) == (True, True, drift)
    refused = loaded(quantized_ids, f"max_drift = {drift / 2}").card()
    assert (refused["checked"], refused["batchable"]) == (False, False)
    assert f"allowed: {drift / 2:g}" in refused["batch_note"]
    coupled = loaded(conditional, "max_drift = 1.0").card()
    assert (coupled["checked"], coupled["batchable"]) == (False, False), "only quantization may drift"


def test_the_graph_is_read_without_its_weights(tmp_path: Path) -> None:
    path = quantized_ids(tmp_path / "model.onnx", rows=5000)
    model = read_without_weights(path)
    assert model.ByteSize() < 2000 < path.stat().st_size
    assert {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}["table"] == [5000, 16]
    small = next(tensor for tensor in model.graph.initializer if tensor.name == "w")
    assert numpy_helper.to_array(small).shape == (16, 4)
    facts = examine(path, {"ids": 0})
    assert facts.heights == {"ids": 5000}
    assert [coupling.quantizes for coupling in facts.couplings] == [True]


def test_a_model_of_the_samples_is_checked(tmp_path: Path) -> None:
    models.doubling(tmp_path)
    [folder] = list_models(tmp_path)
    assert isinstance(folder, ModelFolder)
    card = load_model(folder).card()
    assert (card["checked"], card["drift"], card["batch_note"]) == (True, 0.0, "")
