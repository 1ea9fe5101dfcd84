"""The base of the tasks for audio: one audio input, and an output whose frames in time are averaged."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jobs.contract.errors import Refused
from model_runtime.spec.model_toml import SPEC_FILE, ModelError, ModelSpec
from model_runtime.tasks.audio.audio_input import SECOND, AudioInput
from model_runtime.tasks.classes import find_output
from model_runtime.tasks.task import Task
from model_runtime.tensor_spec import Array, TensorSpec


class AudioTask(Task):
    """Base of the tasks for audio: the output has numbers for the audio, or for each of its frames in time.

    Each answer has `seconds`, how much of the audio the model saw, and `truncated`: whether some was left out.
    """

    kinds = frozenset({"audio"})

    def __init__(
        self, spec: ModelSpec, folder: Path, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
    ) -> None:
        super().__init__(spec, folder, inputs, outputs)
        self._audio = AudioInput(folder, spec.audio, inputs)
        self.row_shapes = self._audio.row_shapes
        file = folder / SPEC_FILE
        self._output = found = find_output(file, "embedding.output", self.output_name(), outputs)
        if len(found.shape) not in {1, 2} or found.datatype in {"BOOL", "BYTES"} or 0 in found.shape:
            reason = f"the output {found.name!r} is {found.datatype} {list(found.shape)} for each audio"
            raise ModelError(file, "task", f"{reason}; allowed: numbers for it, or for each of its frames")
        self.size = found.shape[-1] if found.shape[-1] > 0 else None

    def output_name(self) -> str | None:
        """Return the name of the output that is answered, None for the first one."""
        return None

    @abstractmethod
    def check_parameters(self, parameters: Mapping[str, Any]) -> None:
        """Raise Refused for parameters that the task does not take."""

    @abstractmethod
    def answer(self, values: Array, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Return the answer for the numbers of one audio. Raises Refused("inference_failed")."""

    def preprocess(self, kind: str, data: bytes, parameters: dict[str, Any]) -> dict[str, Array]:  # noqa: ARG002 - one kind
        """Return the array of one audio. Raises Refused for invalid parameters or invalid audio."""
        self.check_parameters(parameters)
        arrays, parameters[".seen"] = self._audio.preprocess(data)
        return arrays

    def postprocess(self, outputs: Mapping[str, Array], parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Return the answer for one audio."""
        values = outputs[self._output.name]
        if not len(values):
            raise Refused("inference_failed", "the model returned no frame for this audio")
        values = values.mean(axis=0, dtype=np.float32) if values.ndim == 2 else values
        return {**self.answer(values, parameters), **parameters[".seen"]}

    def make_rows(self, count: int) -> Sequence[dict[str, Array]]:
        """Return rows of noise."""
        return self._audio.make_rows([SECOND] * count)

    def make_rows_of(self, lengths: Sequence[int]) -> Sequence[dict[str, Array]]:
        """Return rows of noise whose lengths are in this proportion: models take no audio of a few samples."""
        return self._audio.make_rows(lengths)
