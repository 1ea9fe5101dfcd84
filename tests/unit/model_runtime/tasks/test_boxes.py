"""Which boxes are kept, compared with a slow and obvious algorithm; output layouts of detectors."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_runtime.images.geometry import compute_placement
from model_runtime.spec.image import ImageSpec
from model_runtime.spec.model_toml import ModelError, ModelSpec
from model_runtime.tasks import load_task
from model_runtime.tasks.boxes import select_boxes, to_corners, to_picture
from model_runtime.tensor_spec import Array, TensorSpec

IMAGE = TensorSpec("image", "FP32", (3, 64, 96))
side = st.integers(0, 12)
one_box = st.tuples(side, side, side, side).map(
    lambda s: (min(s[0], s[2]), min(s[1], s[3]), max(s[0], s[2]), max(s[1], s[3]))
)
score = st.integers(0, 10).map(lambda tenths: tenths / 10)


def plainly(boxes: Array, scores: Array, min_score: float, max_overlap: float, count: int) -> list[tuple[int, int]]:
    """Return box and class of each kept detection."""
    left = [(-s, place_, k) for place_, row in enumerate(scores) for k, s in enumerate(row) if s >= min_score]
    kept: list[tuple[int, int]] = []
    for _, at, k in sorted(left):
        rivals = [boxes[other] for other, its in kept if its == k]
        if len(kept) < count and all(overlap(boxes[at], rival) <= max_overlap for rival in rivals):
            kept.append((at, k))
    return kept


def overlap(one: Array, other: Array) -> float:
    def area(box: Array) -> float:
        return float(max(0, box[2] - box[0]) * max(0, box[3] - box[1]))

    shared = area(np.array([*np.maximum(one[:2], other[:2]), *np.minimum(one[2:], other[2:])]))
    union = area(one) + area(other) - shared
    return shared / union if union else 0.0


@given(
    st.lists(st.tuples(one_box, st.tuples(score, score)), min_size=1, max_size=12),
    score,
    st.sampled_from([0.0, 0.3, 0.5, 1.0]),
    st.integers(1, 8),
)
def test_the_kept_boxes_are_those_of_the_plain_algorithm(
    found: list[tuple[tuple[int, ...], tuple[float, float]]], min_score: float, max_overlap: float, count: int
) -> None:
    boxes, scores = np.array([box for box, _ in found], float), np.array([pair for _, pair in found])
    kept = select_boxes(boxes, scores, min_score, max_overlap, count)
    expected = plainly(boxes, scores, min_score, max_overlap, count)
    assert kept.classes.tolist() == [k for _, k in expected]
    assert kept.boxes.tolist() == [boxes[at].tolist() for at, _ in expected]
    assert kept.scores.tolist() == [scores[at, k] for at, k in expected]


def test_boxes_have_three_formats() -> None:
    same = {"xyxy": [10, 20, 40, 80], "yxyx": [20, 10, 80, 40], "cxcywh": [25, 50, 30, 60]}
    for form, box in same.items():
        assert to_corners(np.array([box], float), form).tolist() == [[10, 20, 40, 80]]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("keys", "picture", "resized", "at", "shown"),
    [
        ({"resize": (64, 96)}, (300, 100), (96, 64), (0, 0), (0, 0, 96, 64)),
        ({"resize": (64, 96), "fit": "letterbox"}, (300, 100), (96, 32), (0, 16), (0, 16, 96, 48)),
        ({"resize": (64, 96), "fit": "letterbox"}, (101, 128), (50, 64), (23, 0), (23, 0, 73, 64)),
        ({"resize": 65, "crop": (64, 64)}, (130, 65), (130, 65), (-33, 0), (0, 0, 64, 64)),
        ({}, (30, 20), (30, 20), (0, 0), (0, 0, 30, 20)),
    ],
)
def test_a_box_over_the_whole_input_covers_the_visible_picture(
    keys: dict[str, Any],
    picture: tuple[int, int],
    resized: tuple[int, int],
    at: tuple[int, int],
    shown: tuple[int, int, int, int],
) -> None:
    placed = compute_placement(picture, ImageSpec(**keys))
    assert (placed.resized, (placed.left, placed.top), placed.shown) == (resized, at, shown)
    (box,) = to_picture(np.array([[0.0, 0.0, *placed.input]]), placed).tolist()
    across, down = placed.scale
    expected = [
        (shown[0] - at[0]) / across,
        (shown[1] - at[1]) / down,
        (shown[2] - at[0]) / across,
        (shown[3] - at[1]) / down,
    ]
    assert box == pytest.approx(expected)


def test_a_tall_frame_is_cropped_and_not_letterboxed() -> None:
    with pytest.raises(ValueError, match="letterbox"):
        ImageSpec(resize=256, crop=(224, 224), fit="letterbox")
    assert ImageSpec.model_validate({"preset": "torch", "fit": "letterbox"}).resize is None


# One box in the middle of the input, of class 1 of 2, in each form.
HALF = [48.0, 32.0, 24.0, 16.0]
FORMS: list[tuple[dict[str, Any], dict[str, list[Any]]]] = [
    ({}, {"y": [[first, *[0.0] * 9] for first in (*HALF, 0.1, 0.75)]}),
    ({}, {"y": [[*HALF, 0.1, 0.75], *[[0.0] * 6] * 9]}),
    ({"format": "yolo-objectness"}, {"y": [[*HALF, 0.75, 0.1, 1.0], *[[0.0] * 7] * 9]}),
    (
        {"format": "boxes-scores", "box": "xyxy", "relative": True, "scores": "sigmoid"},
        {"boxes": [[0.375, 0.375, 0.625, 0.625]], "scores": [[-9.0, float(np.log(3))]]},
    ),
    (
        {"format": "boxes-scores", "box": "yxyx", "relative": True, "scores": "softmax"},
        {"scores": [[-50.0, float(np.log(3)), 0.0]], "boxes": [[0.375, 0.375, 0.625, 0.625]]},
    ),
]


@pytest.mark.parametrize(("keys", "outputs"), FORMS)
def test_the_same_box_in_all_output_layouts_of_detectors(keys: dict[str, Any], outputs: dict[str, list[Any]]) -> None:
    spec = ModelSpec.model_validate({"task": "object-detection", "detection": keys})
    arrays = {name: np.array(rows, np.float32) for name, rows in outputs.items()}
    ports = [TensorSpec(name, "FP32", array.shape) for name, array in arrays.items()]
    task = load_task(spec, Path(), [IMAGE], ports)
    told = task.postprocess(arrays, {".size": (960, 640)})
    box = {"x": 360.0, "y": 240.0, "width": 240.0, "height": 160.0}
    assert told["detections"] == [{"label": "1", "index": 1, "score": pytest.approx(0.75, abs=1e-6), "box": box}]


@pytest.mark.parametrize(
    ("keys", "shapes", "words"),
    [
        ({}, [(6,)], "output 'o0' is [6] per row"),
        ({}, [(4, 9)], "do not determine the number of classes, or have none"),
        ({}, [(-1, -1)], "the outputs do not determine the number of classes"),
        ({"labels": "labels.txt"}, [(7, 100)], "2 labels, but the model has 3 classes"),
        ({"format": "boxes-scores"}, [(6, 100)], "allowed: boxes [n, 4] and scores [n, classes]"),
    ],
)
def test_an_unsuitable_output_is_found_at_load(
    tmp_path: Path, keys: dict[str, Any], shapes: list[tuple[int, ...]], words: str
) -> None:
    (tmp_path / "labels.txt").write_text("a\nb")
    spec = ModelSpec.model_validate({"task": "object-detection", "detection": keys})
    ports = [TensorSpec(f"o{n}", "FP32", shape) for n, shape in enumerate(shapes)]
    with pytest.raises(ModelError) as caught:
        load_task(spec, tmp_path, [IMAGE], ports)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("keys", "port", "words"),
    [
        ({"output": "z"}, TensorSpec("y", "FP32", (8,)), "there is no output 'z'; allowed: y"),
        ({}, TensorSpec("y", "FP32", (-1, 8)), "allowed: numbers of a fixed shape"),
    ],
)
def test_an_output_that_is_no_vector_is_found_at_load(keys: dict[str, Any], port: TensorSpec, words: str) -> None:
    spec = ModelSpec.model_validate({"task": "image-embedding", "embedding": keys})
    with pytest.raises(ModelError) as caught:
        load_task(spec, Path(), [IMAGE], [port])
    assert words in str(caught.value)
