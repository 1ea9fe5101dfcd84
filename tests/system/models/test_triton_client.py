"""tritonclient calls a whole service over HTTP and gRPC; its outputs are, bit for bit, those of ONNX Runtime alone."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from shutil import copytree

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, numpy_helper

from api.grpc_server.generated import open_inference_pb2
from model_runtime.tensor_spec import Array
from tests.support import models
from tests.support.model_files import graphs
from tests.support.servers import free_port
from tests.support.service import DIGITS, ROOT, Service

PYTHON = ROOT / ".venv" / "apart" / "bin" / "python"  # `make test` installs the client there
CALLERS = ROOT / "tests" / "support"
TYPES = {
    "fp16": (TensorProto.FLOAT16, np.float16),
    "fp64": (TensorProto.DOUBLE, np.float64),
    "int64": (TensorProto.INT64, np.int64),
    "uint8": (TensorProto.UINT8, np.uint8),
    "bool": (TensorProto.BOOL, np.bool_),
}
ROWS = 5


@pytest.fixture(scope="module")
def folder(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for name in ("double", "other"):
        models.doubling(folder, name)
    others = {"text": TensorProto.STRING, "bf16": TensorProto.BFLOAT16}
    for name, kind in {**{name: kind for name, (kind, _) in TYPES.items()}, **others}.items():
        ports = {"x": kind, "y": kind}
        node = graphs.node("Identity", ["x"], ["y"])
        graphs.write(folder / name / "1" / "model.onnx", [node], {"x": ["N", 3]}, {"y": ["N", 3]}, kinds=ports)
        (folder / name / "model.toml").write_text('task = "tensor"')
    weights = {"w": graphs.numbers(8, 4)}
    node = graphs.node("MatMul", ["x", "w"], ["y"])
    graphs.write(folder / "product" / "1" / "model.onnx", [node], {"x": ["N", 8]}, {"y": ["N", 4]}, weights)
    (folder / "product" / "model.toml").write_text('task = "tensor"')
    (folder / "mnist" / "1").mkdir(parents=True)
    mnist = shared_data / "models" / "mnist-8" / "model.onnx"
    (folder / "mnist" / "1" / "model.onnx").write_bytes(mnist.read_bytes())
    (folder / "mnist" / "model.toml").write_text('task = "tensor"')
    copytree(ROOT / "models" / "digits", folder / "digits")
    return folder


@pytest.fixture(scope="module")
def ports() -> dict[str, str]:
    """The port of each transport, once the service runs."""
    return {"grpc": str(free_port())}


@pytest.fixture(scope="module")
def service(folder: Path, ports: dict[str, str]) -> Iterator[Service]:
    with Service(folder, env={"JITNEY_GRPC_PORT": ports["grpc"]}) as started:
        ports["http"] = started.port
        yield started


def stored(path: Path) -> Array:
    array: Array = numpy_helper.to_array(onnx.load_tensor(str(path)))
    return array


def alone(folder: Path, model: str, rows: Array) -> Array:
    """The outputs of ONNX Runtime for the rows, run one by one where the model has a fixed batch of one."""
    session = onnxruntime.InferenceSession(folder / model / "1" / "model.onnx", providers=["CPUExecutionProvider"])
    port = session.get_inputs()[0]
    batches = [rows] if isinstance(port.shape[0], str) else [rows[at : at + 1] for at in range(len(rows))]
    outputs: Array = np.concatenate([session.run(None, {port.name: batch})[0] for batch in batches])
    return outputs


@pytest.mark.usefixtures("service")
@pytest.mark.parametrize("transport", ["http", "grpc"])
def test_the_whole_surface_of_the_client(
    ports: dict[str, str], transport: str, folder: Path, shared_data: Path, tmp_path: Path
) -> None:
    if (
        not PYTHON.exists()
        or subprocess.run([PYTHON, "-c", f"import tritonclient.{transport}"], check=False).returncode
    ):
        pytest.skip("no tritonclient: `make test` installs it")
    random = np.random.default_rng(3)
    sets = sorted((shared_data / "models" / "mnist-8").glob("test_data_set_*"))
    arrays: dict[str, Array] = {
        "mnist": np.concatenate([stored(each / "input_0.pb") for each in sets]),
        "double": random.random((2, 4), np.float32),
        "product": random.random((ROWS, 8), np.float32),
        "text": np.array([["a", "größe", ""], ["b", '"', "\n"]]),
        "bf16": np.array([[1, -0.5, np.inf], [256, 0, -3]], np.float32),  # exact in 16 bits
        **{name: random.integers(0, 2, (ROWS, 3)).astype(kind) for name, (_, kind) in TYPES.items()},
    }
    arrays["fp16"], arrays["fp64"] = (
        random.standard_normal((ROWS, 3)).astype(kind) for kind in (np.float16, np.float64)
    )
    picture = np.frombuffer(DIGITS[0].read_bytes(), np.uint8)
    np.savez(tmp_path / "inputs.npz", picture=picture, **arrays)  # type: ignore[arg-type]
    (tmp_path / "protocol").write_bytes(open_inference_pb2.DESCRIPTOR.serialized_pb)
    done = subprocess.run(
        [
            *(PYTHON, CALLERS / f"triton_{transport}_caller.py", f"127.0.0.1:{ports[transport]}"),
            *(tmp_path / "inputs.npz", tmp_path / "outputs.npz", tmp_path / "protocol"),
        ],
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    outputs = np.load(tmp_path / "outputs.npz")
    assert set(outputs) == set(arrays)
    for name, rows in arrays.items():
        expected = rows if name in {"text", "bf16"} else alone(folder, name, rows)
        assert (outputs[name].dtype.kind, outputs[name].tolist()) == (expected.dtype.kind, expected.tolist()), name
        assert name == "text" or outputs[name].tobytes() == expected.tobytes()
    logits = np.concatenate([stored(each / "output_0.pb") for each in sets])
    assert np.abs(outputs["mnist"] - logits).max() < 1e-3
