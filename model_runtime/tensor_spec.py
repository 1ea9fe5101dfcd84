"""Describe a model's inputs and outputs: name, Open Inference Protocol datatype, and shape."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

# Open Inference Protocol datatype (as in `jobs.contract.tensors`) → numpy type, little-endian as on the wire.
DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype("?"),
    "UINT8": np.dtype("u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "BF16": np.dtype("<f4"),  # on the wire 2 bytes: model_runtime/bfloat16.py
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "BYTES": np.dtype(object),  # text: each value is a str
}


class TensorSpec(NamedTuple):
    """One input or output of a model. `shape` is that of one row, without the batch dimension; -1: a free dimension.

    `labels`: of an output's values, where the model names its classes.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    labels: tuple[str | int, ...] = ()

    @property
    def is_fixed(self) -> bool:
        """Return true if no dimension is free."""
        return -1 not in self.shape

    def fits(self, shape: Sequence[int]) -> bool:
        """Return true if one row may have this shape."""
        return len(shape) == len(self.shape) and all(
            declared in {-1, size} for declared, size in zip(self.shape, shape, strict=True)
        )

    def card(self) -> dict[str, Any]:
        """Return the entry of this tensor in the model card, JSON-able."""
        return {"name": self.name, "datatype": self.datatype, "shape": list(self.shape)}

    def zeros(self, shape: Sequence[int]) -> Array:
        """Return an array of zeros, or of empty texts, of the datatype."""
        return np.full(shape, "", object) if self.datatype == "BYTES" else np.zeros(shape, DTYPES[self.datatype])
