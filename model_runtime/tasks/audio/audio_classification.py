"""Task `audio-classification`: return the most probable labels of audio."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from model_runtime.spec.model_toml import ModelSpec
from model_runtime.tasks.audio.audio_task import AudioTask
from model_runtime.tasks.classes import Classes
from model_runtime.tasks.task import refuse_unknown
from model_runtime.tensor_spec import Array, TensorSpec


class AudioClassification(AudioTask):
    """`task = "audio-classification"`: the first output has one number per class.

    Returns {"predictions": [{"label", "index", "probability"}, ...]}, most probable first. Parameter: `top_k`.
    """

    def __init__(
        self, spec: ModelSpec, folder: Path, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
    ) -> None:
        super().__init__(spec, folder, inputs, outputs)
        self._classes = Classes(folder, spec.classification, self.size, self._output)
        self.label_count = self._classes.label_count

    def check_parameters(self, parameters: Mapping[str, Any]) -> None:
        """Raise Refused for parameters that the task does not take."""
        refuse_unknown(parameters, ("top_k",))
        self._classes.top_k(parameters)

    def answer(self, values: Array, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Return the best classes."""
        return {"predictions": self._classes.predictions(values, parameters, "audio")}
