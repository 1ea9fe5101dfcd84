"""Short runs stay on the loop's thread once they have shown to be short; one that is not costs a worker, no more."""

import signal
from pathlib import Path

import pytest

from model_runtime.tensor_spec import Port
from tests.support.processes import program
from worker.execution.inline_runs import DELAYED, IN_A_ROW, LONG_S, PATIENCE, SHORT_S, ShortRuns

FLOATS = [Port("x", "FP32", (4,))]


def trusted() -> ShortRuns:
    runs = ShortRuns(FLOATS)
    for _ in range(IN_A_ROW):
        assert not runs.expected(8)
        runs.took(SHORT_S, 8)
    assert runs.expected(8)
    return runs


def test_a_larger_batch_is_tried_elsewhere_before_it_is_trusted() -> None:
    runs = trusted()
    assert not runs.expected(9)
    runs.took(SHORT_S, 9)
    assert runs.expected(9)


def test_batches_that_are_never_short_go_elsewhere() -> None:
    runs = trusted()
    for _ in range(DELAYED):
        assert runs.expected(6)
        runs.took(2 * SHORT_S, 6)
    assert not runs.expected(6)
    assert runs.expected(5)


def test_a_long_run_costs_the_trust_for_a_long_time() -> None:
    runs = trusted()
    runs.took(2 * LONG_S, 8)
    for _ in range(PATIENCE + IN_A_ROW):
        assert not runs.expected(1)
        runs.took(SHORT_S, 1)
    assert runs.expected(1)


def test_a_run_that_was_delayed_says_nothing() -> None:
    runs = trusted()
    runs.took(LONG_S / 2, 8)
    assert runs.expected(8)


@pytest.mark.parametrize("port", [Port("n", "INT64", (1,)), Port("x", "FP32", (-1,))])
def test_inputs_that_may_say_how_much_is_to_be_done_are_never_trusted(port: Port) -> None:
    runs = ShortRuns([*FLOATS, port])
    for _ in range(2 * IN_A_ROW):
        runs.took(0, 1)
    assert not runs.expected(1)


def test_one_that_does_not_end_ends_its_process(tmp_path: Path) -> None:
    code = """
import asyncio, signal, time
from worker.execution.device import Device

async def work():
    device = Device(stuck_s=0.2)
    assert device._run_here(lambda: []) == []
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0
    signal.setitimer(signal.ITIMER_REAL, 60)
    device._run_here(lambda: [])
    assert 50 < signal.getitimer(signal.ITIMER_REAL)[0] <= 60
    print("short", flush=True)
    device._run_here(lambda: time.sleep(60))

asyncio.run(work())
"""
    log = tmp_path / "log"
    with program(code, log) as process:
        assert process.wait(20) == -signal.SIGALRM, log.read_text()
    assert log.read_text() == "short\n"
