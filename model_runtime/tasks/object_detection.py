"""What is where in the picture: boxes in the pixels of the picture that was sent, whatever became of it on the way.

Decides at load whether outputs and `[detection]` fit one another, so that no request finds out.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from jobs.contract.errors import Refused
from model_runtime.images.geometry import compute_placement
from model_runtime.spec.model_toml import SPEC_FILE, ModelError, ModelSpec
from model_runtime.tasks import boxes
from model_runtime.tasks.image_input import ImageInput, read_labels
from model_runtime.tasks.task import Task, refuse_unknown
from model_runtime.tensor_spec import Array, TensorSpec

# Parameters: what they are, from and to.
_LIMITS: Final[dict[str, tuple[type[float], int, int]]] = {
    "score_threshold": (float, 0, 1),
    "iou_threshold": (float, 0, 1),
    "max_detections": (int, 1, 1000),
}
_SIZE: Final = ".size"  # of the picture: what `prepare` notes for `present`
_BOX: Final = 4


class ObjectDetection(Task):
    """`task = "object-detection"`: one image input; boxes and scores as `[detection]` says.

    Answers {"detections": [{"label", "index", "score", "box": {"x", "y", "width", "height"}}, ...], "width", "height"},
    best first, in pixels of the picture. Parameters: `score_threshold`, `iou_threshold`, `max_detections`.
    """

    kinds = frozenset({"image"})

    def __init__(
        self, spec: ModelSpec, folder: Path, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
    ) -> None:
        super().__init__(spec, folder, inputs, outputs)
        file, self._spec = folder / SPEC_FILE, spec.detection
        self._image = ImageInput(file, spec.image, inputs)
        self._labels = read_labels(file, folder, "detection.labels", self._spec.labels)
        self.label_count = None if self._labels is None else len(self._labels)
        self._before = 5 if self._spec.format == "yolo-objectness" else _BOX  # numbers before a box's scores
        if self._spec.format == "boxes-scores":
            self._boxes, self._scores = _pair(file, outputs)
            classes = self._scores.shape[-1]
        else:
            self._boxes = self._scores = outputs[0]
            self._turned = self._is_turned(file, outputs[0])
            classes = outputs[0].shape[0 if self._turned else 1] - self._before
        self._check_classes(file, classes - (self._spec.scores == "softmax"))

    def preprocess(self, kind: str, data: bytes, parameters: dict[str, Any]) -> dict[str, Array]:  # noqa: ARG002 - one kind
        """The image; raises Refused for the parameters and for the image."""
        refuse_unknown(parameters, tuple(_LIMITS))
        self._read_parameters(parameters)
        arrays, picture = self._image.preprocess(data)
        parameters[_SIZE] = (picture.width, picture.height)
        return arrays

    def postprocess(self, outputs: Mapping[str, Array], parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Pixels of 2 digits, scores of 6; raises Refused("inference_failed") for an answer of NaN."""
        size, (min_score, max_overlap, count) = parameters[_SIZE], self._read_parameters(parameters)
        raw, scores = self._read(outputs)
        if not (np.isfinite(raw).all() and np.isfinite(scores).all()):
            raise Refused("inference_failed", "the model's answer to this image is not a number")
        placed = compute_placement(size, self._image.spec)
        sides = np.array(placed.input * 2 if self._spec.relative else (1, 1, 1, 1))
        found = boxes.select_boxes(
            boxes.to_corners(raw, self._spec.box) * sides, scores, min_score, max_overlap, int(count)
        )
        seen = zip(boxes.to_picture(found.boxes, placed).tolist(), found.classes, found.scores, strict=True)
        shown = [self._detection(box, int(index), float(score)) for box, index, score in seen]
        return {"detections": [one for one in shown if one is not None], "width": size[0], "height": size[1]}

    def _read(self, outputs: Mapping[str, Array]) -> tuple[Array, Array]:
        """Boxes [n, 4] as they are, and probabilities [n, classes]."""
        raw, scores = (outputs[tensor_spec.name].astype(np.float64) for tensor_spec in (self._boxes, self._scores))
        if self._spec.format != "boxes-scores":
            rows = raw.T if self._turned else raw
            raw, scores = rows[:, :_BOX], rows[:, self._before :]
        if self._spec.scores == "sigmoid":
            scores = _sigmoid(scores)
        elif self._spec.scores == "softmax":
            powers = np.exp(scores - scores.max(axis=1, keepdims=True))
            scores = (powers / powers.sum(axis=1, keepdims=True))[:, :-1]
        if self._spec.format == "yolo-objectness":
            sure = rows[:, _BOX : self._before]
            scores = scores * (_sigmoid(sure) if self._spec.scores == "sigmoid" else sure)
        return raw, scores

    def _detection(self, box: Sequence[float], index: int, score: float) -> dict[str, Any] | None:
        """None for a box of which nothing lies in the picture."""
        left, top, right, bottom = box
        if right <= left or bottom <= top:
            return None
        sides = {"x": left, "y": top, "width": right - left, "height": bottom - top}
        label = self._labels[index] if self._labels is not None and index < len(self._labels) else str(index)
        rounded = {name: round(side, 2) for name, side in sides.items()}
        return {"label": label, "index": index, "score": round(score, 6), "box": rounded}

    def _read_parameters(self, parameters: Mapping[str, Any]) -> list[float]:
        return [_number(parameters, name, getattr(self._spec, name)) for name in _LIMITS]

    def _is_turned(self, file: Path, tensor_spec: TensorSpec) -> bool:
        """Whether the boxes lie along the second dimension. They are more than the numbers of one box."""
        if len(tensor_spec.shape) != 2:
            shape = list(tensor_spec.shape)
            reason = (
                f"output {tensor_spec.name!r} is {shape} a row; allowed: [boxes, numbers of a box] or its transpose"
            )
            raise ModelError(file, "detection.format", reason)
        expected = self._labels and self._before + len(self._labels)
        if expected in tensor_spec.shape:
            return tensor_spec.shape[0] == expected
        if -1 in tensor_spec.shape:
            return tensor_spec.shape[1] == -1
        return tensor_spec.shape[0] < tensor_spec.shape[1]

    def _check_classes(self, file: Path, classes: int) -> None:
        if classes < 1:
            reason = "the outputs leave the number of classes open, or none beside a box's own numbers"
            raise ModelError(file, "detection.format", f"{reason}; allowed: another format, or a model that tells it")
        if self._labels is not None and len(self._labels) != classes:
            reason = f"{len(self._labels)} labels, but the model has {classes} classes; allowed: a line per class"
            raise ModelError(file.parent / str(self._spec.labels), None, reason)


def _pair(file: Path, outputs: Sequence[TensorSpec]) -> tuple[TensorSpec, TensorSpec]:
    """The boxes and the scores among the outputs, by their shapes: the first that ends in 4 is the boxes'."""
    for tensor_spec in outputs:
        others = [one for one in outputs if one is not tensor_spec and len(one.shape) == 2]
        if len(tensor_spec.shape) == 2 and tensor_spec.shape[1] == _BOX and others:
            return tensor_spec, others[0]
    shapes = ", ".join(f"{tensor_spec.name} {list(tensor_spec.shape)}" for tensor_spec in outputs)
    raise ModelError(
        file, "detection.format", f"the model gives {shapes}; allowed: boxes [n, 4] and scores [n, classes]"
    )


def _sigmoid(values: Array) -> Array:
    with np.errstate(over="ignore"):  # infinity: the answer is 0
        result: Array = 1 / (1 + np.exp(-values))
    return result


def _number(parameters: Mapping[str, Any], name: str, default: float) -> float:
    kind, low, high = _LIMITS[name]
    value = parameters.get(name, default)
    fits = isinstance(value, int | kind) and not isinstance(value, bool) and low <= value <= high
    if not fits:
        shown = value if isinstance(value, int | float) else f"a {type(value).__name__}"
        what = "a whole number" if kind is int else "a number"
        raise Refused("invalid_request", f"parameter {name!r} is {shown}; allowed: {what} from {low} to {high}")
    return float(value)
