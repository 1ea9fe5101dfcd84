"""Bind the inputs and outputs of one batch size to fixed buffers in device memory.

Runs then allocate nothing, and addresses do not change, as CUDA graphs require.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from model_runtime.engine.onnx_runtime import onnxruntime
from model_runtime.tensor_spec import Array


class IoBinding:
    """Bound buffers of one batch size. Not safe from several threads."""

    def __init__(
        self, session: Any, inputs: Mapping[str, Array], outputs: Mapping[str, Array], device: str, gpu: int
    ) -> None:
        """Allocate buffers for the inputs and outputs of a run of this size. `device`: "cuda" or "cpu".

        Raises what the runtime raises, usually for lack of memory.
        """
        self._session = session
        self._binding = session.io_binding()
        self._types = {name: array.dtype for name, array in inputs.items()}
        self._ins = {name: self._allocate(array, device, gpu) for name, array in inputs.items()}
        self._outs = {name: self._allocate(array, device, gpu) for name, array in outputs.items()}
        for name, value in self._ins.items():
            self._binding.bind_ortvalue_input(name, value)
        for name, value in self._outs.items():
            self._binding.bind_ortvalue_output(name, value)

    def fits(self, feed: Mapping[str, Array]) -> bool:
        """Return true if the arrays have the bound shapes and types."""
        return feed.keys() == self._ins.keys() and all(
            (feed[name].shape, feed[name].dtype) == (tuple(value.shape()), self._types[name])
            for name, value in self._ins.items()
        )

    def run(self, feed: Mapping[str, Array], options: Any) -> dict[str, Array]:
        """Copy the arrays in, run, and copy the results out. Raises what the runtime raises."""
        for name, value in self._ins.items():
            value.update_inplace(feed[name])
        self._session.run_with_iobinding(self._binding, options)
        # On a CPU, numpy() returns a view that the next run overwrites.
        return {name: np.require(value.numpy(), requirements="O") for name, value in self._outs.items()}

    @staticmethod
    def _allocate(like: Array, device: str, gpu: int) -> Any:
        return onnxruntime.OrtValue.ortvalue_from_shape_and_type([*like.shape], like.dtype, device, gpu)
