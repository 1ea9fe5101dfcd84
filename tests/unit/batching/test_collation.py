"""Stacking items and splitting outputs keep length and order, or raise an error that shows both."""

import numpy as np
import pytest

from batching.collation import Arrays, CollationError, group_of, split_outputs, stack_items


def test_items_come_back_in_their_order() -> None:
    items = [{"x": np.full((2, 3), n, np.float32), "y": np.array(n)} for n in range(4)]
    batch = stack_items(items)
    assert {name: array.shape for name, array in batch.items()} == {"x": (4, 2, 3), "y": (4,)}
    for n, item in enumerate(split_outputs(batch, 4)):
        assert item["x"].tolist() == [[n] * 3] * 2
        assert item["y"] == n


def test_one_item_is_stacked_without_a_copy() -> None:
    array = np.arange(6)
    assert np.shares_memory(stack_items([{"x": array}])["x"], array)


@pytest.mark.parametrize("rows", [0, 1, 3, 5])
def test_a_wrong_number_of_rows_is_refused(rows: int) -> None:
    with pytest.raises(CollationError, match=f"'y' has {rows} rows for a batch of 4"):
        split_outputs({"y": np.zeros((rows, 2))}, 4)


def test_an_output_without_rows_is_refused() -> None:
    with pytest.raises(CollationError, match="has no rows for a batch of 1"):
        split_outputs({"y": np.array(1.0)}, 1)


def test_groups_differ_by_shape_type_and_name() -> None:
    base = {"x": np.zeros((2, 3), np.float32)}
    others: list[Arrays] = [
        {"x": np.zeros((3, 2), np.float32)},
        {"x": np.zeros((2, 3))},
        {"z": np.zeros((2, 3), np.float32)},
    ]
    assert group_of(base) == group_of({"x": np.ones((2, 3), np.float32)})
    assert all(group_of(base) != group_of(other) for other in others)


@pytest.mark.parametrize("padded_size", [3, 4, 8])
def test_padding_rows_are_added_and_cut_off_again(padded_size: int) -> None:
    items = [{"x": np.full((2,), n, np.float32)} for n in range(3)]
    batch = stack_items(items, padded_size)
    assert batch["x"].tolist() == [[n, n] for n in (0, 1, *[2] * (padded_size - 2))]
    assert [item["x"].tolist() for item in split_outputs(batch, 3, padded_size)] == [[n, n] for n in range(3)]


def test_a_lone_item_is_padded_with_copies() -> None:
    batch = stack_items([{"x": np.array([5])}], 4)
    assert batch["x"].tolist() == [[5]] * 4
    assert len(split_outputs(batch, 1, 4)) == 1


def test_outputs_of_another_length_than_the_padded_size_are_refused() -> None:
    with pytest.raises(CollationError, match="'y' has 3 rows for a batch of 4"):
        split_outputs({"y": np.zeros((3, 2))}, 3, 4)
