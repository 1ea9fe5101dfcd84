"""Task `image-classification`: decode an image by `[image]` and return its most probable labels.

Checks at load that preprocessing, model and labels match.
"""

from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

from model_runtime.spec.model_toml import SPEC_FILE, ModelError, ModelSpec
from model_runtime.tasks.classes import Classes
from model_runtime.tasks.image_input import ImageInput
from model_runtime.tasks.task import Task, refuse_unknown
from model_runtime.tensor_spec import Array, TensorSpec


class ImageClassification(Task):
    """`task = "image-classification"`: one image input; the first output holds one number per class.

    Returns {"predictions": [{"label", "index", "probability"}, ...]}, most probable first. Parameter: `top_k`.
    """

    kinds = frozenset({"image"})
    offload = True

    def __init__(
        self, spec: ModelSpec, folder: Path, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
    ) -> None:
        super().__init__(spec, folder, inputs, outputs)
        file = folder / SPEC_FILE
        self._image = ImageInput(file, spec.image, inputs)
        self.row_shapes = self._image.row_shapes
        self._output = outputs[0]
        self._classes = Classes(folder, spec.classification, _class_count(file, self._output), self._output)
        self.label_count = self._classes.label_count

    def preprocess(self, kind: str, data: bytes, parameters: Mapping[str, Any]) -> dict[str, Array]:  # noqa: ARG002 - one kind
        """Return the array of one image. Raises Refused for invalid parameters or an invalid image."""
        refuse_unknown(parameters, ("top_k",))
        self._classes.top_k(parameters)
        return self._image.preprocess(data)[0]

    def postprocess(self, outputs: Mapping[str, Array], parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Return the best classes, probabilities rounded to 6 digits. Raises Refused("inference_failed") for NaN."""
        scores = outputs[self._output.name].ravel()
        return {"predictions": self._classes.predictions(scores, parameters, "image")}


def _class_count(file: Path, output: TensorSpec) -> int | None:
    """Return the one dimension that is not 1, or None if it is free."""
    if output.datatype == "BOOL" or sum(side != 1 for side in output.shape) > 1 or 0 in output.shape:
        shape = f"{output.datatype} {list(output.shape)}"
        raise ModelError(file, "task", f"the output {output.name!r} is {shape}; allowed: one number per class")
    return prod(output.shape) if output.is_fixed else None
