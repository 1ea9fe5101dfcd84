"""Turn outputs that ONNX Runtime returns as lists, of maps (ZipMap) or of tensors, into arrays."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from model_runtime.tensor_spec import DTYPES, Array

_TYPE: Final = re.compile(r"seq\((map\((?:string|int64),)?tensor\((float|double)\)\)+")
_DATATYPES: Final = {"float": "FP32", "double": "FP64"}


class ListOutput:
    """An output of the type seq(map(label, number)), one map for each row, or seq(tensor), one tensor for each target.

    `shape`: of the array with the batch dimension, [rows, labels] or [rows, targets, numbers]. `labels`: the keys of
    the maps, which are the same for all rows; known after the first run.
    """

    def __init__(self, name: str, datatype: str, *, is_map: bool) -> None:
        self.name, self.datatype, self.is_map = name, datatype, is_map
        self.shape: tuple[int, ...] = (-1, -1) if is_map else (-1, -1, -1)
        self.labels: tuple[str | int, ...] = ()

    @classmethod
    def of(cls, name: str, type_name: str) -> "ListOutput | None":
        """Return the list output of ONNX Runtime's type name; None for another type."""
        found = _TYPE.fullmatch(type_name)
        return found and cls(name, _DATATYPES[found[2]], is_map=found[1] is not None)

    def to_array(self, value: Sequence[Any]) -> Array:
        """Return the value of a run as an array. Raises ValueError if the keys or shapes in it differ."""
        if not self.is_map:
            return np.stack(value, axis=1) if value else np.empty((0, 0, 0), DTYPES[self.datatype])
        if value and not self.labels:
            self.labels = tuple(value[0])
        return np.array([self._numbers(each) for each in value], DTYPES[self.datatype]).reshape(-1, len(self.labels))

    def _numbers(self, numbers: Mapping[str | int, float]) -> list[float]:
        if tuple(numbers) != self.labels:
            raise ValueError(f"output {self.name!r} has other keys than before: {list(numbers)[:10]}")
        return list(numbers.values())
