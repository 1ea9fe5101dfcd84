"""Task `image-segmentation`: return the class of each pixel of the picture, in the picture's own size."""

from collections.abc import Mapping, Sequence
from math import inf, log
from pathlib import Path
from typing import Any, Final

import numpy as np

from jobs.contract.errors import Refused
from model_runtime.images.geometry import compute_placement
from model_runtime.images.mask import MAX_CLASSES, NO_CLASS, mask_strips
from model_runtime.images.mask_formats import EncodedMask, encode_png, encode_runs
from model_runtime.output_encoding import Base64
from model_runtime.spec.model_toml import SPEC_FILE, ModelError, ModelSpec
from model_runtime.tasks.answers import check_finite, read_choice, read_number
from model_runtime.tasks.image_input import ImageInput, read_labels, wrong_labels
from model_runtime.tasks.task import Task, refuse_unknown
from model_runtime.tensor_spec import DTYPES, Array, TensorSpec

FORMATS: Final = ("png", "rle")
_SIZE: Final = ".size"  # of the image: passed from `preprocess` to `postprocess`


class ImageSegmentation(Task):
    """`task = "image-segmentation"`: one image input; an output of scores of classes, or of classes, for each cell.

    Floats [classes, h, w], or by `layout` [h, w, classes], are scores; of one class, or [h, w], they are those of the
    foreground, and the classes are 0 and 1. Integers and booleans [h, w] are classes.

    Returns {"format", "width", "height", "mask", "classes": [{"label", "index", "pixels", "share"}, ...]}, the largest
    class first. `mask`: a PNG in base64; with the parameter `format` = "rle" there is none, and each class has `rle`,
    {"size": [height, width], "counts": text}. Parameters: `format`, and of one class `threshold`.
    """

    kinds = frozenset({"image"})
    is_slow = True

    def __init__(
        self, spec: ModelSpec, folder: Path, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
    ) -> None:
        super().__init__(spec, folder, inputs, outputs)
        file, self._spec = folder / SPEC_FILE, spec.segmentation
        self._image = ImageInput(file, spec.image, inputs)
        self.row_shapes = self._image.row_shapes
        self._output = _find_output(file, self._spec.output, outputs)
        self._axis = 0 if self._spec.layout == "NCHW" else 2  # of the classes, if there is one
        self._has_scores = DTYPES[self._output.datatype].kind == "f"
        classes = self._output.shape[self._axis] if len(self._output.shape) == 3 else 1
        self._check_classes(file, classes)
        self._is_binary = self._has_scores and classes == 1
        self._labels = read_labels(file, folder, "segmentation.labels", self._spec.labels, self._output)
        if self._labels is not None:
            self.label_count, expected = len(self._labels), 2 if self._is_binary else classes
            if self._has_scores and self.label_count != expected != -1:
                what = "2 classes, background and foreground" if self._is_binary else f"{classes} classes"
                raise wrong_labels(file, "segmentation.labels", self._spec.labels, self.label_count, what)

    def preprocess(self, kind: str, data: bytes, parameters: dict[str, Any]) -> dict[str, Array]:  # noqa: ARG002 - one kind
        """Return the array of one image. Raises Refused for invalid parameters or an invalid image."""
        refuse_unknown(parameters, ("format", "threshold") if self._is_binary else ("format",))
        self._read_threshold(parameters)
        read_choice(parameters, "format", FORMATS)
        arrays, picture = self._image.preprocess(data)
        parameters[_SIZE] = (picture.width, picture.height)
        return arrays

    def postprocess(self, outputs: Mapping[str, Array], parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Return the mask and its classes. Raises Refused("inference_failed") for NaN, and for a class above 255."""
        (width, height), form = parameters[_SIZE], read_choice(parameters, "format", FORMATS)
        placement = compute_placement((width, height), self._image.spec)
        strips = mask_strips(self._read(outputs), placement, self._read_threshold(parameters))
        encoded = (encode_png if form == "png" else encode_runs)(strips, width, height)
        mask = {"mask": Base64(np.frombuffer(encoded.png, np.uint8))} if form == "png" else {}
        classes = [self._class(number, encoded, width, height) for number in encoded.areas]
        classes.sort(key=lambda each: -int(each["pixels"]))
        return {"format": form, "width": width, "height": height, **mask, "classes": classes}

    def class_map(self, outputs: Mapping[str, Array]) -> Array:
        """Return the class of each cell [h, w] by the model's own threshold. Raises as `postprocess` does."""
        cells = self._read(outputs)
        if cells.ndim == 2:
            return cells
        classes: Array = cells[0] >= self._read_threshold({}) if len(cells) == 1 else cells.argmax(axis=0)
        return classes

    def _read(self, outputs: Mapping[str, Array]) -> Array:
        """Return scores float32 [classes, h, w], or classes uint8 [h, w]."""
        array = outputs[self._output.name]
        if not self._has_scores:
            cells = array if array.ndim == 2 else array.take(0, self._axis)
            if not (cells.size and 0 <= int(cells.min()) <= int(cells.max()) <= NO_CLASS):
                message = f"the model's output for this image is {list(array.shape)}, or has another class"
                raise Refused("inference_failed", f"{message}; allowed: the classes 0 to {NO_CLASS}")
            return cells.astype(np.uint8)
        scores = array[np.newaxis] if array.ndim == 2 else np.moveaxis(array, self._axis, 0)
        if 0 in scores.shape or len(scores) > MAX_CLASSES:
            message = f"the model's output for this image is {list(array.shape)}"
            raise Refused("inference_failed", f"{message}; allowed: 1 to {MAX_CLASSES} classes, and cells")
        check_finite(scores, "image")
        return np.ascontiguousarray(scores, np.float32)

    def _read_threshold(self, parameters: Mapping[str, Any]) -> float:
        """Return the threshold for the model's own numbers."""
        threshold = read_number(parameters, "threshold", self._spec.threshold, 0, 1)
        if self._spec.scores == "probability":
            return threshold
        return log(threshold / (1 - threshold)) if 0 < threshold < 1 else inf if threshold else -inf

    def _class(self, number: int, encoded: EncodedMask, width: int, height: int) -> dict[str, Any]:
        label = self._labels[number] if self._labels is not None and number < len(self._labels) else str(number)
        pixels = encoded.areas[number]
        shown = {"label": label, "index": number, "pixels": pixels, "share": round(pixels / (width * height), 6)}
        runs = encoded.runs.get(number)
        return shown if runs is None else {**shown, "rle": {"size": [height, width], "counts": runs}}

    def _check_classes(self, file: Path, classes: int) -> None:
        shape, is_last = list(self._output.shape), self._axis == 2
        if self._has_scores and classes != -1 and not 1 <= classes <= MAX_CLASSES:
            form = "[h, w, classes]" if is_last else "[classes, h, w]"
            reason = f"output {self._output.name!r} is {shape} per row, read as {form}"
            allowed = f"allowed: 1 to {MAX_CLASSES} classes, and another layout, or output"
            raise ModelError(file, "segmentation.layout", f"{reason}; {allowed}")
        if not self._has_scores and classes not in {-1, 1}:
            reason = f"output {self._output.name!r} is {self._output.datatype} {shape} per row"
            raise ModelError(file, "segmentation.output", f"{reason}; allowed: integers [h, w], or scores as floats")


def _find_output(file: Path, name: str | None, outputs: Sequence[TensorSpec]) -> TensorSpec:
    by_name = {tensor_spec.name: tensor_spec for tensor_spec in outputs}
    found = by_name.get(outputs[0].name if name is None else name)
    if found is None:
        raise ModelError(file, "segmentation.output", f"there is no output {name!r}; allowed: {', '.join(by_name)}")
    if len(found.shape) not in {2, 3} or DTYPES[found.datatype].kind == "O" or 0 in found.shape:
        shape = f"{found.datatype} {list(found.shape)}"
        reason = f"the output {found.name!r} is {shape} per row; allowed: [classes, h, w] or [h, w]"
        raise ModelError(file, "segmentation.output", reason)
    return found
