"""What an engine finds when it opens a model, and what it refuses without harming the process."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Timer
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from model_runtime.engine.device_info import DriverInfo
from model_runtime.engine.onnx_engine import OnnxEngine, RunFailed, Stop, TensorSpec, classify_error
from model_runtime.engine.onnx_runtime import clean_message
from model_runtime.spec.model_toml import ModelError
from tests.support.model_files import graphs

F, I64 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64
NO_GPU = "no NVIDIA GPU: libcuda.so.1 is not installed"
Relu = Callable[..., Path]
SaveGraph = Callable[..., Path]


def opened(relu: Relu, shape: Sequence[int | str]) -> OnnxEngine:
    return OnnxEngine(relu('task = "tensor"', shape) / "1" / "model.onnx", "cpu", 1)


def test_a_free_first_dimension_is_a_batch(relu: Relu) -> None:
    engine = opened(relu, ["N", 4])
    assert (engine.batchable, engine.batch_note, engine.provider) == (True, "", "cpu")
    assert engine.inputs == [TensorSpec("x", "FP32", (4,))]
    assert engine.outputs == [TensorSpec("y", "FP32", (4,))]
    rows = np.arange(-6, 6, dtype=np.float32).reshape(3, 4)
    assert np.array_equal(engine.run({"x": rows})["y"], np.maximum(rows, 0))


def test_a_first_dimension_of_one_runs_alone(relu: Relu) -> None:
    engine = opened(relu, [1, 4])
    assert not engine.batchable
    assert "'x' has its first dimension fixed at 1" in engine.batch_note
    assert engine.inputs == [TensorSpec("x", "FP32", (4,))]
    assert engine.run({"x": np.ones((1, 4), np.float32)})["y"].shape == (1, 4)


def test_a_fixed_batch_size_is_refused_with_the_remedy(relu: Relu) -> None:
    with pytest.raises(ModelError, match=r"'x' has the shape \[4, 4\].*allowed: a dynamic first dimension"):
        opened(relu, [4, 4])


@pytest.mark.parametrize(
    ("target", "note"),
    [
        ([1, -1], "output 'y' has its first dimension fixed at 1"),
        ([-1, 2], "1 rows in, but output 'y' has the shape [2, 2]"),
    ],
)
def test_a_batch_size_fixed_inside_the_graph_is_found(
    save_graph: SaveGraph, tmp_path: Path, target: Sequence[int], note: str
) -> None:
    constants = {"to": numpy_helper.from_array(np.array(target, np.int64), "to")}
    node = helper.make_node("Reshape", ["x", "to"], ["y"])
    path = save_graph(tmp_path / "m.onnx", [node], {"x": (F, ["N", 4])}, {"y": (F, ["N", "M"])}, constants)
    engine = OnnxEngine(path, "cpu", 1)
    assert not engine.batchable
    assert engine.batch_note == note


def test_a_wrongly_guessed_size_does_not_reject_a_model(save_graph: SaveGraph, tmp_path: Path) -> None:
    weight = {"w": numpy_helper.from_array(np.ones((4, 2), np.float32), "w")}
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    path = save_graph(tmp_path / "m.onnx", [node], {"x": (F, ["N", "S"])}, {"y": (F, ["N", 2])}, weight)
    engine = OnnxEngine(path, "cpu", 1)
    assert engine.batchable
    assert "a test run with zeros and free dimensions of 1 failed" in engine.batch_note
    assert engine.inputs[0].shape == (-1,)


def test_scalars_and_outputs_without_rows_belong_to_the_single_row(save_graph: SaveGraph, tmp_path: Path) -> None:
    nodes = [helper.make_node("Mul", ["x", "by"], ["y"]), helper.make_node("Shape", ["x"], ["sizes"])]
    inputs = {"x": (F, [1, 3]), "by": (F, [])}
    path = save_graph(tmp_path / "m.onnx", nodes, inputs, {"y": (F, [1, 3]), "sizes": (I64, [2])}, {})
    engine = OnnxEngine(path, "cpu", 1)
    assert not engine.batchable
    assert engine.inputs[1] == TensorSpec("by", "FP32", ())
    assert engine.outputs == [TensorSpec("y", "FP32", (3,)), TensorSpec("sizes", "INT64", (2,))]
    results = engine.run({"x": np.ones((1, 3), np.float32), "by": np.array([2], np.float32)})
    assert results["y"].tolist() == [[2, 2, 2]]
    assert results["sizes"].tolist() == [[1, 3]]


def test_an_input_of_an_unknown_type_is_refused(tmp_path: Path) -> None:
    cast, kinds = (
        helper.make_node("Cast", ["x"], ["y"], to=onnx.TensorProto.FLOAT),
        {"x": onnx.TensorProto.FLOAT8E4M3FN},
    )
    path = graphs.write(tmp_path / "m.onnx", [cast], {"x": ["N"]}, {"y": ["N"]}, opset=19, kinds=kinds)
    with pytest.raises(ModelError, match=r"input 'x' is a tensor\(float8e4m3fn\); allowed: tensors of BF16, BOOL"):
        OnnxEngine(path, "cpu", 1)


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_required_provider_is_never_replaced(relu: Relu, provider: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model_runtime.engine.onnx_session.query_driver", lambda: DriverInfo(problem=NO_GPU))
    path = relu('task = "tensor"', ["N", 4]) / "1" / "model.onnx"
    with pytest.raises(ModelError) as caught:
        OnnxEngine(path, provider)
    assert caught.value.key == "provider"
    assert f'"{provider}" cannot be used: ' in str(caught.value)
    assert NO_GPU in str(caught.value)
    assert str(caught.value).endswith("; allowed here: auto, cpu")
    assert "\n" not in str(caught.value)


def test_auto_uses_an_available_provider(relu: Relu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model_runtime.engine.onnx_session.query_driver", lambda: DriverInfo(problem=NO_GPU))
    engine = OnnxEngine(relu('task = "tensor"', ["N", 4]) / "1" / "model.onnx", "auto")
    assert (engine.provider, engine.gpu, engine.placement) == ("cpu", None, {"cpu": 1})
    assert engine.provider_note.startswith("auto uses the CPU: ")
    assert NO_GPU in engine.provider_note


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        ("models/resnet8-cifar10/network.onnx", "does not support the operator RequantShift"),
        ("fault_models/external_data_traversal.onnx", "external data '../../../../../etc/hostname' leads outside of "),
    ],
)
def test_a_hostile_or_foreign_model_is_refused(
    shared_data: Path, file: str, reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ModelError, match=reason) as caught:
        OnnxEngine(shared_data / file, "cpu", 1)
    assert Path(file).name in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", ""), "the runtime must not chat beside the error"


@pytest.mark.parametrize("content", [b"", b"junk", b"\x08\x08" + bytes(100)])
def test_a_corrupt_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.onnx: is (empty: )?not an ONNX model"):
        OnnxEngine(tmp_path / "model.onnx", "cpu", 1)


def test_a_row_that_does_not_fit_is_not_reported_as_out_of_memory(relu: Relu) -> None:
    with pytest.raises(RunFailed) as caught:
        opened(relu, ["N", 4]).run({"x": np.ones((1, 5), np.float32)})
    assert caught.value.fault == "input"


def test_a_run_is_stopped_from_another_thread(shared_data: Path) -> None:
    engine, stop = OnnxEngine(shared_data / "fault_models" / "slow_by_input.onnx", "cpu", 1), Stop()
    begun = time.monotonic()
    Timer(0.2, stop.now).start()
    with pytest.raises(RunFailed) as caught:
        engine.run({"n": np.array([10**7])}, stop)
    assert caught.value.fault == "stopped"
    assert time.monotonic() - begun < 10
    with pytest.raises(RunFailed):  # stopped for good: a batch that is parted does not go on
        engine.run({"n": np.array([10**7])}, stop)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("CUDA failure 700: an illegal memory access was encountered", "device"),
        ("CUDNN failure 4000: CUDNN_STATUS_INTERNAL_ERROR", "device"),
        ("CUBLAS failure 13: CUBLAS_STATUS_EXECUTION_FAILED", "device"),
        ("CUDA failure 2: out of memory", "memory"),
        ("CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED", "memory"),
        ("Available memory of 1 is smaller than requested bytes of 2; bad_alloc", "memory"),
        ("Exiting due to terminate flag being set to true.", "stopped"),
        ("Got invalid dimensions for input: x", "input"),
    ],
)
def test_faults_are_classified_by_the_message_of_the_runtime(text: str, fault: str) -> None:
    assert classify_error(RuntimeError(text)) == fault


def test_gpu_errors_are_reported_without_source_locations() -> None:
    said = (
        "/onnxruntime_src/onnxruntime/core/providers/cuda/cuda_call.cc:154 void CudaCall(ERRTYPE, int) [with ERRTYPE = "
        "cudaError] CUDA failure 100: no device ; GPU=-1 ; hostname=here ; file=/onnxruntime_src/x.cc ; line=1341 ; "
        "expr=cudaSetDevice(device_id_);"
    )
    assert clean_message(RuntimeError(said)) == "CUDA failure 100: no device"


def test_a_failed_allocation_is_recognised(shared_data: Path, capfd: pytest.CaptureFixture[str]) -> None:
    engine = OnnxEngine(shared_data / "fault_models" / "alloc_by_input.onnx", "cpu", 1)
    assert engine.inputs == [TensorSpec("n", "INT64", ())]
    with pytest.raises(RunFailed) as caught:
        engine.run({"n": np.array([10**12])})
    assert caught.value.fault == "memory"
    assert engine.run({"n": np.array([3])})["y"].shape == (1,), "it serves on"
    assert capfd.readouterr() == ("", "")


def test_read_only_unaligned_views_and_threads_are_accepted(relu: Relu) -> None:
    engine = opened(relu, ["N", 4])
    frame = b"-" + np.array([-1, 2, -3, 4], "<f4").tobytes()
    view: np.ndarray[Any, Any] = np.frombuffer(frame, "<f4", offset=1).reshape(1, 4)
    with ThreadPoolExecutor(4) as pool:
        for result in pool.map(lambda _: engine.run({"x": view})["y"].tolist(), range(50)):
            assert result == [[0, 2, 0, 4]]
