"""Task `image-embedding`: convert an image to a vector for search and comparison, normalized by default."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from model_runtime.spec.model_toml import SPEC_FILE, ModelError, ModelSpec
from model_runtime.tasks.answers import VECTOR_ENCODINGS, read_choice, to_embedding
from model_runtime.tasks.classes import find_output
from model_runtime.tasks.image_input import ImageInput
from model_runtime.tasks.task import Task, refuse_unknown
from model_runtime.tensor_spec import Array, TensorSpec


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
        file = folder / SPEC_FILE
        self._image = ImageInput(file, spec.image, inputs)
        self.row_shapes = self._image.row_shapes
        self._output = find_output(file, "embedding.output", spec.embedding.output, outputs)
        if not self._output.is_fixed or self._output.datatype == "BOOL" or 0 in self._output.shape:
            shape = f"{self._output.datatype} {list(self._output.shape)}"
            raise ModelError(
                file, "task", f"the output {self._output.name!r} is {shape}; allowed: numbers of a fixed shape"
            )

    def preprocess(self, kind: str, data: bytes, parameters: Mapping[str, Any]) -> dict[str, Array]:  # noqa: ARG002 - one kind
        """Return the array of one image. Raises Refused for invalid parameters or an invalid image."""
        refuse_unknown(parameters, ("encoding",))
        read_choice(parameters, "encoding", VECTOR_ENCODINGS)
        return self._image.preprocess(data)[0]

    def postprocess(self, outputs: Mapping[str, Array], parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Return the vector with all digits of float32. Raises Refused("inference_failed") for zeros or NaN."""
        encoding = read_choice(parameters, "encoding", VECTOR_ENCODINGS)
        normalize = self.spec.embedding.normalize
        return to_embedding(outputs[self._output.name], encoding, "image", normalize=normalize)
