"""Runs a model in every batch size that it may be asked for, before it takes jobs: first runs are the slow ones."""

import logging
from collections.abc import Iterator

import numpy as np

from model_runtime.engine.onnx_engine import RunFailed
from model_runtime.model import Model
from model_runtime.spec.model_toml import ModelError
from model_runtime.tensor_spec import DTYPES

log = logging.getLogger("jitney.worker")


def warm_up(model: Model) -> list[int]:
    """Run on zeros; gives the sizes that ran. Blocks. Raises ModelError where the device is lost by that.

    A model whose shapes are open is not warmed up; where zeros or so many rows do not run, others may.
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
                reason = f"the device was lost while {size} rows were tried: {error}"
                raise ModelError(f"{model.name} {model.version}", None, reason) from error
            log.warning("model %s %s: %d rows of zeros do not run: %s", model.name, model.version, size, error)
            break
        ran.append(size)
    return ran


def warmup_sizes(most: int) -> Iterator[int]:
    """List the batch sizes that stand for all: powers of two, and the largest."""
    size = 1
    while size < most:
        yield size
        size *= 2
    yield most
