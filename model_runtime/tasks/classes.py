"""Read the labels of a classifier's classes, and turn its scores into the best of them; find an output by its name."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from model_runtime.spec.model_toml import SPEC_FILE, ClassificationSpec, ModelError
from model_runtime.tasks.answers import best_predictions, check_finite, read_top_k, softmax
from model_runtime.tasks.image_input import read_labels, wrong_labels
from model_runtime.tensor_spec import Array, TensorSpec


def find_output(file: Path, key: str, name: str | None, outputs: Sequence[TensorSpec]) -> TensorSpec:
    """Return the output that `key` of `file` names, the first one without a name. Raises ModelError."""
    found = next((each for each in outputs if name in {None, each.name}), None)
    if found is None:
        names = ", ".join(each.name for each in outputs)
        raise ModelError(file, key, f"there is no output {name!r}; allowed: {names}")
    return found


class Classes:
    """The classes of a model. `label_count`: of its labels, None if it has none."""

    def __init__(self, folder: Path, spec: ClassificationSpec, count: int | None, output: TensorSpec) -> None:
        """Read the labels, or take those of the output. `count`: classes of the model, None if that is free.

        Raises ModelError.
        """
        self._spec, self._count = spec, count
        file, key = folder / SPEC_FILE, "classification.labels"
        self._labels = read_labels(file, folder, key, spec.labels, output)
        self.label_count = None if self._labels is None else len(self._labels)
        if self.label_count is not None:
            if count not in {None, self.label_count}:
                raise wrong_labels(file, key, spec.labels, self.label_count, f"{count} classes")
            self._count = self.label_count

    def top_k(self, parameters: Mapping[str, Any]) -> int:
        """Return the parameter `top_k`. Raises Refused."""
        return read_top_k(parameters, self._spec.top_k, self._count)

    def predictions(self, scores: Array, parameters: Mapping[str, Any], what: str) -> list[dict[str, Any]]:
        """Return the best classes of one score for each, probabilities rounded to 6 digits. `what` names the input.

        Raises Refused("inference_failed") for NaN.
        """
        numbers = scores.astype(np.float32)
        if self._spec.softmax:
            numbers = softmax(numbers)
        check_finite(numbers, what)
        return best_predictions(numbers, self._labels, self.top_k(parameters))
