"""Boxes and scores: which of them are kept, and where they lie in the picture. Arrays in, arrays out."""

from typing import Final, Literal, NamedTuple

import numpy as np

from model_runtime.images.geometry import Placement
from model_runtime.tensor_spec import Array

MAX_CANDIDATES: Final = 1000  # that are compared with each other: the best by score

BoxFormat = Literal["cxcywh", "xyxy", "yxyx"]


class Detections(NamedTuple):
    """Boxes [n, 4] as left, top, right, bottom; their classes [n] and scores [n], best first."""

    boxes: Array
    classes: Array
    scores: Array


def to_corners(boxes: Array, form: BoxFormat) -> Array:
    """[n, 4] in some form → left, top, right, bottom."""
    first, second, third, fourth = boxes.T
    if form == "xyxy":
        return boxes
    if form == "yxyx":
        return np.stack([second, first, fourth, third], axis=1)
    return np.stack([first - third / 2, second - fourth / 2, first + third / 2, second + fourth / 2], axis=1)


def to_picture(boxes: Array, placed: Placement) -> Array:
    """Boxes on the input, in its pixels → in those of the picture, cut where they leave it."""
    across, down = placed.scale
    width, height = placed.picture
    moved: Array = (boxes - np.array([placed.left, placed.top] * 2)) / np.array([across, down] * 2)
    return np.clip(moved, 0, np.array([width, height] * 2))


def select_boxes(boxes: Array, scores: Array, min_score: float, max_overlap: float, count: int) -> Detections:
    """Of boxes [n, 4] with a score for each class [n, k] the best: each at least `least`, by greedy suppression.

    A box goes where a better one of its class shares more than `max_overlap` of their union with it. Of equal scores
    the first box and class comes first, so that an answer never depends on company.
    """
    places, classes = np.nonzero(scores >= min_score)
    found = scores[places, classes]
    order = np.argsort(-found, kind="stable")[:MAX_CANDIDATES]
    places, classes, found = places[order], classes[order], found[order]
    kept = _suppress(boxes[places], classes, max_overlap, count)
    return Detections(boxes[places][kept], classes[kept], found[kept])


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
    """Intersection over union of one box with others [n, 4]; 0 where neither has an area."""
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
