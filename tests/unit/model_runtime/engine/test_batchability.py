"""Whether rows may share a run, from a model's declaration and from a run on zeros."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from model_runtime.engine.batchability import probe_batchability
from model_runtime.tensor_spec import Array, TensorSpec

Feed = dict[str, Array]
IMAGE = TensorSpec("x", "FP32", (-1, 3, 8, 8))
TEXT = TensorSpec("ids", "INT64", (-1, -1))
SCORES = TensorSpec("y", "FP32", (-1, 10))


def even(feed: Feed) -> Feed:
    return {"y": np.zeros((len(next(iter(feed.values()))), 10))}


def melting(_: Feed) -> Feed:
    return {"y": np.zeros((1, 10))}


def lonely(feed: Feed) -> Feed:
    if len(feed["x"]) > 1:
        raise ValueError("one at a time")
    return even(feed)


def failing(_: Feed) -> Feed:
    raise ValueError("zeros are not welcome")


@pytest.mark.parametrize(
    ("port", "output", "run", "batchable", "note"),
    [
        (IMAGE, SCORES, even, True, ""),
        (TEXT, SCORES, even, True, ""),
        (IMAGE, SCORES, melting, False, "2 rows in, but output 'y' has the shape [1, 10]"),
        (IMAGE, SCORES, lonely, False, "it runs one row, but not two: one at a time"),
        (IMAGE, SCORES, failing, False, "a test run with zeros failed: zeros are not welcome"),
        (TEXT, SCORES, failing, True, "a test run with zeros and free dimensions of 1 failed: zeros are not welcome"),
        (TensorSpec("x", "FP32", (1, 4)), SCORES, even, False, "input 'x' has its first dimension fixed at 1"),
        (
            TensorSpec("x", "FP32", ()),
            SCORES,
            failing,
            False,
            "input 'x' is a scalar, without a batch dimension; [inputs.x] value = … makes it a constant",
        ),
        (IMAGE, TensorSpec("y", "FP32", (1, 10)), melting, False, "output 'y' has its first dimension fixed at 1"),
    ],
)
def test_a_verdict_gives_its_reason(
    port: TensorSpec, output: TensorSpec, run: Callable[[Feed], Feed], batchable: bool, note: str
) -> None:
    verdict = probe_batchability([port], [output], run)
    assert (verdict.batchable, verdict.note, verdict.unbatched_outputs) == (batchable, note, frozenset())


def test_outputs_that_are_not_rows_are_named() -> None:
    def run(_: Feed) -> Feed:
        values: dict[str, Any] = {"found": np.zeros((0, 4)), "row": np.zeros((1, 2)), "sum": np.zeros(())}
        return values

    outputs = [TensorSpec("found", "FP32", (-1, 4)), TensorSpec("row", "FP32", (-1, 2)), TensorSpec("sum", "FP32", ())]
    verdict = probe_batchability([TensorSpec("x", "FP32", (1, 4))], outputs, run)
    assert verdict.unbatched_outputs == {"found", "sum"}
