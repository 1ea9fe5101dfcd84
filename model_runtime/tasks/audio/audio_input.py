"""Check `[audio]` against a model's input, and turn audio files into arrays for it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from jobs.contract.errors import Refused
from model_runtime.audio.decode import decode_audio, load_libraries
from model_runtime.spec.audio import AudioSpec
from model_runtime.spec.model_toml import SPEC_FILE, ModelError
from model_runtime.tensor_spec import DTYPES, Array, TensorSpec

_FLOATS: Final = ("FP16", "FP32", "FP64")
_INT16_RANGE: Final = 32_768
_VARIANCE_FLOOR: Final = 1e-7  # so that silence can be normalized
SECOND: Final = 16
_SEED: Final = 7


class AudioInput:
    """The audio input of a model: samples of one channel, `[samples]` or `[1, samples]` for each item."""

    def __init__(self, folder: Path, spec: AudioSpec, inputs: Sequence[TensorSpec]) -> None:
        """Raise ModelError if `[audio]` does not match the inputs, or if the libraries for audio are missing."""
        file = folder / SPEC_FILE
        self._spec, self._tensor_spec = spec, _match_input(file, spec, inputs)
        if spec.sample_rate is None:
            reason = "missing: set the sample rate that the model was trained with, in samples a second"
            raise ModelError(file, "audio.sample_rate", reason)
        self._rate: int = spec.sample_rate
        self._length = _fixed_length(file, spec, self._tensor_spec)
        self._limit = self._length or max(1, int(spec.max_seconds * self._rate))
        shape = (*self._tensor_spec.shape[:-1], self._length or -1)
        self.row_shapes = {self._tensor_spec.name: shape}
        try:
            load_libraries()
        except (ImportError, OSError) as error:  # soundfile raises OSError without libsndfile
            reason = f"audio needs the packages soundfile and soxr: {error}; allowed: jitney[audio], which has them"
            raise ModelError(file, "task", reason) from error

    def preprocess(self, data: bytes) -> tuple[dict[str, Array], dict[str, Any]]:
        """Return the array of one audio file, and how many seconds of it the model sees. Raises Refused."""
        decoded = decode_audio(data, self._rate, self._limit, cut=self._spec.fit == "pad-or-cut")
        samples = decoded.samples
        if self._spec.fit == "exact" and self._length not in {None, len(samples)}:
            found = f"the audio has {len(samples)} samples at {self._rate} Hz"
            raise Refused("invalid_input", f"{found}; the model takes {self._length}", limit=self._length)
        notes = {"seconds": round(len(samples) / self._rate, 6), "truncated": decoded.is_cut}
        return {self._tensor_spec.name: self._to_array(samples)}, notes

    def make_rows(self, lengths: Sequence[int]) -> list[dict[str, Array]]:
        """Return rows of noise. `lengths`: in parts of a second, of which SECOND are one; a fixed length stays so."""
        random = np.random.default_rng(_SEED)
        sizes = [self._length or min(self._rate * length // SECOND, self._limit) for length in lengths]
        noise = (random.uniform(-0.5, 0.5, size).astype(np.float32) for size in sizes)
        return [{self._tensor_spec.name: self._to_array(samples)} for samples in noise]

    def _to_array(self, samples: Array) -> Array:
        if self._spec.normalize:
            samples = (samples - samples.mean()) / np.sqrt(samples.var() + _VARIANCE_FLOOR)
        array = np.zeros(self._length or len(samples), np.float32)
        array[: len(samples)] = samples
        if self._tensor_spec.datatype == "INT16":
            array = np.clip(np.rint(array * _INT16_RANGE), -_INT16_RANGE, _INT16_RANGE - 1)
        elif self._spec.scale != 1:
            array *= np.float32(self._spec.scale)
        shape = (*self._tensor_spec.shape[:-1], len(array))
        return array.astype(DTYPES[self._tensor_spec.datatype], copy=False).reshape(shape)


def _match_input(file: Path, spec: AudioSpec, inputs: Sequence[TensorSpec]) -> TensorSpec:
    """Return the audio input. Raises ModelError."""
    shapes = [tensor_spec.shape for tensor_spec in inputs]
    if len(inputs) != 1 or not (len(shapes[0]) == 1 or (len(shapes[0]) == 2 and shapes[0][0] == 1)):
        found = ", ".join(f"{tensor_spec.name} {list(tensor_spec.shape)}" for tensor_spec in inputs)
        allowed = 'one input of [samples] or [1, samples]; batch_axis = "none" if the model has no batch dimension'
        raise ModelError(file, "task", f"the model takes {found} for each audio; allowed: {allowed}")
    (tensor_spec,) = inputs
    if tensor_spec.datatype not in {*_FLOATS, "INT16"}:
        allowed = ", ".join([*_FLOATS, "INT16"])
        raise ModelError(file, "task", f"the audio input is {tensor_spec.datatype}; allowed: {allowed}")
    if tensor_spec.datatype == "INT16" and (spec.normalize or spec.scale != 1):
        raise ModelError(file, "audio", "the input takes INT16 samples; allowed: no normalize, no scale")
    return tensor_spec


def _fixed_length(file: Path, spec: AudioSpec, tensor_spec: TensorSpec) -> int | None:
    """Return the samples that every row has, None if the model takes any number. Raises ModelError."""
    size = tensor_spec.shape[-1]
    if size == 0:
        raise ModelError(file, "task", "the audio input has 0 samples; allowed: one or more, or any number")
    if spec.samples is not None and size not in {-1, spec.samples}:
        raise ModelError(file, "audio.samples", f"is {spec.samples}, but the input has {size}; allowed: {size}")
    length = spec.samples or (size if size > 0 else None)
    for key, needs_length in (("fit", True), ("max_seconds", False)):
        if key in spec.model_fields_set and needs_length != (length is not None):
            fixed = f"the model takes a fixed number of samples, {length}: remove this key, and set fit instead"
            reason = "it needs a fixed length: set samples too, or remove this key" if needs_length else fixed
            raise ModelError(file, f"audio.{key}", reason)
    return length
