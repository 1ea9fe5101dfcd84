"""Task `text-classification`: return the most probable labels of a text."""

from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from model_runtime.spec.model_toml import ModelError, ModelSpec
from model_runtime.tasks.answers import activate, best_predictions, check_finite, read_top_k
from model_runtime.tasks.text.text_task import TextTask
from model_runtime.tensor_spec import Array, TensorSpec


class TextClassification(TextTask):
    """`task = "text-classification"`: the output has one number per class.

    Returns {"predictions": [{"label", "index", "probability"}, ...]}, most probable first. Parameter: `top_k`.
    """

    input_fields = ("texts", "tokens")
    parameter_names = ("top_k",)

    def __init__(
        self, spec: ModelSpec, folder: Path, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
    ) -> None:
        super().__init__(spec, folder, inputs, outputs)
        if len(self.output.shape) != 1 or 0 in self.output.shape:
            reason = f"{self.output.name!r} is {list(self.output.shape)} per text; allowed: one number per class"
            raise ModelError(self.file, "text.output", reason)
        self._classes = prod(self.output.shape) if self.output.is_fixed else None
        self._labels = self.settings.labels(self._classes)
        self.label_count = None if self._labels is None else len(self._labels)
        self._classes = self._classes or self.label_count
        self._activation = self.settings.activation("sigmoid" if self._classes == 1 else "softmax")

    def check_parameters(self, parameters: Mapping[str, Any]) -> None:
        """Raise Refused for parameters that do not fit the model."""
        super().check_parameters(parameters)
        read_top_k(parameters, self.spec.text.top_k, self._classes)

    def answer(self, values: Array, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Return the best classes, probabilities rounded to 6 digits. Raises Refused("inference_failed") for NaN."""
        numbers = activate(values.astype(np.float32), self._activation)
        check_finite(numbers, "text")
        top_k = read_top_k(parameters, self.spec.text.top_k, self._classes)
        return {"predictions": best_predictions(numbers, self._labels, top_k)}
