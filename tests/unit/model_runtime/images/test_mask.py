"""Masks in the picture's own size: interpolation, letterbox, crop, memory, and the two forms of the answer."""

import io
import tracemalloc
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jobs.contract.errors import Refused
from model_runtime.images.geometry import Placement, compute_placement
from model_runtime.images.mask import NO_CLASS, mask_strips
from model_runtime.images.mask_formats import encode_png, encode_runs
from model_runtime.spec.image import ImageSpec
from model_runtime.tensor_spec import Array


def mask_of(cells: Array, placement: Placement, threshold: float = 0.5) -> Array:
    return np.concatenate([*mask_strips(cells, placement, threshold)])


def stretched(picture: tuple[int, int], size: tuple[int, int] = (64, 48)) -> Placement:
    return Placement(size, picture, size, 0, 0)


def upsampled(scores: Array, width: int, height: int) -> Array:
    """Bilinear, with the centers of pixels at a half and edges repeated: what `interpolate` of PyTorch does."""
    result = scores.astype(np.float64)
    for axis, size in ((1, height), (2, width)):
        cells = result.shape[axis]
        place = np.clip((np.arange(size) + 0.5) * cells / size - 0.5, 0, cells - 1)
        low = np.floor(place).astype(int)
        high, share = np.minimum(low + 1, cells - 1), place - low
        share = share.reshape([-1 if at == axis else 1 for at in range(3)])
        result = result.take(low, axis) * (1 - share) + result.take(high, axis) * share
    return result


@pytest.mark.parametrize("picture", [(640, 480), (700, 301), (64, 48), (30, 20), (1, 1), (3000, 1), (1, 3000)])
def test_the_class_is_the_best_of_all_scores_upsampled(picture: tuple[int, int]) -> None:
    scores = np.random.default_rng(1).standard_normal((5, 12, 16)).astype(np.float32)
    expected = upsampled(scores, *picture).argmax(axis=0)
    got = mask_of(scores, stretched(picture))
    assert got.shape == (picture[1], picture[0])
    assert (got != expected).mean() < 1e-4  # float32 may decide a tie otherwise


def test_of_one_class_the_threshold_decides() -> None:
    scores = np.random.default_rng(2).random((1, 12, 16)).astype(np.float32)
    expected = upsampled(scores, 320, 240)[0] >= 0.7
    assert (mask_of(scores, stretched((320, 240)), 0.7) != expected).mean() < 1e-4


def test_classes_are_not_interpolated() -> None:
    cells = np.array([[1, 9], [4, 4]], np.uint8)
    assert mask_of(cells, stretched((4, 6))).tolist() == [[1, 1, 9, 9]] * 3 + [[4, 4, 4, 4]] * 3


@pytest.mark.parametrize(("fit", "at"), [("letterbox", 8), ("letterbox-corner", 0)])
def test_the_padding_of_a_letterbox_is_cut_off(fit: str, at: int) -> None:
    """A picture of 64 x 32 on 32 x 32 has 16 rows; the padding has another class, which reaches no pixel of it."""
    placement = compute_placement((64, 32), ImageSpec.model_validate({"resize": [32, 32], "fit": fit}))
    scores = np.zeros((2, 32, 32), np.float32)
    scores[1] = 9
    scores[0, at : at + 16], scores[1, at : at + 16] = 1, 0
    assert mask_of(scores, placement).tolist() == np.zeros((32, 64)).tolist()
    scores[:, at + 4, 8] = 0, 5  # one cell, of 2 x 2 pixels: interpolated, it wins up to a share of 1 / 6
    found = mask_of(scores, placement)
    assert np.argwhere(found).min(axis=0).tolist() == [7, 15]
    assert np.argwhere(found).max(axis=0).tolist() == [10, 18]


def test_what_was_cropped_has_no_class() -> None:
    placement = compute_placement((8, 4), ImageSpec.model_validate({"resize": 4, "crop": 4}))
    mask = mask_of(np.zeros((4, 4), np.uint8), placement)
    assert mask.tolist() == [[NO_CLASS, NO_CLASS, 0, 0, 0, 0, NO_CLASS, NO_CLASS]] * 4
    assert encode_png([mask], 8, 4).areas == {0: 16}
    assert encode_runs([mask], 8, 4).areas == {0: 16}


def counts_of(text: str) -> list[int]:
    """Read run lengths as COCO's tools do: digit by digit."""
    counts: list[int] = []
    at = 0
    while at < len(text):
        value, shift, more = 0, 0, True
        while more:
            digit = ord(text[at]) - 48
            value |= (digit & 0x1F) << shift
            shift, more, at = shift + 5, bool(digit & 0x20), at + 1
            if not more and digit & 0x10:
                value |= -1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
    return counts


def pixels_of(counts: Sequence[int], width: int, height: int) -> Array:
    flat = np.repeat(np.arange(len(counts)) % 2, counts)
    return flat.reshape(width, height).T.astype(bool)


@pytest.mark.parametrize("size", [(1, 1), (37, 21), (300, 200)])
def test_both_forms_say_the_same(size: tuple[int, int]) -> None:
    width, height = size
    mask = np.random.default_rng(3).integers(0, 4, (height, width)).astype(np.uint8)
    mask[height // 3 :] = 2
    strips = [mask[at : at + 7] for at in range(0, height, 7)]
    png, runs = encode_png(strips, width, height), encode_runs(strips, width, height)
    with Image.open(io.BytesIO(png.png)) as image:
        assert (image.mode, image.size) == ("L", size)
        assert np.array_equal(np.asarray(image), mask)
    expected = {int(number): int((mask == number).sum()) for number in np.unique(mask)}
    assert png.areas == runs.areas == expected
    for number, text in runs.runs.items():
        assert np.array_equal(pixels_of(counts_of(text), width, height), mask == number)


def test_run_lengths_are_written_as_by_coco() -> None:
    """By hand: 0, 70, 40, 9, 1 are digits of 5 bits; from the fourth on, less the one before the last: -61, -39."""
    flat = np.repeat([1, 0, 1, 0], [70, 40, 9, 1]).astype(np.uint8)
    text = encode_runs([flat.reshape(8, 15).T], 8, 15).runs[1]
    assert text == "0V2X1SNiN"
    assert counts_of(text) == [0, 70, 40, 9, 1]


def test_a_mask_of_too_many_runs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model_runtime.images.mask_formats.MAX_RUNS", 10)
    mask = np.arange(64, dtype=np.uint8).reshape(8, 8)
    with pytest.raises(Refused, match="has 64 runs of one class; allowed: 10, or the format png") as caught:
        encode_runs([mask], 8, 8)
    assert caught.value.code == "output_too_large"


@pytest.mark.parametrize(("form", "most_mib"), [(encode_png, 16), (encode_runs, 48)])
@pytest.mark.parametrize("picture", [(4000, 3000), (12_000_000, 1)])
def test_memory_does_not_grow_with_the_classes(form: Any, most_mib: int, picture: tuple[int, int]) -> None:
    """All scores of 12 million pixels would take 1.4 GB."""
    scores = np.random.default_rng(4).standard_normal((30, 4, 4)).astype(np.float32)
    tracemalloc.start()
    try:
        form(mask_strips(scores, stretched(picture), 0.5), *picture)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    strips = 4 * picture[0] * min(256, picture[1])
    assert peak < (most_mib << 20) + strips
