"""The batch cap follows from measurement: with a manual clock, and with a real network."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from model_runtime.model import load_model
from model_runtime.profiling import batch_cap
from model_runtime.profiling.batch_cap import (
    BUDGET_S,
    MAX_LENGTHS_RUN_S,
    MAX_MEASURED_BATCH,
    MAX_RUN_OVERHEAD,
    MAX_TINY_BATCH,
    OUTSIDE_RUN_MS,
    LengthCosts,
    MeasuredModel,
    Profile,
    length_costs,
)
from model_runtime.repository.repository import ModelFolder, list_models
from model_runtime.tensor_spec import Array, TensorSpec
from tests.support import models

ROW = [TensorSpec("x", "FP32", (3,))]


class Machine:
    """A fake model whose runs take a given time and are counted."""

    def __init__(self, seconds: Callable[[int], float]) -> None:
        self.now, self.sizes, self._seconds = 0.0, list[int](), seconds

    def run(self, arrays: dict[str, Array]) -> None:
        rows = len(arrays["x"])
        assert arrays["x"].shape == (rows, 3)
        self.sizes.append(rows)
        self.now += self._seconds(rows)

    def measure(self, largest_tiny: int = MAX_MEASURED_BATCH) -> batch_cap.Profile:
        measured = MeasuredModel(ROW, self.run, lambda: self.now)
        return batch_cap.measure_profile(measured, largest_tiny=largest_tiny)


def test_the_cap_is_large_where_the_call_overhead_dominates() -> None:
    found = Machine(lambda rows: 0.001 + 0.000001 * rows).measure()
    assert found.cap == MAX_MEASURED_BATCH
    assert found.run_ms[1] == pytest.approx(1.001)


@pytest.mark.parametrize(("us_a_row", "cap"), [(1, 512), (6, 256), (20, 64), (500, 64)])
def test_larger_caps_are_only_for_tiny_models(us_a_row: int, cap: int) -> None:
    """256 rows of 6 µs take 1.6 ms, 512 would take more than 2 ms."""
    machine = Machine(lambda rows: 0.00002 + us_a_row / 1e6 * rows)
    assert machine.measure(MAX_TINY_BATCH).cap == cap
    assert max(machine.sizes) == cap
    assert machine.measure().cap == MAX_MEASURED_BATCH


def test_a_tiny_run_that_is_longer_than_expected_is_no_cap() -> None:
    machine = Machine(lambda rows: 0.0001 if rows < 256 else 0.0021)
    assert machine.measure(MAX_TINY_BATCH).cap == 128


def test_expensive_rows_are_not_batched_and_large_batches_are_not_tried() -> None:
    machine = Machine(lambda rows: 0.06 * rows)
    assert machine.measure().cap == 1
    assert max(machine.sizes) == 4


def test_rows_of_equal_cost_are_batched_as_long_as_the_run_is_short() -> None:
    machine = Machine(lambda rows: 0.005 * rows)
    assert machine.measure().cap == 8  # 40 ms
    assert max(machine.sizes) == 8


def test_a_batch_that_is_slower_by_the_row_is_too_large() -> None:
    times = {1: 4.0, 2: 4.4, 4: 8.0, 8: 15.0, 16: 40.0, 32: 90.0, 64: 200.0}  # 8 is the best
    assert Machine(lambda rows: times[rows] / 1000).measure().cap == 8


def test_the_smallest_nearly_best_size_is_chosen_of_long_batches() -> None:
    times = {1: 400.0, 2: 440.0, 4: 840.0}
    found = Machine(lambda rows: times[rows] / 10_000).measure()
    assert found.cap == 2  # 44 ms; 4 is hardly faster by the row
    times = {1: 60.0, 2: 64.0, 4: 100.0, 8: 190.0}
    assert Machine(lambda rows: times[rows] / 1000).measure().cap == 4


def test_one_slow_run_does_not_make_a_model_slow() -> None:
    machine = Machine(lambda rows: 0.5 if len(machine.sizes) == 2 else 0.001 + 0.000001 * rows)
    assert machine.measure().cap == MAX_MEASURED_BATCH


def test_a_slow_model_is_not_measured_for_long() -> None:
    machine = Machine(lambda rows: 0.15 * rows)
    found = machine.measure()
    assert (found.cap, list(found.run_ms)) == (1, [1, 2])
    assert machine.now <= BUDGET_S


def test_a_failing_size_ends_the_measurement() -> None:
    def seconds(rows: int) -> float:
        if rows == 8:
            raise MemoryError
        return 0.001

    assert Machine(seconds).measure().cap == 4


def test_open_shapes_and_models_that_take_no_zeros_are_not_measured() -> None:
    def refuse(_: dict[str, Array]) -> None:
        raise ValueError

    assert batch_cap.measure_profile(MeasuredModel([TensorSpec("x", "FP32", (-1,))], refuse))[:3] == (32, {}, None)
    found = batch_cap.measure_profile(MeasuredModel(ROW, refuse))
    assert found[:2] == (32, {})
    assert isinstance(found.error, ValueError)


def test_a_cap_set_by_the_operator_is_not_measured(tmp_path: Path) -> None:
    models.doubling(tmp_path, "set", 'task = "tensor"\nmax_batch = 5')
    models.doubling(tmp_path, "found")
    folders = [one for one in list_models(tmp_path) if isinstance(one, ModelFolder)]
    cards = {model.name: model.card() for model in map(load_model, folders)}
    assert (cards["set"]["max_batch"], cards["set"]["run_ms"]) == (5, {})
    assert cards["found"]["max_batch"] in {2**power for power in range(10)}, "a tiny model on a CPU may have 512"
    assert cards["found"]["run_ms"]["1"] > 0
    assert load_model(folders[0]).run({"x": np.ones((1, 4), np.float32)})["y"].tolist() == [[2.0] * 4]


def test_cpu_time_decides_on_a_cpu_and_not_wall_time() -> None:
    """On a busy machine the first runs of larger batches are delayed, but cost no more."""

    def seconds(rows: int) -> float:
        return 0.001 * rows * (1 if rows == 1 else 3)

    machine = Machine(seconds)
    spent = [0.0]

    def run(arrays: dict[str, Array]) -> None:
        machine.run(arrays)
        spent[0] += 0.0005 + 0.0005 * len(arrays["x"])

    found = batch_cap.measure_profile(MeasuredModel(ROW, run, lambda: machine.now, lambda: spent[0]))
    assert found.cap == 16  # in 48 ms; by the row it costs 0.531 ms, 8 cost 0.562, 64 cost 0.508
    assert found.run_ms[4] == pytest.approx(12)


def test_the_costs_of_lengths_are_fitted_to_the_times_of_runs() -> None:
    """A run costs 2 ms and 0.1 ms a token; one row alone is slower than that, as kernels are not full."""
    cost_ms = {size: 2 + 0.1 * 16 * size + (3 if size == 1 else 0) for size in (1, 2, 4, 8)}
    costs = length_costs(Profile(8, {size: ms / 2 for size, ms in cost_ms.items()}, cost_ms=cost_ms), 16)
    assert costs.run_overhead == pytest.approx((2 + OUTSIDE_RUN_MS) / 0.1)
    assert costs.max_cost == pytest.approx(MAX_LENGTHS_RUN_S * 1000 / 0.05)


def test_a_batch_of_lengths_may_have_as_much_as_one_of_the_cap() -> None:
    slow = {size: 100.0 * 16 * size for size in (1, 2, 4)}
    assert length_costs(Profile(4, slow, cost_ms=slow), 16).max_cost == 64


def test_runs_that_all_cost_the_same_bring_all_lengths_together() -> None:
    flat = dict.fromkeys((1, 2, 4), 5.0)
    assert length_costs(Profile(4, flat, cost_ms=flat), 16) == LengthCosts(MAX_RUN_OVERHEAD)
    assert length_costs(Profile(32, {}), 16) == LengthCosts()


@pytest.mark.parametrize(
    ("cap", "run_ms", "batches"),
    [(8, {8: 0.5}, 4), (8, {8: 1.9}, 2), (8, {8: 4.1}, 1), (8, {}, 1), (8, {16: 0.5}, 1)],
)
def test_short_runs_are_claimed_for_ahead(cap: int, run_ms: dict[int, float], batches: int) -> None:
    assert batch_cap.count_prefetched_batches(Profile(cap, run_ms)) == batches
