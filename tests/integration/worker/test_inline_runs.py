"""Short runs execute on the event loop's thread once measured; a long one costs a worker at most."""

import signal
from pathlib import Path

import pytest

from model_runtime.tensor_spec import TensorSpec
from tests.support.processes import program
from worker.execution.inline_runs import (
    LONG_S,
    MAX_DELAYED_RUNS,
    MIN_SHORT_RUNS,
    RUNS_AFTER_LONG,
    SHORT_S,
    InlineRunPolicy,
)

FLOATS = [TensorSpec("x", "FP32", (4,))]


def trusted() -> InlineRunPolicy:
    runs = InlineRunPolicy(FLOATS)
    for _ in range(MIN_SHORT_RUNS):
        assert not runs.is_expected_short(8)
        runs.record_run(SHORT_S, 8)
    assert runs.is_expected_short(8)
    return runs


def test_a_larger_batch_first_runs_off_the_loop() -> None:
    runs = trusted()
    assert not runs.is_expected_short(9)
    runs.record_run(SHORT_S, 9)
    assert runs.is_expected_short(9)


def test_batches_that_are_never_short_run_off_the_loop() -> None:
    runs = trusted()
    for _ in range(MAX_DELAYED_RUNS):
        assert runs.is_expected_short(6)
        runs.record_run(2 * SHORT_S, 6)
    assert not runs.is_expected_short(6)
    assert runs.is_expected_short(5)


def test_a_long_run_ends_inline_runs_for_a_long_time() -> None:
    runs = trusted()
    runs.record_run(2 * LONG_S, 8)
    for _ in range(RUNS_AFTER_LONG + MIN_SHORT_RUNS):
        assert not runs.is_expected_short(1)
        runs.record_run(SHORT_S, 1)
    assert runs.is_expected_short(1)


def test_a_delayed_run_is_ignored() -> None:
    runs = trusted()
    runs.record_run(LONG_S / 2, 8)
    assert runs.is_expected_short(8)


def test_a_run_that_waits_for_a_core_is_short() -> None:
    runs = trusted()
    for _ in range(2 * MAX_DELAYED_RUNS):
        runs.record_run(LONG_S / 2, 8, cpu_s=SHORT_S)
    assert runs.is_expected_short(8)
    runs.record_run(2 * LONG_S, 8, cpu_s=SHORT_S)
    assert not runs.is_expected_short(8)


@pytest.mark.parametrize("port", [TensorSpec("n", "INT64", (1,)), TensorSpec("x", "FP32", (-1,))])
def test_inputs_that_may_control_the_amount_of_work_never_run_inline(port: TensorSpec) -> None:
    runs = InlineRunPolicy([*FLOATS, port])
    for _ in range(2 * MIN_SHORT_RUNS):
        runs.record_run(0, 1)
    assert not runs.is_expected_short(1)


def test_an_inline_run_that_hangs_ends_its_process(tmp_path: Path) -> None:
    code = """
import asyncio, signal, time
from worker.execution.device import Device

async def work():
    device = Device(run_stop_timeout_s=0.2)
    assert device._run_inline(lambda: []) == []
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0
    signal.setitimer(signal.ITIMER_REAL, 60)
    device._run_inline(lambda: [])
    assert 50 < signal.getitimer(signal.ITIMER_REAL)[0] <= 60
    print("short", flush=True)
    device._run_inline(lambda: time.sleep(60))

asyncio.run(work())
"""
    log = tmp_path / "log"
    with program(code, log) as process:
        assert process.wait(20) == -signal.SIGALRM, log.read_text()
    assert log.read_text() == "short\n"
