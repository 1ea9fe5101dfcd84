"""Task `text-embedding`: convert a text to a vector for search and comparison, pooled from those of its tokens."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np

from jobs.contract.errors import Refused
from jobs.contract.json_reader import describe_value
from model_runtime.output_encoding import encode_rows
from model_runtime.spec.model_toml import ModelError, ModelSpec
from model_runtime.tasks.answers import VECTOR_ENCODINGS, read_choice, to_embedding
from model_runtime.tasks.text.text_task import TextTask
from model_runtime.tensor_spec import Array, TensorSpec


class TextEmbedding(TextTask):
    """`task = "text-embedding"`: the output is a vector for each token, or for the text.

    Returns {"embedding": [...], "dimensions": n}. Parameters: `encoding` ("float", or "base64" for the bytes of
    little-endian float32 numbers), `dimensions` (the first ones, scaled to length 1 again), `prompt` (a name).
    """

    input_fields = ("texts", "tokens")
    parameter_names = ("encoding", "dimensions", "prompt")
    encodes_padded = True

    def __init__(
        self, spec: ModelSpec, folder: Path, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
    ) -> None:
        super().__init__(spec, folder, inputs, outputs)
        rank = len(self.output.shape)
        if rank not in {1, 2} or 0 in self.output.shape:
            reason = f"{self.output.name!r} is {list(self.output.shape)} per text"
            raise ModelError(self.file, "text.output", f"{reason}; allowed: a vector for each token, or for the text")
        if rank == 1 and spec.text.pooling is not None:
            reason = f"the output {self.output.name!r} has no tokens to pool; allowed: no such key"
            raise ModelError(self.file, "text.pooling", reason)
        if rank == 2:
            self._pooling = self.settings.pooling()
            self.settings.check_modules()
        self._normalize = self.settings.normalize()
        self._prompts, self._default_prompt = self.settings.prompts()
        self._size = self.output.shape[-1] if self.output.shape[-1] > 0 else None
        pooling = {"pooling": self._pooling} if rank == 2 else {}
        named = {"prompts": dict(self._prompts)} if self._prompts else {}
        self.from_file = [*self.from_file, *self.taken(pooling | {"normalize": self._normalize} | named)]

    def check_parameters(self, parameters: Mapping[str, Any]) -> None:
        """Raise Refused for parameters that do not fit the model."""
        super().check_parameters(parameters)
        if not parameters:
            return
        read_choice(parameters, "encoding", VECTOR_ENCODINGS)
        self._dimensions(parameters, self._size)
        if "prompt" in parameters and parameters["prompt"] not in [*self._prompts]:
            known = ", ".join(self._prompts) or "none, as the model has no prompts"
            message = f"parameter 'prompt' is {describe_value(parameters['prompt'])}; allowed: {known}"
            raise Refused("invalid_request", message)

    def texts(self, fields: Mapping[str, Any], parameters: Mapping[str, Any]) -> Sequence[tuple[str, str | None]]:
        """Return the texts behind the prompt."""
        prompt = self._prompts[parameters["prompt"]] if "prompt" in parameters else self._default_prompt
        return [(prompt + text, None) for text in fields["texts"]]

    def answer(self, values: Array, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Return the vector. Raises Refused("inference_failed") for zeros or NaN."""
        vector = values if values.ndim == 1 else self._pool(values)
        vector = vector[: self._dimensions(parameters, vector.size)]
        encoding = read_choice(parameters, "encoding", VECTOR_ENCODINGS)
        return to_embedding(vector, encoding, "text", normalize=self._normalize)

    def encode_batch(self, outputs: Mapping[str, Array], parameters: Sequence[Mapping[str, Any]]) -> list[bytes] | None:
        """Return the JSON of each row of a batch; None if some are shortened, or if a vector is refused."""
        if any("dimensions" in each for each in parameters):
            return None
        counts = np.array([each[".tokens"] for each in parameters])
        vectors = self._pool_batch(outputs[self.output.name], counts).astype(np.float32, copy=False)
        if self._normalize:
            with np.errstate(divide="ignore", invalid="ignore"):  # zeros, which are refused one by one
                vectors = vectors / np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
            vectors = vectors.astype(np.float32)
        if not np.isfinite(vectors).all():  # also the quotients of zeros
            return None
        is_base64 = [each.get("encoding") == "base64" for each in parameters]
        numbers = repeat(b"") if all(is_base64) else encode_rows(vectors)
        tail = b',"dimensions":%d,"tokens":%%d,"truncated":%%b}' % vectors.shape[1]
        return [
            b'{"embedding":'
            + (b'"%b"' % b64encode(vector.astype("<f4")) if as_text else b"[%b]" % text)
            + tail % (each[".tokens"], b"true" if each[".truncated"] else b"false")
            for vector, text, as_text, each in zip(vectors, numbers, is_base64, parameters, strict=False)
        ]

    def _pool_batch(self, values: Array, counts: Array) -> Array:
        """Return the vectors of rows of these numbers of tokens; padding may hold anything, also NaN."""
        if values.ndim == 2:
            return values
        if self._pooling == "mean":
            content = values[np.arange(values.shape[1]) < counts[:, np.newaxis]].astype(np.float32, copy=False)
            starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
            sums: Array = np.add.reduceat(content, starts, axis=0)
            return sums / counts[:, np.newaxis].astype(np.float32)
        vectors: Array = values[np.arange(len(values)), 0 if self._pooling == "cls" else counts - 1]
        return vectors

    def _pool(self, values: Array) -> Array:
        if self._pooling == "mean":
            mean: Array = values.mean(axis=0, dtype=np.float32)
            return mean
        vector: Array = values[0 if self._pooling == "cls" else -1]
        return vector

    def _dimensions(self, parameters: Mapping[str, Any], size: int | None) -> int | None:
        dimensions = parameters.get("dimensions", size)
        if dimensions is None or (type(dimensions) is int and 1 <= dimensions <= (size or dimensions)):
            return dimensions
        message = f"parameter 'dimensions' is {describe_value(dimensions)}; allowed: a whole number from 1"
        raise Refused("invalid_request", f"{message} to {size}" if size else message)
