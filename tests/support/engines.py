"""Engines of a user's own, as files of a model's folder."""

from pathlib import Path

import numpy as np

NUMPY_ENGINE = '''
"""Multiplies by the weights of its version: numpy, and nothing else."""
import numpy as np
from worker.models.port import Port


class Numpy:
    def __init__(self, version, spec, gpu):
        self.weights = np.load(version / "weights.npy")
        self.inputs = [Port("x", "FP32", (len(self.weights),))]
        self.outputs = [Port("y", "FP32", (self.weights.shape[1],))]
        self.provider, self.device, self.runtime = "cpu", "numpy", np.__version__
        self.batchable = True

    def run(self, arrays, stop):
        return {"y": arrays["x"] @ self.weights}
'''


def numpy_model(models_dir: Path, name: str = "own", toml: str = "", source: str = NUMPY_ENGINE) -> Path:
    """Lay out a model without an ONNX file: x float32 [N, 2] → y float32 [N, 3], y = x @ [[0, 1, 2], [3, 4, 5]]."""
    folder = models_dir / name
    (folder / "1").mkdir(parents=True)
    np.save(folder / "1" / "weights.npy", np.arange(6, dtype=np.float32).reshape(2, 3))
    (folder / "own.py").write_text(source)
    (folder / "model.toml").write_text(toml or 'task = "tensor"\nengine = "own.py:Numpy"')
    return folder
