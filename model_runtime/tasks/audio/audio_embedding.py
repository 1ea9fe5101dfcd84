"""Task `audio-embedding`: convert audio to a vector for search and comparison, normalized by default."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from model_runtime.spec.model_toml import SPEC_FILE, ModelError, ModelSpec
from model_runtime.tasks.answers import VECTOR_ENCODINGS, read_choice, to_embedding
from model_runtime.tasks.audio.audio_task import AudioTask
from model_runtime.tasks.task import read_encoding
from model_runtime.tensor_spec import Array, TensorSpec


class AudioEmbedding(AudioTask):
    """`task = "audio-embedding"`: one output has the vector.

    Returns {"embedding": [...], "dimensions": n}. Parameter `encoding`: "float", or "base64" for the bytes of
    little-endian float32 numbers.
    """

    def __init__(
        self, spec: ModelSpec, folder: Path, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
    ) -> None:
        super().__init__(spec, folder, inputs, outputs)
        if self.size is None:
            reason = "the size of the vector is free; allowed: an output whose last dimension is fixed"
            raise ModelError(folder / SPEC_FILE, "task", reason)

    def output_name(self) -> str | None:
        """Return the name of the output that is answered, None for the first one."""
        return self.spec.embedding.output

    def check_parameters(self, parameters: Mapping[str, Any]) -> None:
        """Raise Refused for parameters that the task does not take."""
        read_encoding(parameters, VECTOR_ENCODINGS)

    def answer(self, values: Array, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Return the vector with all digits of float32."""
        encoding = read_choice(parameters, "encoding", VECTOR_ENCODINGS)
        return to_embedding(values, encoding, "audio", normalize=self.spec.embedding.normalize)
