"""The doctor's verdicts on free dimensions, other operators' domains, wrong declarations and missing batches."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from cli.models.doctor import DoctorResult, examine
from model_runtime.engine.onnx_engine import OnnxEngine
from model_runtime.graph.diagnosis import diagnose
from model_runtime.spec.model_toml import ModelError
from tests.support.model_files import graphs
from tests.support.model_files.graphs import int64_constant, node, numbers

F, I64 = TensorProto.FLOAT, TensorProto.INT64


def with_domains(path: Path, *domains: str) -> Path:
    """Declare the domains of operators that are not ONNX's own, in their first version."""
    model = onnx.load(path)
    model.opset_import.extend(helper.make_opsetid(domain, 1) for domain in domains)
    onnx.save(model, path)
    return path


def verdict(result: DoctorResult) -> str:
    return result.lines[0].partition(".onnx: ")[2]


def assert_certain(path: Path) -> DoctorResult:
    result = examine(path, None, "cpu")
    assert (result.good, verdict(result)) == (True, "can be batched"), result.lines
    assert not [line for line in result.lines if "not certain" in line]
    return result


def dynamic_sizes(path: Path) -> Path:
    """Attention over a free length: masks and target shapes are computed from the input's shape."""
    nodes = [
        node("Shape", ["x"], ["sizes"]),
        node("Gather", ["sizes", "zero"], ["n"]),
        node("Gather", ["sizes", "one"], ["s"]),
        node("Range", ["zero", "s", "one"], ["places"]),
        node("Unsqueeze", ["places", "v0"], ["row"]),
        node("Unsqueeze", ["places", "v1"], ["column"]),
        node("LessOrEqual", ["row", "column"], ["causal"]),
        node("Unsqueeze", ["n", "v0"], ["n1"]),
        node("Unsqueeze", ["s", "v0"], ["s1"]),
        node("Concat", ["n1", "s1", "two", "four"], ["parted"], axis=0),
        node("Reshape", ["x", "parted"], ["p"]),
        node("Transpose", ["p"], ["q"], perm=[0, 2, 1, 3]),
        node("Transpose", ["p"], ["k"], perm=[0, 2, 3, 1]),
        node("MatMul", ["q", "k"], ["scores"]),
        node("Where", ["causal", "scores", "low"], ["masked"]),
        node("Softmax", ["masked"], ["weights"], axis=-1),
        node("MatMul", ["weights", "q"], ["y"]),
    ]
    constants = {
        "zero": np.array(0), "one": np.array(1), "v0": int64_constant(0), "v1": int64_constant(1),
        "two": int64_constant(2), "four": int64_constant(4), "low": np.array(-1e9, np.float32),
    }  # fmt: skip
    return graphs.write(path, nodes, {"x": ["batch", "seq", 8]}, {"y": ["batch", 2, "seq", 4]}, constants)


def initial_state(path: Path) -> Path:
    """A GRU whose first state is made of zeros for each row of the batch."""
    nodes = [
        node("Shape", ["x"], ["sizes"]),
        node("Gather", ["sizes", "v1"], ["n"]),
        node("Concat", ["v1", "n", "v8"], ["state"], axis=0),
        node("ConstantOfShape", ["state"], ["h"]),
        node("GRU", ["x", "w", "r", "", "", "h"], ["", "last"], hidden_size=8),
        node("Squeeze", ["last", "v0"], ["y"]),
    ]
    constants: dict[str, Any] = {"v0": int64_constant(0), "v1": int64_constant(1), "v8": int64_constant(8)}
    weights = {"w": numbers(1, 24, 4), "r": numbers(1, 24, 8)}
    swapped = [node("Transpose", ["rows"], ["x"], perm=[1, 0, 2]), *nodes]
    return graphs.write(path, swapped, {"rows": ["N", "seq", 4]}, {"y": ["N", 8]}, {**constants, **weights})


def free_picture(path: Path) -> Path:
    nodes = [node("Conv", ["x", "w"], ["c"]), node("Add", ["c", "b"], ["d"]), node("GlobalMaxPool", ["d"], ["y"])]
    weights = {"w": numbers(4, 3, 3, 3), "b": numbers(1, 4, 1, 1)}
    return graphs.write(path, nodes, {"x": ["N", 3, "h", "w_"]}, {"y": ["N", 4, 1, 1]}, weights)


def far_slice(path: Path, end: int) -> Path:
    nodes = [node("Slice", ["x", "starts", "ends"], ["y"])]
    constants = {"starts": int64_constant(0, 0), "ends": int64_constant(end, 3)}
    return graphs.write(path, nodes, {"x": ["N", 4]}, {"y": ["N", 3]}, constants)


def scaled(path: Path) -> Path:
    nodes = [node("Scaler", ["x"], ["s"], domain="ai.onnx.ml", offset=[1.0, 2.0, 3.0], scale=[2.0, 2.0, 2.0])]
    nodes.append(node("LinearRegressor", ["s"], ["y"], domain="ai.onnx.ml", coefficients=[1.0, 2.0, 3.0], targets=1))
    return with_domains(graphs.write(path, nodes, {"x": ["", 3]}, {"y": ["", 1]}), "ai.onnx.ml")


def minus_one(path: Path) -> Path:
    graphs.write(path, [node("MatMul", ["x", "w"], ["y"])], {"x": ["N", 3]}, {"y": ["N", 8]}, {"w": numbers(3, 8)})
    model = onnx.load(path)
    for value_info in (*model.graph.input, *model.graph.output):
        value_info.type.tensor_type.shape.dim[0].dim_value = -1
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("make", [dynamic_sizes, initial_state, free_picture, scaled, minus_one])
def test_free_and_computed_dimensions_are_followed(tmp_path: Path, make: Any) -> None:
    assert_certain(make(tmp_path / "m.onnx"))


@pytest.mark.parametrize("end", [10**9, 2**63 - 1])
def test_a_slice_beyond_the_batch_takes_all_of_it(tmp_path: Path, end: int) -> None:
    assert_certain(far_slice(tmp_path / "m.onnx", end))


def test_a_slice_of_the_batch_still_couples_rows(tmp_path: Path) -> None:
    assert "cannot be batched" in verdict(examine(far_slice(tmp_path / "m.onnx", 3), None, "cpu"))


def classifier(path: Path, size: int | str, label: int | str) -> Path:
    """A linear classifier, as onnxmltools and skl2onnx write them."""
    one = node(
        "LinearClassifier", ["x"], ["label", "probabilities"], domain="ai.onnx.ml", classlabels_ints=[0, 1],
        coefficients=[1.0, -1.0, 0.5, -1.0, 1.0, -0.5], intercepts=[0.0, 0.1], post_transform="SOFTMAX",
    )  # fmt: skip
    outputs: dict[str, Any] = {"label": [label], "probabilities": [size, 2]}
    return with_domains(graphs.write(path, [one], {"x": [size, 3]}, outputs, kinds={"label": I64}), "ai.onnx.ml")


def test_a_label_that_is_declared_wrongly_follows_the_batch(tmp_path: Path) -> None:
    result = assert_certain(classifier(tmp_path / "m.onnx", "", 1))
    assert "  output 'label' [1] is declared wrongly: it follows the batch" in result.lines


def test_a_classifier_that_is_fixed_to_one_row_is_mended(tmp_path: Path) -> None:
    path, copy = classifier(tmp_path / "m.onnx", 1, 1), tmp_path / "copy.onnx"
    assert examine(path, copy, "cpu").good
    rows = numbers(4, 3)
    before, after = OnnxEngine(path, "cpu", 1), OnnxEngine(copy, "cpu", 1)
    assert after.batchable
    together = after.run({"x": rows})
    for at in range(4):
        alone = before.run({"x": rows[at : at + 1]})
        assert alone["label"][0] == together["label"][at]
        assert np.allclose(alone["probabilities"][0], together["probabilities"][at])


def test_an_output_whose_batch_is_second_is_batched_as_it_is(tmp_path: Path) -> None:
    nodes = [node("Relu", ["x"], ["r"]), node("Transpose", ["r"], ["y"], perm=[1, 0, 2])]
    result = assert_certain(graphs.write(tmp_path / "m.onnx", nodes, {"x": ["N", 20, 3]}, {"y": [20, "N", 3]}))
    assert "workers find it, or [outputs.y] batch_axis = 1 in model.toml" in "\n".join(result.lines)


def test_dynamic_quantization_in_one_operator_couples_rows(tmp_path: Path) -> None:
    quantized = np.random.default_rng(1).integers(-99, 99, (4, 4)).astype(np.int8)
    constants: dict[str, Any] = {"w": quantized, "s": np.array([0.1], np.float32), "table": numbers(100, 4)}
    nodes = [
        node("Gather", ["table", "ids"], ["x"]),
        node("DynamicQuantizeMatMul", ["x", "w", "s"], ["y"], domain="com.microsoft"),
    ]
    inputs: dict[str, Any] = {"ids": ["batch", "seq"]}
    path = graphs.write(tmp_path / "m.onnx", nodes, inputs, {"y": ["batch", "seq", 4]}, constants, kinds={"ids": I64})
    found = diagnose(onnx.load(with_domains(path, "com.microsoft")))
    assert found.fatal == ["DynamicQuantizeMatMul 'y': it computes one scale for the whole batch (rows would mix)"]


@pytest.mark.parametrize(
    ("nodes", "is_random"),
    [
        ([node("Dropout", ["x", "ratio"], ["y"])], False),
        ([node("Dropout", ["x", "ratio", "yes"], ["y"])], True),
        ([node("RandomNormalLike", ["x"], ["r"]), node("Add", ["x", "r"], ["y"])], True),
        ([node("RandomUniform", [], ["r"], shape=[3]), node("Add", ["x", "r"], ["y"])], True),
    ],
)
def test_random_values_are_called_random(tmp_path: Path, nodes: list[onnx.NodeProto], is_random: bool) -> None:
    constants = {"ratio": np.array(0.5, np.float32), "yes": np.array(True)}
    path = graphs.write(tmp_path / "m.onnx", nodes, {"x": ["N", 3]}, {"y": ["N", 3]}, constants)
    if not is_random:
        assert_certain(path)
        return
    (line,) = diagnose(onnx.load(path)).fatal
    assert line.endswith("its values are random: no two runs give the same answer, alone or in a batch")


def test_a_state_and_a_scalar_get_their_keys(tmp_path: Path) -> None:
    nodes = [
        node("Equal", ["rate", "sixteen"], ["is"]),
        node("Cast", ["is"], ["f"], to=F),
        node("Mul", ["x", "f"], ["y"]),
        node("Add", ["h", "f"], ["next"]),
    ]
    inputs: dict[str, Any] = {"x": ["", 3], "h": [2, "", 4], "rate": []}
    outputs: dict[str, Any] = {"y": ["", 3], "next": [2, "", 4]}
    path = graphs.write(tmp_path / "m.onnx", nodes, inputs, outputs, {"sixteen": np.array(16000)}, kinds={"rate": I64})
    result = examine(path, None, "cpu")
    assert (result.good, verdict(result)) == (True, "can be batched, with these keys in model.toml")
    assert [line.strip() for line in result.lines[1:5]] == [
        "[inputs.h]",
        "batch_axis = 1",
        "[inputs.rate]",
        "value = 16000",
    ]


def test_a_missing_batch_gets_its_key(tmp_path: Path) -> None:
    nodes = [node("ReduceMean", ["img"], ["y"], axes=[0, 1], keepdims=0)]
    fixed = examine(graphs.write(tmp_path / "f.onnx", nodes, {"img": [32, 32, 3]}, {"y": [3]}), None, "cpu")
    assert 'if its first dimension is not a batch, batch_axis = "none" in model.toml serves it' in fixed.lines[-1]
    free = examine(graphs.write(tmp_path / "m.onnx", nodes, {"img": ["h", "w", 3]}, {"y": [3]}), None, "cpu")
    assert verdict(free) == (
        'has no batch dimension, so it is served one item at a time; batch_axis = "none" in model.toml says so'
    )


def test_a_shape_is_given_for_free_dimensions(tmp_path: Path) -> None:
    """The product needs 13 features, which nobody guesses."""
    nodes = [node("MatMul", ["x", "w"], ["y"])]
    path = graphs.write(tmp_path / "m.onnx", nodes, {"x": ["N", "features"]}, {"y": ["N", 2]}, {"w": numbers(13, 2)})
    result = examine(path, None, "cpu", {"x": (13,)})
    assert (result.good, verdict(result)) == (True, "can be batched")
    for shapes, message in (
        ({"z": (13,)}, "--shape: there is no input 'z'; allowed: x"),
        ({"x": (2, 13)}, "--shape: x has 2 dimensions; allowed: 1, without the batch dimension"),
    ):
        with pytest.raises(ModelError, match=message):
            examine(path, None, "cpu", shapes)


def test_a_batch_of_one_that_vanishes_is_not_certain(tmp_path: Path) -> None:
    """[time, 1, 4] → [time, 4]: with more rows, time and rows would be one dimension."""
    nodes = [
        node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
        node("Reshape", ["t", "to"], ["f"]),
        node("Gemm", ["f", "w"], ["y"]),
    ]
    constants: dict[str, Any] = {"to": int64_constant(-1, 4), "w": numbers(4, 2)}
    found = diagnose(onnx.load(graphs.write(tmp_path / "m.onnx", nodes, {"x": [1, 6, 4]}, {"y": [6, 2]}, constants)))
    assert (found.fatal, found.doubts) == ([], ["Reshape 'f': it folds a batch of 1 into another dimension"])


def test_a_state_beside_rows_has_its_batch_where_it_can_be(tmp_path: Path) -> None:
    nodes = [node("Relu", ["h"], ["next"]), node("MatMul", ["x", "w"], ["y"])]
    for path, size in ((tmp_path / "free.onnx", ""), (tmp_path / "fixed.onnx", 1)):
        inputs: dict[str, Any] = {"x": [size, 3], "h": [2, size, 4]}
        outputs: dict[str, Any] = {"y": [size, 2], "next": [2, size, 4]}
        graphs.write(path, nodes, inputs, outputs, {"w": numbers(3, 2)})
    free = examine(tmp_path / "free.onnx", None, "cpu")
    assert (free.good, free.lines[1:3]) == (True, ["    [inputs.h]", "    batch_axis = 1"])
    assert examine(tmp_path / "fixed.onnx", tmp_path / "copy.onnx", "cpu").good
    assert OnnxEngine(tmp_path / "copy.onnx", "cpu", 1).inputs[1].shape == (2, 4)
