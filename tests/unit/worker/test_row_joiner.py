"""The rows of a job are joined in their order, in whatever order and batches they run."""

import numpy as np
import pytest

from batching.collation import CollationError
from jobs.contract.errors import Refused
from worker.execution.row_joiner import RowJoiner


def outputs(*values: float) -> dict[str, np.ndarray]:
    return {"y": np.array(values, np.float32), "n": np.array(len(values), np.int64)}


def test_the_rows_are_in_order_whatever_order_they_ran_in() -> None:
    joiner = RowJoiner(3, 1000)
    are_complete = [joiner.add(row, outputs(row, -row), 1.0, 1.0, 3) for row in (2, 0, 1)]
    assert are_complete == [False, False, True]
    assert joiner.outputs["y"].tolist() == [[0, 0], [1, -1], [2, -2]]
    assert joiner.outputs["n"].tolist() == [2, 2, 2]
    assert {name: array.dtype for name, array in joiner.outputs.items()} == {"y": np.float32, "n": np.int64}


def test_all_rows_of_one_batch_are_taken_as_they_are() -> None:
    joiner = RowJoiner(2, 1000)
    stacked = {"y": np.array([[1.0], [2.0]], np.float32)}
    assert joiner.add_rows(0, 2, stacked, 3.0, 4.0, 8)
    assert joiner.outputs["y"] is stacked["y"]
    assert (joiner.batch_ms, joiner.infer_ms, joiner.device_ms, joiner.batch_size) == (3.0, 4.0, 1.0, 8)
    with pytest.raises(Refused):
        RowJoiner(2, 1).add_rows(0, 2, stacked, 3.0, 4.0, 8)


def test_a_single_row_has_a_dimension_of_its_own() -> None:
    joiner = RowJoiner(1, 1000)
    assert joiner.add(0, outputs(5), 1.0, 1.0, 1)
    assert joiner.outputs["y"].shape == (1, 1)


def test_a_row_that_runs_twice_counts_once() -> None:
    joiner = RowJoiner(2, 1000)
    assert not joiner.add(0, outputs(1), 1.0, 1.0, 1)
    assert not joiner.add(0, outputs(1), 2.0, 1.0, 1)
    assert joiner.add(1, outputs(1), 3.0, 1.0, 1)


def test_times_add_up_over_the_batches_and_the_largest_batch_counts() -> None:
    """Decoded for 1 ms; batches begin 3, 10 and 30 ms after the claim and take 2, 4 and 8 ms."""
    joiner = RowJoiner(5, 1000)
    joiner.decode_ms = 1.0
    for row, (started_ms, infer_ms, size) in enumerate([(3.0, 2.0, 8)] * 2 + [(10.0, 4.0, 16)] * 2 + [(30.0, 8.0, 4)]):
        joiner.add(row, outputs(row), started_ms, infer_ms, size)
    assert (joiner.infer_ms, joiner.batch_ms, joiner.batch_size) == (14.0, 30.0 - 1.0 - 2.0 - 4.0, 16)


@pytest.mark.parametrize("other", [outputs(1, 2), {"y": np.array([1], np.float64), "n": np.array(1, np.int64)}])
def test_rows_of_other_shapes_or_types_cannot_be_joined(other: dict[str, np.ndarray]) -> None:
    joiner = RowJoiner(2, 1000)
    joiner.add(0, outputs(1), 1.0, 1.0, 2)
    with pytest.raises(CollationError, match="output 'y' of this row is "):
        joiner.add(1, other, 1.0, 1.0, 2)


def test_an_output_that_must_be_too_large_is_refused_before_it_is_kept() -> None:
    joiner = RowJoiner(1000, 1 << 20)
    with pytest.raises(Refused) as refused:
        joiner.add(0, {"y": np.zeros(2000, np.uint8)}, 1.0, 1.0, 1)
    assert (refused.value.code, refused.value.details) == ("output_too_large", {"limit": 1 << 20})
    assert joiner.outputs == {}


def test_only_the_first_outcome_of_a_job_counts() -> None:
    joiner = RowJoiner(2, 1000)
    assert [joiner.end(), joiner.end(), joiner.has_ended] == [True, False, True]


def test_answers_are_joined_in_order_and_bounded_together() -> None:
    joiner = RowJoiner(3, 10)
    are_whole = [joiner.add_answer(row, b"[%d]" % row, 1.0, 1.0, 1) for row in (2, 0, 2, 1)]
    assert are_whole == [False, False, False, True]
    assert joiner.joined_answers() == b'{"rows":[[0],[1],[2]]}'
    with pytest.raises(Refused, match="more than 10 bytes") as caught:
        joiner.add_answer(1, b"12345", 1.0, 1.0, 1)
    assert caught.value.code == "output_too_large"
