"""Task `image-embedding`: convert an image to a vector for search and comparison, normalized by default."""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from jobs.contract.errors import Refused
from model_runtime.spec.model_toml import SPEC_FILE, ModelError, ModelSpec
from model_runtime.tasks.image_input import ImageInput
from model_runtime.tasks.task import Task, read_encoding
from model_runtime.tensor_spec import Array, TensorSpec

_ENCODINGS: Final = ("float", "base64")


class ImageEmbedding(Task):
    """`task = "image-embedding"`: one image input; one output is flattened to the vector.

    Returns {"embedding": [...], "dimensions": n}. Parameter `encoding`: "float", or "base64" for the bytes of
    little-endian float32 numbers, as in OpenAI's embeddings.
    """

    kinds = frozenset({"image"})

    def __init__(
        self, spec: ModelSpec, folder: Path, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
    ) -> None:
        super().__init__(spec, folder, inputs, outputs)
        file, name = folder / SPEC_FILE, spec.embedding.output or outputs[0].name
        self._image = ImageInput(file, spec.image, inputs)
        self.row_shapes = self._image.row_shapes
        names = [tensor_spec.name for tensor_spec in outputs]
        if name not in names:
            raise ModelError(file, "embedding.output", f"there is no output {name!r}; allowed: {', '.join(names)}")
        self._output = outputs[names.index(name)]
        if not self._output.is_fixed or self._output.datatype == "BOOL" or 0 in self._output.shape:
            shape = f"{self._output.datatype} {list(self._output.shape)}"
            raise ModelError(file, "task", f"the output {name!r} is {shape}; allowed: numbers of a fixed shape")

    def preprocess(self, kind: str, data: bytes, parameters: Mapping[str, Any]) -> dict[str, Array]:  # noqa: ARG002 - one kind
        """Return the array of one image. Raises Refused for invalid parameters or an invalid image."""
        read_encoding(parameters, _ENCODINGS)
        return self._image.preprocess(data)[0]

    def postprocess(self, outputs: Mapping[str, Array], parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Return the vector with all digits of float32. Raises Refused("inference_failed") for zeros or NaN."""
        vector = outputs[self._output.name].ravel().astype(np.float32)
        if self.spec.embedding.normalize:
            length = np.linalg.norm(vector.astype(np.float64))
            if length == 0:
                raise Refused(
                    "inference_failed", "the model's output for this image is all zeros and cannot be normalized"
                )
            vector = (vector / length).astype(np.float32)
        if not np.isfinite(vector).all():
            raise Refused("inference_failed", "the model's output for this image is not a number")
        if read_encoding(parameters, _ENCODINGS) == "base64":
            return {"embedding": base64.b64encode(vector.astype("<f4").tobytes()).decode(), "dimensions": vector.size}
        return {"embedding": [float(text) for text in vector.astype(str)], "dimensions": vector.size}
