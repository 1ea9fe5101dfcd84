"""Models with inputs and outputs of BF16: exact values, also those that are no numbers, and what is refused at load."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from onnx import NodeProto, TensorProto

from model_runtime.bfloat16 import from_bf16, to_bf16
from model_runtime.engine.onnx_engine import OnnxEngine
from model_runtime.spec.model_toml import ModelError
from model_runtime.tensor_spec import Array
from tests.support.model_files import graphs

BF16 = TensorProto.BFLOAT16
# Every number of BF16, as its bits: also both infinities, and NaNs.
ALL = np.arange(1 << 16, dtype=np.uint16)


def model(
    folder: Path,
    nodes: Sequence[NodeProto],
    kinds: Mapping[str, int],
    inputs: Sequence[str] = ("x",),
    outputs: Sequence[str] = ("y",),
) -> Path:
    return graphs.write(
        folder / "m" / "1" / "model.onnx",
        nodes,
        {name: ["N", 4] for name in inputs},
        {name: ["N", 4] for name in outputs},
        kinds=kinds,
    )


def test_every_number_keeps_its_bits() -> None:
    values = from_bf16(ALL)
    assert values.dtype == np.float32
    assert np.array_equal(to_bf16(values), ALL)
    assert to_bf16(values.reshape(256, 256).T).shape == (256, 256)
    assert to_bf16(np.array(1, np.float32)).shape == ()


def test_numbers_are_rounded_to_the_nearest() -> None:
    numbers = np.array([1 + 2**-8, 1 + 3 * 2**-8, 1.0039064, 3.4e38, -3.4e38], np.float32)
    assert from_bf16(to_bf16(numbers)).tolist() == [1, 1 + 2**-6, 1 + 2**-7, np.inf, -np.inf]
    nan = np.array([0x7F800001, 0xFFFFFFFF], np.uint32).view(np.float32)
    assert np.isnan(from_bf16(to_bf16(nan))).all()


def test_a_cast_of_each_number_and_back(tmp_path: Path) -> None:
    """Of BF16 to FP32, and of that to BF16 again."""
    nodes = [graphs.node("Cast", ["x"], ["y"], to=TensorProto.FLOAT), graphs.node("Cast", ["y"], ["z"], to=BF16)]
    engine = OnnxEngine(model(tmp_path, nodes, {"x": BF16, "z": BF16}, outputs=("y", "z")))
    assert [spec.card() for spec in (*engine.inputs, *engine.outputs)] == [
        {"name": "x", "datatype": "BF16", "shape": [4]},
        {"name": "y", "datatype": "FP32", "shape": [4]},
        {"name": "z", "datatype": "BF16", "shape": [4]},
    ]
    rows = from_bf16(ALL).reshape(-1, 4)
    outputs = engine.run({"x": rows})
    for name in ("y", "z"):
        assert outputs[name].dtype == np.float32
        assert np.array_equal(outputs[name], rows, equal_nan=True)
    assert engine.batchable
    empty: Array = np.zeros((0, 4), np.float32)
    assert engine.run({"x": empty})["z"].shape == (0, 4)


def test_inputs_and_outputs_of_other_types_beside_it(tmp_path: Path) -> None:
    nodes = [
        graphs.node("Cast", ["x"], ["f"], to=TensorProto.FLOAT),
        graphs.node("Cast", ["n"], ["g"], to=TensorProto.FLOAT),
        graphs.node("Add", ["f", "g"], ["y"]),
        graphs.node("Equal", ["f", "g"], ["same"]),
    ]
    kinds = {"x": BF16, "n": TensorProto.INT64, "same": TensorProto.BOOL}
    engine = OnnxEngine(model(tmp_path, nodes, kinds, ("x", "n"), ("y", "same")))
    given: dict[str, Array] = {"x": np.array([[1, 2, 3, 4.5]], np.float32), "n": np.array([[1, 1, 3, 4]], np.int64)}
    outputs = engine.run(given)
    assert outputs["y"].tolist() == [[2, 3, 6, 8.5]]
    assert outputs["same"].tolist() == [[True, False, True, False]]


def test_an_operator_that_the_cpu_does_not_have(tmp_path: Path) -> None:
    path = model(tmp_path, [graphs.node("Add", ["x", "x"], ["y"])], {"x": BF16, "y": BF16})
    with pytest.raises(
        ModelError, match=r"the model computes in BF16, and ONNX Runtime .* has no Add for it"
    ) as caught:
        OnnxEngine(path)
    assert "allowed: an export in FP32 or FP16, or a GPU" in caught.value.reason


def test_texts_beside_it(tmp_path: Path) -> None:
    nodes = [graphs.node("Cast", ["x"], ["y"], to=TensorProto.FLOAT), graphs.node("Identity", ["t"], ["u"])]
    text = TensorProto.STRING
    path = model(tmp_path, nodes, {"x": BF16, "t": text, "u": text}, ("x", "t"), ("y", "u"))
    with pytest.raises(ModelError, match=r"'t' is a tensor\(string\), beside inputs or outputs of BF16; allowed"):
        OnnxEngine(path)
