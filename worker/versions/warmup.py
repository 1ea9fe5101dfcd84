"""Warms up a model: runs it in every batch size it may be used with, because first runs are slow."""

import logging
from collections.abc import Iterator

import numpy as np

from model_runtime.engine.onnx_engine import RunFailed
from model_runtime.model import Model
from model_runtime.spec.model_toml import ModelError
from model_runtime.tensor_spec import DTYPES

log = logging.getLogger("jitney.worker")


def warm_up(model: Model) -> list[int]:
    """Run the model on zeros, blocking; returns the sizes that ran. Raises ModelError if the device is lost.

    A model with open shapes is not warmed up. A size that fails on zeros ends the warm-up: real inputs may still run.
    """
    if not all(tensor_spec.is_fixed for tensor_spec in model.inputs):
        return []
    ran = []
    for size in model.buckets or warmup_sizes(model.max_batch):
        try:
            model.run(
                {
                    tensor_spec.name: np.zeros((size, *tensor_spec.shape), DTYPES[tensor_spec.datatype])
                    for tensor_spec in model.inputs
                }
            )
        except RunFailed as error:
            if error.fault == "device":
                reason = f"the device was lost during the warm-up with {size} rows: {error}"
                raise ModelError(f"{model.name} {model.version}", None, reason) from error
            log.warning("model %s %s: warm-up with %d rows of zeros failed: %s", model.name, model.version, size, error)
            break
        ran.append(size)
    return ran


def warmup_sizes(max_size: int) -> Iterator[int]:
    """Yield the batch sizes to warm up: powers of two, and the largest size."""
    size = 1
    while size < max_size:
        yield size
        size *= 2
    yield max_size
