"""Python files of a model's own folder, loaded as modules; whether they may be is decided before."""

import importlib.util
import sys
import zlib
from pathlib import Path
from types import ModuleType

from model_runtime.spec.model_toml import ModelError


def load_module(file: Path) -> ModuleType:
    """The file's module, run anew; raises ModelError where it is no Python file, and whatever its code raises."""
    # The path in the module's name keeps two models' files of one name apart.
    name = f"jitney_own_{zlib.crc32(str(file.resolve()).encode()):08x}_{file.stem}"
    found = importlib.util.spec_from_file_location(name, file)
    if found is None or found.loader is None:
        raise ModelError(file, None, "is not a Python file")
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module  # where dataclasses and pickles look a class up
    try:
        found.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
