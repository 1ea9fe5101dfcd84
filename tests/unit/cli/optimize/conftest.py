"""The bundled digits in a repository of the test's own, and `jitney models optimize`."""

from tests.support.model_files.optimize import models_dir, optimize

__all__ = ["models_dir", "optimize"]
