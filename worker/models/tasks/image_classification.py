"""Which of the classes is in the picture: decodes by `[image]`, answers the most probable labels.

Decides at load whether pipeline, model and labels fit one another, so that no request finds out.
"""

from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any, Final

import numpy as np

from jobs.errors import Refused
from worker.models.confines import check_file
from worker.models.image_spec import SIDE_LIMIT, ImageSpec
from worker.models.images import decode, to_array, to_pixels
from worker.models.port import DTYPES, Array, Port
from worker.models.spec import SPEC_FILE, ModelError, ModelSpec
from worker.models.tasks.task import Task, refuse_unknown

_PIXEL_TYPES: Final = ("UINT8", "FP16", "FP32", "FP64")


class ImageClassification(Task):
    """`task = "image-classification"`: one image input; the first output holds one number per class.

    Answers {"predictions": [{"label", "index", "probability"}, ...]}, most probable first. Parameter: `top_k`.
    """

    kinds = frozenset({"image"})
    offload = True

    def __init__(self, spec: ModelSpec, folder: Path, inputs: Sequence[Port], outputs: Sequence[Port]) -> None:
        super().__init__(spec, folder, inputs, outputs)
        file = folder / SPEC_FILE
        self._input, self._image = _pipeline(file, spec.image, inputs)
        self._output = outputs[0]
        self._classes = _class_count(file, self._output)
        self._labels = _read_labels(file, folder, spec.classification.labels)
        if self._labels is not None:
            self.label_count = len(self._labels)
            if self._classes not in {None, self.label_count}:
                reason = (
                    f"{len(self._labels)} labels, but the model has {self._classes} classes; allowed: a line per class"
                )
                raise ModelError(folder / str(spec.classification.labels), None, reason)
            self._classes = self.label_count

    def prepare(self, kind: str, data: bytes, parameters: Mapping[str, Any]) -> dict[str, Array]:  # noqa: ARG002 - one kind
        """One array of the model's type and layout; raises Refused for the parameters and for the image."""
        self._top_k(parameters)
        image = decode(data, self._image)
        if self._input.datatype == "UINT8":
            return {self._input.name: np.ascontiguousarray(to_pixels(image, self._image))}
        array = to_array(image, self._image)
        return {self._input.name: array.astype(DTYPES[self._input.datatype], copy=False)}

    def present(self, outputs: Mapping[str, Array], parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Probabilities are plain floats of 6 digits; raises Refused("inference_failed") for an answer of NaN."""
        numbers = outputs[self._output.name].ravel().astype(np.float32)
        if self.spec.classification.softmax:
            numbers = _softmax(numbers)
        if not np.isfinite(numbers).all():
            raise Refused("inference_failed", "the model's answer to this image is not a number")
        best = np.argsort(-numbers, kind="stable")[: self._top_k(parameters)]
        return {"predictions": [self._prediction(int(index), float(numbers[index])) for index in best]}

    def _prediction(self, index: int, probability: float) -> dict[str, Any]:
        label = self._labels[index] if self._labels is not None and index < len(self._labels) else str(index)
        return {"label": label, "index": index, "probability": round(probability, 6)}

    def _top_k(self, parameters: Mapping[str, Any]) -> int:
        refuse_unknown(parameters, ("top_k",))
        top_k = parameters.get("top_k", self.spec.classification.top_k)
        if isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 1:
            raise self._bad_top_k(top_k)
        if "top_k" in parameters and self._classes is not None and top_k > self._classes:
            raise self._bad_top_k(top_k)
        return top_k

    def _bad_top_k(self, got: object) -> Refused:
        allowed = f"a whole number from 1 to {self._classes or 'the number of classes'}"
        shown = got if isinstance(got, int | float) else f"a {type(got).__name__}"
        return Refused("invalid_request", f"parameter 'top_k' is {shown}; allowed: {allowed}")


def _softmax(scores: Array) -> Array:
    with np.errstate(invalid="ignore"):  # infinity less infinity: the caller looks for NaN
        powers = np.exp(scores - scores.max())
    result: Array = powers / powers.sum()
    return result


def _pipeline(file: Path, image: ImageSpec, inputs: Sequence[Port]) -> tuple[Port, ImageSpec]:
    """The image input, and the pipeline with its size settled; raises ModelError where they do not fit."""
    if len(inputs) != 1 or len(inputs[0].shape) != 3:
        shapes = ", ".join(f"{port.name} {list(port.shape)}" for port in inputs)
        raise ModelError(file, "task", f"the model takes {shapes}; allowed for images: one input of 3 dimensions a row")
    port = inputs[0]
    if port.datatype not in _PIXEL_TYPES:
        raise ModelError(file, "task", f"the image input is {port.datatype}; allowed: {', '.join(_PIXEL_TYPES)}")
    if port.datatype == "UINT8" and image.is_normalising:
        reason = "the input takes UINT8 pixels as they are; allowed: no preset, scale, mean or std"
        raise ModelError(file, "image", reason)
    image = _sized(file, image, port)
    height, width = image.size or (-1, -1)
    made = (image.channels, height, width) if image.layout == "NCHW" else (height, width, image.channels)
    if not port.fits(made):
        order = "channels, height, width" if image.layout == "NCHW" else "height, width, channels"
        reason = f"makes {list(made)} ({order}), but the input {port.name!r} is {list(port.shape)}"
        raise ModelError(file, "image", f"{reason}; allowed: resize, crop, color and layout that agree with it")
    return port, image


def _sized(file: Path, image: ImageSpec, port: Port) -> ImageSpec:
    if image.size is not None:
        return image
    if image.resize is not None:
        raise ModelError(
            file, "image.resize", "a shorter side leaves the other open; allowed: crop beside it, or [h, w]"
        )
    height, width = port.shape[1:] if image.layout == "NCHW" else port.shape[:2]
    if not (1 <= height <= SIDE_LIMIT and 1 <= width <= SIDE_LIMIT):
        raise ModelError(file, "image.resize", "missing, and the model's own size is open; allowed: [height, width]")
    return image.model_copy(update={"resize": (height, width)})


def _class_count(file: Path, output: Port) -> int | None:
    """The one dimension that is not 1; None where it is open."""
    if output.datatype == "BOOL" or sum(side != 1 for side in output.shape) > 1 or 0 in output.shape:
        shape = f"{output.datatype} {list(output.shape)}"
        raise ModelError(file, "task", f"the output {output.name!r} is {shape}; allowed: a number per class")
    return prod(output.shape) if output.is_fixed else None


def _read_labels(file: Path, folder: Path, name: str | None) -> list[str] | None:
    if name is None:
        return None
    path = folder / name
    check_file(folder, path, "classification.labels", file)
    try:
        text = path.read_text(encoding="utf-8-sig").rstrip()
    except OSError as error:
        raise ModelError(path, None, f"can not be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ModelError(path, None, "is not text in UTF-8") from error
    return [line.strip() for line in text.split("\n")]
