"""Task `object-detection`: return labelled boxes in pixels of the original image.

Checks at load that the outputs match `[detection]`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from jobs.contract.errors import Refused
from model_runtime.images.geometry import compute_placement
from model_runtime.spec.model_toml import SPEC_FILE, ModelError, ModelSpec
from model_runtime.tasks import boxes
from model_runtime.tasks.answers import read_number
from model_runtime.tasks.image_input import ImageInput, read_labels, wrong_labels
from model_runtime.tasks.task import Task, refuse_unknown
from model_runtime.tensor_spec import Array, TensorSpec

# Parameter → minimum, maximum, whether it is a whole number.
_LIMITS: Final = {
    "score_threshold": (0, 1, False),
    "iou_threshold": (0, 1, False),
    "max_detections": (1, 1000, True),
}
_SIZE: Final = ".size"  # of the image: passed from `preprocess` to `postprocess`
_BOX: Final = 4
_SELECTED: Final = 6  # numbers of a box that the model has selected: its corners, score and class


class ObjectDetection(Task):
    """`task = "object-detection"`: one image input; outputs as `[detection]` says.

    Returns {"detections": [{"label", "index", "score", "box": {"x", "y", "width", "height"}}, ...], "width", "height"},
    best first, in pixels of the image. Parameters: `score_threshold`, `iou_threshold`, `max_detections`.
    """

    kinds = frozenset({"image"})

    def __init__(
        self, spec: ModelSpec, folder: Path, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
    ) -> None:
        super().__init__(spec, folder, inputs, outputs)
        file, self._spec = folder / SPEC_FILE, spec.detection
        self._image = ImageInput(file, spec.image, inputs)
        self.row_shapes = self._image.row_shapes
        self._labels = read_labels(file, folder, "detection.labels", self._spec.labels, outputs[0])
        self.label_count = None if self._labels is None else len(self._labels)
        self._box = self._spec.box or ("xyxy" if self._spec.format == "box-score-class" else "cxcywh")
        self._score_offset = 5 if self._spec.format == "yolo-objectness" else _BOX  # numbers of a box before its scores
        if self._spec.format == "boxes-scores":
            self._boxes, self._scores = _pair(file, outputs)
            classes = self._scores.shape[-1]
        elif self._spec.format == "box-score-class":
            self._boxes = self._scores = outputs[0]
            _check_selected(file, outputs[0])
            if self._spec.scores == "softmax":
                reason = "softmax needs scores of several classes; allowed for box-score-class: probability, sigmoid"
                raise ModelError(file, "detection.scores", reason)
            return
        else:
            self._boxes = self._scores = outputs[0]
            self._transposed = self._is_transposed(file, outputs[0])
            classes = outputs[0].shape[0 if self._transposed else 1] - self._score_offset
        self._check_classes(file, classes - (self._spec.scores == "softmax"))

    def preprocess(self, kind: str, data: bytes, parameters: dict[str, Any]) -> dict[str, Array]:  # noqa: ARG002 - one kind
        """Return the array of one image. Raises Refused for invalid parameters or an invalid image."""
        refuse_unknown(parameters, tuple(_LIMITS))
        self._read_parameters(parameters)
        arrays, picture = self._image.preprocess(data)
        parameters[_SIZE] = (picture.width, picture.height)
        return arrays

    def postprocess(self, outputs: Mapping[str, Array], parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Return boxes rounded to 2 digits and scores to 6. Raises Refused("inference_failed") for NaN."""
        size, (min_score, max_overlap, count) = parameters[_SIZE], self._read_parameters(parameters)
        is_selected = self._spec.format == "box-score-class"
        raw, scores = self._read(outputs)
        if not (np.isfinite(raw).all() and np.isfinite(scores).all()):
            raise Refused("inference_failed", "the model's output for this image is not a number")
        placement = compute_placement(size, self._image.spec)
        sides = np.array(placement.input * 2 if self._spec.relative else (1, 1, 1, 1))
        corners = boxes.to_corners(raw[:, :_BOX], self._box) * sides
        if is_selected:
            classes = raw[:, _SELECTED - 1].astype(np.int64)
            selected = boxes.Detections(corners, classes, scores[:, 0])
            found = boxes.select_labelled(selected, min_score, max_overlap, int(count))
        else:
            found = boxes.select_boxes(corners, scores, min_score, max_overlap, int(count))
        rows = zip(boxes.to_picture(found.boxes, placement).tolist(), found.classes, found.scores, strict=True)
        shown = [self._detection(box, int(index), float(score)) for box, index, score in rows]
        return {
            "detections": [detection for detection in shown if detection is not None],
            "width": size[0],
            "height": size[1],
        }

    def _read(self, outputs: Mapping[str, Array]) -> tuple[Array, Array]:
        """Return boxes [n, 4] in their format, and probabilities [n, classes]."""
        raw, scores = (outputs[tensor_spec.name].astype(np.float64) for tensor_spec in (self._boxes, self._scores))
        if self._spec.format == "box-score-class":
            scores = raw[:, _BOX : _BOX + 1]
        elif self._spec.format != "boxes-scores":
            rows = raw.T if self._transposed else raw
            raw, scores = rows[:, :_BOX], rows[:, self._score_offset :]
        if self._spec.scores == "sigmoid":
            scores = _sigmoid(scores)
        elif self._spec.scores == "softmax":
            powers = np.exp(scores - scores.max(axis=1, keepdims=True))
            scores = (powers / powers.sum(axis=1, keepdims=True))[:, :-1]
        if self._spec.format == "yolo-objectness":
            objectness = rows[:, _BOX : self._score_offset]
            scores = scores * (_sigmoid(objectness) if self._spec.scores == "sigmoid" else objectness)
        return raw, scores

    def _detection(self, box: Sequence[float], index: int, score: float) -> dict[str, Any] | None:
        """Return one detection, or None for a box outside of the image."""
        left, top, right, bottom = box
        if right <= left or bottom <= top:
            return None
        sides = {"x": left, "y": top, "width": right - left, "height": bottom - top}
        label = self._labels[index] if self._labels is not None and 0 <= index < len(self._labels) else str(index)
        rounded = {name: round(side, 2) for name, side in sides.items()}
        return {"label": label, "index": index, "score": round(score, 6), "box": rounded}

    def _read_parameters(self, parameters: Mapping[str, Any]) -> list[float]:
        return [
            read_number(parameters, name, self._default(name), low, high, is_whole=is_whole)
            for name, (low, high, is_whole) in _LIMITS.items()
        ]

    def _default(self, name: str) -> float:
        overlap = 1.0 if self._spec.format == "box-score-class" else 0.45  # the model has suppressed overlapping boxes
        default: float | None = getattr(self._spec, name)
        return overlap if default is None else default

    def _is_transposed(self, file: Path, tensor_spec: TensorSpec) -> bool:
        """Return true if the boxes are in the second dimension. Without labels, the larger dimension has the boxes."""
        if len(tensor_spec.shape) != 2:
            shape = list(tensor_spec.shape)
            reason = (
                f"output {tensor_spec.name!r} is {shape} per row; allowed: [boxes, numbers of a box] or its transpose"
            )
            raise ModelError(file, "detection.format", reason)
        expected = self._labels and self._score_offset + len(self._labels)
        if expected in tensor_spec.shape:
            return tensor_spec.shape[0] == expected
        if -1 in tensor_spec.shape:
            return tensor_spec.shape[1] == -1
        return tensor_spec.shape[0] < tensor_spec.shape[1]

    def _check_classes(self, file: Path, classes: int) -> None:
        if classes < 1:
            reason = "the outputs do not determine the number of classes, or have none"
            raise ModelError(file, "detection.format", f"{reason}; allowed: another format, or outputs of fixed shapes")
        if self._labels is not None and len(self._labels) != classes:
            name, count = self._spec.labels, len(self._labels)
            raise wrong_labels(file, "detection.labels", name, count, f"{classes} classes")


def _check_selected(file: Path, tensor_spec: TensorSpec) -> None:
    if len(tensor_spec.shape) != 2 or tensor_spec.shape[1] not in {-1, _SELECTED}:
        reason = f"output {tensor_spec.name!r} is {list(tensor_spec.shape)} per row"
        allowed = f"allowed for box-score-class: [boxes, {_SELECTED}]: four sides, score, class"
        raise ModelError(file, "detection.format", f"{reason}; {allowed}")


def _pair(file: Path, outputs: Sequence[TensorSpec]) -> tuple[TensorSpec, TensorSpec]:
    """Find the outputs of boxes and scores by shape: boxes are the first output of shape [n, 4]."""
    for tensor_spec in outputs:
        others = [other for other in outputs if other is not tensor_spec and len(other.shape) == 2]
        if len(tensor_spec.shape) == 2 and tensor_spec.shape[1] == _BOX and others:
            return tensor_spec, others[0]
    shapes = ", ".join(f"{tensor_spec.name} {list(tensor_spec.shape)}" for tensor_spec in outputs)
    raise ModelError(
        file, "detection.format", f"the model returns {shapes}; allowed: boxes [n, 4] and scores [n, classes]"
    )


def _sigmoid(values: Array) -> Array:
    with np.errstate(over="ignore"):  # exp overflows to infinity: the result is 0
        result: Array = 1 / (1 + np.exp(-values))
    return result
