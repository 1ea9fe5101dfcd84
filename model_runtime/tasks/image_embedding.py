"""A picture as a vector, for searching and comparing: an output of the model, flat and, as usual, of length 1."""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from jobs.contract.errors import Refused
from jobs.contract.json_reader import describe_value
from model_runtime.spec.model_toml import SPEC_FILE, ModelError, ModelSpec
from model_runtime.tasks.image_input import ImageInput
from model_runtime.tasks.task import Task, refuse_unknown
from model_runtime.tensor_spec import Array, TensorSpec

_ENCODINGS: Final = ("float", "base64")


class ImageEmbedding(Task):
    """`task = "image-embedding"`: one image input; one output is the vector, whatever its shape.

    Answers {"embedding": [...], "dimensions": n}. Parameter `encoding`: "float", or "base64" for the bytes of the
    numbers as little-endian float32, as OpenAI's embeddings have it.
    """

    kinds = frozenset({"image"})

    def __init__(
        self, spec: ModelSpec, folder: Path, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
    ) -> None:
        super().__init__(spec, folder, inputs, outputs)
        file, wanted = folder / SPEC_FILE, spec.embedding.output or outputs[0].name
        self._image = ImageInput(file, spec.image, inputs)
        names = [tensor_spec.name for tensor_spec in outputs]
        if wanted not in names:
            raise ModelError(file, "embedding.output", f"there is no output {wanted!r}; allowed: {', '.join(names)}")
        self._output = outputs[names.index(wanted)]
        if not self._output.is_fixed or self._output.datatype == "BOOL" or 0 in self._output.shape:
            shape = f"{self._output.datatype} {list(self._output.shape)}"
            raise ModelError(file, "task", f"the output {wanted!r} is {shape}; allowed: numbers of a fixed shape")

    def preprocess(self, kind: str, data: bytes, parameters: Mapping[str, Any]) -> dict[str, Array]:  # noqa: ARG002 - one kind
        """The image; raises Refused for the parameters and for the image."""
        _encoding(parameters)
        return self._image.preprocess(data)[0]

    def postprocess(self, outputs: Mapping[str, Array], parameters: Mapping[str, Any]) -> dict[str, Any]:
        """As many digits as tell float32 apart; raises Refused("inference_failed") for what is no vector."""
        vector = outputs[self._output.name].ravel().astype(np.float32)
        if self.spec.embedding.normalize:
            length = np.linalg.norm(vector.astype(np.float64))
            if length == 0:
                raise Refused("inference_failed", "the model's answer to this image is all zeros: it has no direction")
            vector = (vector / length).astype(np.float32)
        if not np.isfinite(vector).all():
            raise Refused("inference_failed", "the model's answer to this image is not a number")
        if _encoding(parameters) == "base64":
            return {"embedding": base64.b64encode(vector.astype("<f4").tobytes()).decode(), "dimensions": vector.size}
        return {"embedding": [float(text) for text in vector.astype(str)], "dimensions": vector.size}


def _encoding(parameters: Mapping[str, Any]) -> str:
    refuse_unknown(parameters, ("encoding",))
    encoding = parameters.get("encoding", "float")
    if encoding not in _ENCODINGS:
        allowed = ", ".join(_ENCODINGS)
        raise Refused("invalid_request", f"parameter 'encoding' is {describe_value(encoding)}; allowed: {allowed}")
    return str(encoding)
