"""Audio files for tests, and small models for audio whose answers are known by construction."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray
from onnx import TensorProto

from tests.support.model_files.graphs import Shape, Values, int64_constant, node, write

RATE = 16_000
FRAME = 160  # samples of a frame of `framed`
LABELS = ("loud", "quiet", "even")

Samples = NDArray[np.float32]


def sine(hertz: float, seconds: float = 1.0, rate: int = RATE, amplitude: float = 0.5) -> Samples:
    """A tone of one channel."""
    times = np.arange(round(seconds * rate)) / rate
    return (amplitude * np.sin(2 * np.pi * hertz * times)).astype(np.float32)


def encode(samples: NDArray[Any], rate: int = RATE, file_format: str = "WAV", encoding: str | None = None) -> bytes:
    """An audio file of samples [frames], or [frames, channels]."""
    file, channels = io.BytesIO(), samples.shape[1] if samples.ndim == 2 else 1
    with soundfile.SoundFile(file, "w", rate, channels, format=file_format, subtype=encoding) as sound:
        for start in range(0, len(samples), RATE):  # libsndfile's encoder of Vorbis crashes on very long blocks
            sound.write(samples[start : start + RATE])
    return file.getvalue()


def steps(*levels: float, each: int = RATE // 4) -> bytes:
    """A WAV file of the model's rate with this number of samples at each level; levels of n / 32768 are exact."""
    return encode(np.repeat(np.array(levels, np.float32), each))


def statistics(
    models_dir: Path, name: str = "statistics", toml: str = "", samples: int | str = "samples", kind: int | None = None
) -> Path:
    """Lay out a model that answers the mean, the largest and the smallest sample: x [N, samples] → y [N, 3]."""
    nodes = [
        node("Cast", ["x"], ["numbers"], to=TensorProto.FLOAT),
        *(node(f"Reduce{how}", ["numbers"], [how], axes=[1], keepdims=1) for how in ("Mean", "Max", "Min")),
        node("Concat", ["Mean", "Max", "Min"], ["y"], axis=1),
    ]
    kinds = {"x": kind or TensorProto.FLOAT}
    write(models_dir / name / "1" / "model.onnx", nodes, {"x": ["N", samples]}, {"y": ["N", 3]}, kinds=kinds)
    (models_dir / name / "model.toml").write_text(toml)
    return models_dir / name


def masked(models_dir: Path, name: str = "masked", toml: str = "", *, frames: bool = False) -> Path:
    """Lay out a model that answers the mean of the samples that its mask shows, and that of their squares.

    x, mask [N, samples] → y [N, 2]; with `frames` also each sample, masked, first: z [N, samples, 1].
    """
    nodes = [
        node("Mul", ["x", "mask"], ["shown"]),
        node("Mul", ["shown", "shown"], ["squares"]),
        node("ReduceSum", ["mask", "axis"], ["count"], keepdims=1),
        *(node("ReduceSum", [each, "axis"], [f"{each}_sum"], keepdims=1) for each in ("shown", "squares")),
        *(node("Div", [f"{each}_sum", "count"], [f"{each}_mean"]) for each in ("shown", "squares")),
        node("Concat", ["shown_mean", "squares_mean"], ["y"], axis=1),
    ]
    outputs: dict[str, Shape] = {"y": ["N", 2]}
    constants: dict[str, Values] = {"axis": int64_constant(1)}
    if frames:
        nodes.append(node("Unsqueeze", ["shown", "last"], ["z"]))
        outputs, constants = {"z": ["N", "samples", 1], **outputs}, {**constants, "last": int64_constant(2)}
    inputs: dict[str, Shape] = {"x": ["N", "samples"], "mask": ["N", "samples"]}
    write(models_dir / name / "1" / "model.onnx", nodes, inputs, outputs, constants)
    (models_dir / name / "model.toml").write_text(toml)
    return models_dir / name


def framed(models_dir: Path, name: str = "framed", toml: str = "") -> Path:
    """Lay out a model without a batch dimension that answers, of each frame, the mean times 1, 2 and 4.

    waveform [samples] → scores [frames, 3].
    """
    nodes = [
        node("Reshape", ["waveform", "frame"], ["frames"]),
        node("ReduceMean", ["frames"], ["means"], axes=[1], keepdims=1),
        node("Mul", ["means", "weights"], ["scores"]),
    ]
    constants: dict[str, Values] = {"frame": int64_constant(-1, FRAME), "weights": np.array([[1, 2, 4]], np.float32)}
    path = models_dir / name / "1" / "model.onnx"
    write(path, nodes, {"waveform": ["samples"]}, {"scores": ["frames", 3]}, constants)
    (models_dir / name / "model.toml").write_text(toml)
    return models_dir / name
