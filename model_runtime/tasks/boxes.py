"""Convert boxes to picture coordinates, and select the best boxes by non-maximum suppression."""

from typing import Final, Literal, NamedTuple

import numpy as np

from model_runtime.images.geometry import Placement
from model_runtime.tensor_spec import Array

MAX_CANDIDATES: Final = 1000  # boxes that enter suppression, best scores first

BoxFormat = Literal["cxcywh", "xyxy", "yxyx"]


class Detections(NamedTuple):
    """Boxes [n, 4] as left, top, right, bottom; their classes [n] and scores [n], best first."""

    boxes: Array
    classes: Array
    scores: Array


def to_corners(boxes: Array, form: BoxFormat) -> Array:
    """Convert boxes [n, 4] of a format to left, top, right, bottom."""
    first, second, third, fourth = boxes.T
    if form == "xyxy":
        return boxes
    if form == "yxyx":
        return np.stack([second, first, fourth, third], axis=1)
    return np.stack([first - third / 2, second - fourth / 2, first + third / 2, second + fourth / 2], axis=1)


def to_picture(boxes: Array, placement: Placement) -> Array:
    """Convert boxes from input pixels to picture pixels, clipped to the picture."""
    x_scale, y_scale = placement.scale
    width, height = placement.picture
    moved: Array = (boxes - np.array([placement.left, placement.top] * 2)) / np.array([x_scale, y_scale] * 2)
    return np.clip(moved, 0, np.array([width, height] * 2))


def select_boxes(boxes: Array, scores: Array, min_score: float, max_overlap: float, count: int) -> Detections:
    """Select up to `count` boxes [n, 4] by scores per class [n, k] of at least `min_score`, by greedy suppression.

    A box is dropped if its overlap (IoU) with a better box of its class exceeds `max_overlap`. Ties keep input order,
    so that results do not depend on the batch.
    """
    rows, classes = np.nonzero(scores >= min_score)
    return select_labelled(Detections(boxes[rows], classes, scores[rows, classes]), min_score, max_overlap, count)


def select_labelled(found: Detections, min_score: float, max_overlap: float, count: int) -> Detections:
    """Select as `select_boxes` does from boxes of one class and score each, in any order."""
    rows = np.nonzero(found.scores >= min_score)[0]
    boxes, classes, best = found.boxes, found.classes[rows], found.scores[rows]
    order = np.argsort(-best, kind="stable")[:MAX_CANDIDATES]
    rows, classes, best = rows[order], classes[order], best[order]
    kept = _suppress(boxes[rows], classes, max_overlap, count)
    return Detections(boxes[rows][kept], classes[kept], best[kept])


def _suppress(boxes: Array, classes: Array, max_overlap: float, count: int) -> list[int]:
    kept: list[int] = []
    suppressed = np.zeros(len(boxes), bool)
    for at in range(len(boxes)):
        if suppressed[at]:
            continue
        kept.append(at)
        if len(kept) == count:
            break
        suppressed[at + 1 :] |= (classes[at + 1 :] == classes[at]) & (
            overlaps(boxes[at], boxes[at + 1 :]) > max_overlap
        )
    return kept


def overlaps(box: Array, others: Array) -> Array:
    """Return the intersection over union of a box with others [n, 4]; 0 if neither has an area."""
    left, top = np.maximum(box[:2], others[:, :2]).T
    right, bottom = np.minimum(box[2:], others[:, 2:]).T
    shared = (right - left).clip(0) * (bottom - top).clip(0)
    union = _areas(box[np.newaxis])[0] + _areas(others) - shared
    result: Array = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return result


def _areas(boxes: Array) -> Array:
    sides: Array = (boxes[:, 2:] - boxes[:, :2]).clip(0)
    areas: Array = sides.prod(axis=1)
    return areas
