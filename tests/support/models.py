"""Models that tests need and the project does not: made on the spot, as an operator would lay them out."""

from pathlib import Path

import onnx
from onnx import TensorProto, helper

SQUEEZENET_TOML = """
task = "image-classification"
[image]
resize = 256
crop = 224
color = "BGR"
mean = [104, 117, 123]
[classification]
labels = "labels.txt"
softmax = false
"""

SLOW_TASK = '''
"""A tensor task that takes 50 ms a rider, so that a test can act in the middle of a batch."""
import threading
from worker.models.tasks.tensor import TensorTask

class Slow(TensorTask):
    def present(self, outputs, parameters):
        threading.Event().wait(0.05)
        return super().present(outputs, parameters)
'''


def squeezenet(models_dir: Path, shared_data: Path, file: str, name: str = "squeezenet") -> None:
    """Lay out the real SqueezeNet: its file, its labels, a model.toml, nothing else."""
    folder = models_dir / name
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "model.onnx").write_bytes((shared_data / "models" / file).read_bytes())
    lines = (shared_data / "labels" / "synset.txt").read_text().splitlines()
    (folder / "labels.txt").write_text("\n".join(line.partition(" ")[2] for line in lines))
    (folder / "model.toml").write_text(SQUEEZENET_TOML)


def doubling(models_dir: Path, name: str = "double", toml: str = 'task = "tensor"') -> Path:
    """Lay out a model that doubles four numbers: x float32 [N, 4] → y float32 [N, 4]."""
    node = helper.make_node("Add", ["x", "x"], ["y"])
    ports = [helper.make_tensor_value_info(port, TensorProto.FLOAT, ["N", 4]) for port in "xy"]
    graph = helper.make_graph([node], "double", ports[:1], ports[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    folder = models_dir / name
    (folder / "1").mkdir(parents=True)
    onnx.save(model, folder / "1" / "model.onnx")
    (folder / "model.toml").write_text(toml)
    return folder


def slow(models_dir: Path, name: str = "slow") -> None:
    """Lay out a doubling model that takes its time: 50 ms a rider, batches of 8."""
    folder = doubling(models_dir, name, 'task = "slow.py:Slow"\nmax_batch = 8')
    (folder / "slow.py").write_text(SLOW_TASK)
