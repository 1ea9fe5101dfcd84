"""Items of different lengths are padded into one batch and cut back."""

from typing import Any

import numpy as np
import pytest

from batching.collation import group_of, split_outputs, stack_items
from batching.padding import FilledInput, PaddedInput, Padding

PADDING = Padding(
    {"signal": PaddedInput(1, -1), "marks": PaddedInput(0, 9)},
    {"y": 0},
    {"mask": FilledInput("mask", np.dtype(np.float32)), "lengths": FilledInput("length", np.dtype(np.int32), (1,))},
)


def item(length: int) -> dict[str, Any]:
    signal = np.arange(2 * length, dtype=np.float32).reshape(2, length)
    return {"signal": signal, "marks": np.arange(length), "speaker": np.array([length])}


def test_items_are_padded_to_the_longest() -> None:
    batch = stack_items([item(2), item(3)], 0, PADDING)
    assert batch["signal"].tolist() == [[[0, 1, -1], [2, 3, -1]], [[0, 1, 2], [3, 4, 5]]]
    assert batch["marks"].tolist() == [[0, 1, 9], [0, 1, 2]]
    assert batch["speaker"].tolist() == [[2], [3]]
    assert batch["mask"].tolist() == [[1, 1, 0], [1, 1, 1]]
    assert batch["mask"].dtype == np.float32
    assert batch["lengths"].tolist() == [[2], [3]]
    assert batch["lengths"].dtype == np.int32


@pytest.mark.parametrize(("multiple", "longest", "expected"), [(1, 0, 3), (8, 0, 8), (8, 5, 5), (2, 3, 3)])
def test_lengths_are_rounded_up_but_not_beyond_the_longest(multiple: int, longest: int, expected: int) -> None:
    padding = Padding({"marks": PaddedInput(0)}, {}, {}, multiple, longest)
    assert padding.stack([{"marks": np.arange(3)}])["marks"].shape == (1, expected)
    assert padding.padded_length(3) == expected


def test_padding_rows_repeat_the_last_item() -> None:
    batch = stack_items([item(3), item(2)], 4, PADDING)
    assert batch["marks"].tolist() == [[0, 1, 2], *[[0, 1, 9]] * 3]
    assert batch["lengths"].tolist() == [[3], [2], [2], [2]]


def test_outputs_are_cut_to_the_length_of_the_item() -> None:
    rows = split_outputs({"y": np.arange(12).reshape(2, 3, 2), "z": np.array([5, 6])}, 2)
    cut = PADDING.cut(rows[0], 2)
    assert (cut["y"].tolist(), cut["z"].tolist()) == ([[0, 1], [2, 3]], 5)


def test_lengths_are_no_part_of_the_group() -> None:
    assert group_of(item(2), PADDING) == group_of(item(3), PADDING)
    assert group_of(item(2), PADDING) != group_of(item(3) | {"speaker": np.array([1, 2])}, PADDING)
    exact = Padding(PADDING.inputs, PADDING.outputs, PADDING.filled, is_used=False)
    assert group_of(item(2), exact) != group_of(item(3), exact)
    assert exact.padded_length(3) == 3


def test_arrays_that_differ_in_length_are_refused() -> None:
    with pytest.raises(ValueError, match="signal has 2, marks has 3; allowed: one length for all"):
        PADDING.length_of(item(2) | {"marks": np.arange(3)})
    with pytest.raises(ValueError, match="length of signal is 0; allowed: at least 1"):
        PADDING.length_of(item(0))
