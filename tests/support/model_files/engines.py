"""Custom engines, as files of a model's folder."""

import re
from pathlib import Path

import numpy as np

from tests.support.processes import ROOT

# As docs/how-to/custom-engines.md shows it.
_PAGE = (ROOT / "docs" / "how-to" / "custom-engines.md").read_text()
NUMPY_ENGINE: str = re.findall(r"```python\n(# models/own/own\.py.+?)```", _PAGE, re.DOTALL)[0]


def numpy_model(models_dir: Path, name: str = "own", toml: str = "", source: str = NUMPY_ENGINE) -> Path:
    """Lay out a model without an ONNX file: x float32 [N, 2] → y float32 [N, 3], y = x @ [[0, 1, 2], [3, 4, 5]]."""
    folder = models_dir / name
    (folder / "1").mkdir(parents=True)
    np.save(folder / "1" / "weights.npy", np.arange(6, dtype=np.float32).reshape(2, 3))
    (folder / "own.py").write_text(source)
    (folder / "model.toml").write_text(toml or 'task = "tensor"\nengine = "own.py:Numpy"')
    return folder
