"""Load a Python file of a model's folder as a module. The caller checks the file first."""

import importlib.util
import sys
import zlib
from pathlib import Path
from types import ModuleType

from model_runtime.spec.model_toml import ModelError


def load_module(file: Path) -> ModuleType:
    """Execute a file and return its module. Raises ModelError if it is not a Python file, or what its code raises."""
    # The path is part of the module's name, so that two models may have files of the same name.
    name = f"jitney_own_{zlib.crc32(str(file.resolve()).encode()):08x}_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ModelError(file, None, "is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look classes up here
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
