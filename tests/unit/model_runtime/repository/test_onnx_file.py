"""The metadata that is read from an ONNX file equals what the runtime and ONNX's own library read."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from model_runtime.engine.onnx_engine import GpuOptions
from model_runtime.engine.onnx_session import OnnxSession, _check_for_tensorrt
from model_runtime.repository.onnx_file import read_onnx_metadata
from model_runtime.spec.model_toml import ModelError
from tests.support import models
from tests.support.processes import ROOT


def paths(shared_data: Path) -> list[Path]:
    return [ROOT / "models" / "digits" / "1" / "model.onnx", *sorted((shared_data / "models").glob("*.onnx"))]


def test_the_metadata_equals_that_of_other_readers(shared_data: Path) -> None:
    read = 0
    for path in paths(shared_data):
        head, graph = read_onnx_metadata(path), onnx.load(path).graph
        inputs = OnnxSession(path, "cpu", 1, GpuOptions()).inputs
        declared = {one.name: tuple(s if isinstance(s, int) else -1 for s in one.shape) for one in inputs}
        assert head.inputs == declared, path.name
        assert head.operators == {node.op_type for node in graph.node}, path.name
        assert head.size_bytes == path.stat().st_size
        read += 1
    assert read >= 3


def test_a_changed_file_has_another_fingerprint(tmp_path: Path) -> None:
    doubling = models.doubling(tmp_path) / "1" / "model.onnx"
    times = models.times(tmp_path, 2) / "2" / "model.onnx"
    assert read_onnx_metadata(doubling).digest != read_onnx_metadata(times).digest
    assert read_onnx_metadata(doubling) == read_onnx_metadata(doubling)


def test_weights_in_other_files_count(tmp_path: Path) -> None:
    node = helper.make_node("Add", ["x", "w"], ["y"])
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 256]) for name in "xy"]
    digests = []
    for value in (1, 2):
        weight = numpy_helper.from_array(np.full(256, value, np.float32), "w")
        model = helper.make_model(helper.make_graph([node], "add", ports[:1], ports[1:], [weight]), ir_version=8)
        path = tmp_path / "model.onnx"
        onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
        digests.append(read_onnx_metadata(path).digest)
        assert read_onnx_metadata(path).size_bytes == path.stat().st_size + 1024
        (tmp_path / "weights.bin").unlink()
    assert digests[0] != digests[1]


def test_tensorrt_is_refused_where_a_request_would_wait_for_a_build(tmp_path: Path) -> None:
    port = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", "S"])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", "S"])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "open", [port], [out])
    onnx.save(helper.make_model(graph, ir_version=8), tmp_path / "model.onnx")
    with pytest.raises(
        ModelError, match=r"'x' has the shape \[-1, -1\]: each new size would be built during a request"
    ):
        _check_for_tensorrt(tmp_path / "model.onnx", read_onnx_metadata(tmp_path / "model.onnx"), GpuOptions())


def test_int8_needs_a_quantized_model(tmp_path: Path) -> None:
    path = models.doubling(tmp_path) / "1" / "model.onnx"
    _check_for_tensorrt(path, read_onnx_metadata(path), GpuOptions(precision="fp16"))
    with pytest.raises(ModelError, match=r"tensorrt\.precision: int8 needs a quantized model") as caught:
        _check_for_tensorrt(path, read_onnx_metadata(path), GpuOptions(precision="int8"))
    assert caught.value.key == "tensorrt.precision"
