"""Task `text-ranking`: score how well documents answer a query, each seen together with it (a cross-encoder)."""

from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from model_runtime.spec.model_toml import ModelError, ModelSpec
from model_runtime.tasks.answers import activate, check_finite
from model_runtime.tasks.text.text_task import TextTask
from model_runtime.tensor_spec import Array, TensorSpec


class TextRanking(TextTask):
    """`task = "text-ranking"`: the output is one number for a pair of texts.

    Takes {"query": "...", "documents": [...]}; each document is a row. Returns {"score": number} for each.
    """

    kinds = frozenset({"json"})
    input_fields = ("query", "documents")
    takes_pairs = True

    def __init__(
        self, spec: ModelSpec, folder: Path, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
    ) -> None:
        super().__init__(spec, folder, inputs, outputs)
        if len(self.output.shape) > 1 or abs(prod(self.output.shape)) != 1:
            reason = f"{self.output.name!r} is {list(self.output.shape)} per pair; allowed: one number"
            raise ModelError(self.file, "text.output", reason)
        self._activation = self.settings.activation("sigmoid")
        if self._activation == "softmax":
            raise ModelError(self.file, "text.activation", "softmax of one number is 1; allowed: sigmoid, none")

    def texts(self, fields: Mapping[str, Any], parameters: Mapping[str, Any]) -> Sequence[tuple[str, str | None]]:  # noqa: ARG002 (none)
        """Return the query with each document."""
        return [(fields["query"], document) for document in fields["documents"]]

    def answer(self, values: Array, parameters: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ARG002 (none)
        """Return the score. Raises Refused("inference_failed") for NaN."""
        scores = activate(values.astype(np.float32).ravel(), self._activation)
        check_finite(scores, "pair of texts")
        return {"score": scores[0]}
