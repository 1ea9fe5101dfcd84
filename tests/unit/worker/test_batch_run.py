"""A failing batch is bisected until the failing item is alone: the number of runs, and the verdicts.

The model here is a stand-in, for its faults: the runtime's own (out of memory, a lost GPU) cannot be had on demand.
"""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import orjson
import pytest

from batching.memory_limits import MemoryLimits
from jobs.contract.job import ClaimedJob
from jobs.contract.lifecycle import State
from model_runtime.engine.onnx_engine import Fault, RunFailed
from model_runtime.spec.model_toml import RetrySpec
from model_runtime.tensor_spec import Array
from worker.crash_recovery.in_flight_journal import InFlightJournal, read_journal
from worker.execution.batch_run import BatchRun, DeviceLost, RunContext
from worker.execution.inline_runs import InlineRunPolicy
from worker.execution.pending_items import CompletedItem, WorkItem
from worker.execution.row_joiner import RowJoiner

Split = Callable[..., list[WorkItem]]


class Faulty:
    """A fake model: adds one; fails if a row is negative (the value selects the fault), or for too many rows."""

    name = "faulty"
    has_custom_task = False
    stacks_rows = True
    padding = None
    spec = SimpleNamespace(retry=RetrySpec(attempts=3, backoff_ms=1000))

    def __init__(self, room: int = 1000, bucket: int = 1) -> None:
        self.room, self.bucket, self.runs = room, bucket, 0

    def padded_size(self, items: int) -> int:
        return max(items, self.bucket)

    def run(self, arrays: Mapping[str, Array], _stop: object) -> dict[str, Array]:
        self.runs += 1
        faults: dict[int, Fault] = {-1: "input", -2: "device", -3: "stopped", -4: "memory"}
        for row in arrays["x"]:
            if int(row[0]) in faults:
                raise RunFailed("it is negative", faults[int(row[0])])
        if len(arrays["x"]) > self.room:
            raise RunFailed("failed to allocate", "memory")
        return {"y": arrays["x"] + 1}

    def encode(self, outputs: Mapping[str, Array], _parameters: Mapping[str, Any], _chunk_bytes: int) -> list[bytes]:
        return [b'{"y":%s}' % repr(outputs["y"].tolist()).encode()]

    def encode_batch(self, _outputs: Mapping[str, Array], _parameters: Any, _chunk_bytes: int) -> None:
        return None  # one by one

    def has_large_output(self, _outputs: Mapping[str, Array]) -> bool:
        return False


def items(*values: int, expires_at: float = float("inf"), retries: int = 0) -> list[WorkItem]:
    jobs = [ClaimedJob(f"00{n:032x}", 1, "raw", b"", b"{}", 0, 0, 0, retries) for n in range(len(values))]
    arrays = [{"x": np.array([value], np.float32)} for value in values]
    return [WorkItem(job, {}, 0.0, expires_at, arrays=one) for job, one in zip(jobs, arrays, strict=True)]


def rows(job_id: str, *values: int, max_output_bytes: int = 1000) -> list[WorkItem]:
    """The rows of one job."""
    job, joiner = (
        ClaimedJob(job_id, 1, "raw", b"", b"{}", 0, 0, 0, rows=len(values)),
        RowJoiner(len(values), max_output_bytes),
    )
    arrays = [{"x": np.array([value], np.float32)} for value in values]
    return [WorkItem(job, {}, 0.0, arrays=one, row=row, joiner=joiner) for row, one in enumerate(arrays)]


def block(job_id: str, *values: int, max_output_bytes: int = 1000) -> list[WorkItem]:
    """The rows of one job, stacked in one item."""
    first = rows(job_id, *values, max_output_bytes=max_output_bytes)[0]
    first.arrays, first.size, first.is_stacked = {"x": np.array(values, np.float32).reshape(-1, 1)}, len(values), True
    return [first]


def small_blocks(job_id: str, *values: int) -> list[WorkItem]:
    """The rows of one job, as a batch cuts them that has room for one of them only."""
    (rest,), cut_off = block(job_id, *values), []
    while rest.size > 1:
        first, rest = rest.cut(1)
        cut_off.append(first)
    return [*cut_off, rest]


def run(
    model: Faulty, in_batch: list[WorkItem], ceilings: MemoryLimits | None = None, journal: Path | None = None
) -> list[CompletedItem]:
    limits = ceilings or MemoryLimits(32)
    context: Any = RunContext(model, limits, InFlightJournal(journal, "w1", 1, 32), InlineRunPolicy([]))  # type: ignore[arg-type]
    return [one for one in BatchRun(context, "group", in_batch)() if isinstance(one, CompletedItem)]


@pytest.mark.parametrize("size", [2, 7, 8, 32])
def test_one_bad_item_costs_few_runs_at_any_position(size: int) -> None:
    for mark_ready in range(size):
        model = Faulty()
        ended = run(model, items(*(-1 if n == mark_ready else n for n in range(size))))
        states = [outcome.state for _, outcome in ended]
        assert [n for n, state in enumerate(states) if state != State.SUCCEEDED] == [mark_ready]
        assert [item.job.id for item, _ in ended] == [f"00{n:032x}" for n in range(size)]
        assert b"inference_failed" in ended[mark_ready].outcome.body
        assert ended[mark_ready].outcome.dead
        assert model.runs - 1 <= 2 * math.ceil(math.log2(size)) + 1


def test_all_items_may_be_bad() -> None:
    ended = run(Faulty(), items(*[-1] * 8))
    assert {outcome.state for _, outcome in ended} == {State.FAILED}


def test_out_of_memory_halves_the_batch_is_remembered_and_all_items_succeed() -> None:
    model, ceilings = Faulty(room=8), MemoryLimits(32)
    ended = run(model, items(*range(32)), ceilings)
    assert {outcome.state for _, outcome in ended} == {State.SUCCEEDED}
    assert {outcome.batch_size for _, outcome in ended} == {8}
    assert ceilings.of("group", 0) == 8


def test_an_item_too_large_alone_is_retried_later_and_finally_a_dead_letter() -> None:
    first, second, last = (run(Faulty(), items(-4, retries=n))[0].outcome for n in range(3))
    assert [one.state for one in (first, second, last)] == [State.QUEUED, State.QUEUED, State.FAILED]
    assert 800 <= first.after_ms <= 1200
    assert 1600 <= second.after_ms <= 2400
    assert b"resource_exhausted" in last.body
    assert last.dead


def test_a_lost_device_ends_the_run_and_its_items_are_the_suspects(tmp_path: Path) -> None:
    in_batch = items(1, -2, 3)
    with pytest.raises(DeviceLost):
        run(Faulty(), in_batch, journal=tmp_path / "box")
    left = read_journal(tmp_path / "box")
    assert left is not None
    assert left.claims == [item.job.claim for item in in_batch]


def test_after_a_good_run_the_journal_is_empty(tmp_path: Path) -> None:
    run(Faulty(), items(1, 2), journal=tmp_path / "box")
    left = read_journal(tmp_path / "box")
    assert left is not None
    assert left.claims == []


def test_a_stopped_run_expires_overdue_items_and_releases_the_others() -> None:
    (overdue,) = run(Faulty(), items(-3, expires_at=0.0))
    (other,) = run(Faulty(), items(-3))
    assert (overdue.outcome.state, other.outcome.state) == (State.EXPIRED, State.QUEUED)


def test_padding_that_does_not_fit_into_memory_is_left_out_from_then_on() -> None:
    model, ceilings = Faulty(room=4, bucket=8), MemoryLimits(32)
    states = [outcome.state for _, outcome in run(model, items(1, 2, 3), ceilings)]
    assert states == [State.SUCCEEDED] * 3
    assert ceilings.of("group", 0) < 8
    model.runs = 0
    assert [outcome.state for _, outcome in run(model, items(1), ceilings)] == [State.SUCCEEDED]
    assert model.runs == 1, "alone and without padding rows at once"


def test_a_lone_item_with_too_many_padding_rows_is_tried_again_without_them() -> None:
    model, ceilings = Faulty(room=1, bucket=8), MemoryLimits(32)
    (first,) = run(model, items(1), ceilings)
    assert first.outcome.state == State.QUEUED
    (second,) = run(model, items(1, retries=1), ceilings)
    assert second.outcome.state == State.SUCCEEDED


@pytest.mark.parametrize("split", [rows, small_blocks])
def test_the_rows_of_a_job_end_once_when_the_last_of_them_has_run(split: Split) -> None:
    """They ride in two batches, beside other jobs."""
    model, in_job, (first, second) = Faulty(), split("many", 5, 6, 7), items(1, 2)
    (alone,) = run(model, [in_job[0], first, in_job[1]])
    assert (alone.item, alone.outcome.batch_size) == (first, 3)
    other, whole = run(model, [second, in_job[2]])
    assert (other.item, whole.item.job, whole.item.row) == (second, in_job[0].job, None)
    assert (whole.outcome.state, whole.outcome.body) == (State.SUCCEEDED, b'{"y":[[6.0], [7.0], [8.0]]}')
    assert whole.outcome.batch_size == 3


@pytest.mark.parametrize("split", [rows, block])
@pytest.mark.parametrize("bad", [0, 3, 7])
def test_a_bad_row_fails_its_job_by_its_index_and_no_neighbour(split: Split, bad: int) -> None:
    in_job, others, other_job = (
        split("bad", *(-1 if n == bad else n for n in range(8))),
        items(*range(4)),
        split("b", 1, 2),
    )
    ended = run(Faulty(), [*others[:2], *in_job, *other_job, *others[2:]])
    by_job = {item.job.id: outcome for item, outcome in ended}
    assert len(ended) == len(by_job) == 6
    failed = by_job.pop("bad")
    assert (failed.state, orjson.loads(failed.body)["row"], failed.dead) == (State.FAILED, bad, True)
    assert {outcome.state for outcome in by_job.values()} == {State.SUCCEEDED}


@pytest.mark.parametrize("split", [rows, block])
def test_each_bad_row_has_an_outcome_of_which_the_first_counts(split: Split) -> None:
    ended = run(Faulty(), split("bad", 1, -1, 3, -1))
    assert [orjson.loads(outcome.body)["row"] for _, outcome in ended] == [1, 3]
    assert [item.end() for item, _ in ended] == [True, False]


@pytest.mark.parametrize("split", [rows, block])
def test_an_output_of_too_many_rows_fails_the_whole_job(split: Split) -> None:
    ended = [end for end in run(Faulty(), split("large", 1, 2, max_output_bytes=1)) if end.item.end()]
    errors = [orjson.loads(outcome.body) for _, outcome in ended]
    assert [(error["code"], "row" in error) for error in errors] == [("output_too_large", False)]


def test_a_block_is_bisected_in_few_runs_and_padded_to_its_bucket() -> None:
    model = Faulty(bucket=8)
    (failed,) = run(model, block("bad", 1, 2, 3, -1, 5))
    assert orjson.loads(failed.outcome.body)["row"] == 3
    assert model.runs <= 2 * math.ceil(math.log2(5)) + 2
    (whole,) = run(Faulty(bucket=8), block("many", 1, 2, 3))
    assert whole.outcome.body == b'{"y":[[2.0], [3.0], [4.0]]}'
    assert whole.outcome.batch_size == 3


def test_a_block_that_does_not_fit_into_memory_runs_in_parts() -> None:
    model, ceilings = Faulty(room=8), MemoryLimits(32)
    (ended,) = run(model, block("many", *range(32)), ceilings)
    assert (ended.outcome.state, ended.outcome.batch_size) == (State.SUCCEEDED, 8)
    assert ceilings.of("group", 0) == 8


@pytest.mark.parametrize("split", [rows, block])
def test_a_job_of_several_rows_is_one_suspect(tmp_path: Path, split: Split) -> None:
    in_batch = [*split("many", 1, -2, 3), *items(4)]
    with pytest.raises(DeviceLost):
        run(Faulty(), in_batch, journal=tmp_path / "journal")
    left = read_journal(tmp_path / "journal")
    assert left is not None
    assert left.claims == [in_batch[0].job.claim, in_batch[-1].job.claim]
