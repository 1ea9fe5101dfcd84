"""Batch sizes whose arrays stay on the device: the same answers, each caller's own. Here the device is the CPU."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tests.support import models
from worker.models.engine import Gpu, RunFailed, Stop
from worker.models.session import Session


@pytest.fixture
def session(tmp_path: Path) -> Session:
    """Doubles; batches of 4 are bound, to the CPU's memory."""
    opened = Session(models.doubling(tmp_path) / "1" / "model.onnx", "cpu", 1, Gpu())
    opened.bind({"x": np.zeros((4, 4), np.float32)}, "cpu")
    return opened


def rows(count: int, first: float = 0) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return (np.arange(count * 4, dtype=np.float32) + first).reshape(count, 4)


def test_a_bound_size_answers_as_it_did(session: Session) -> None:
    assert np.array_equal(session.run({"x": rows(4)})["y"], 2 * rows(4))
    assert session.note == ""


def test_an_answer_is_not_overwritten_by_the_next(session: Session) -> None:
    first = session.run({"x": rows(4)})["y"]
    session.run({"x": rows(4, 100)})
    assert np.array_equal(first, 2 * rows(4))


def test_other_sizes_run_as_ever(session: Session) -> None:
    for count in (1, 3, 5):
        assert np.array_equal(session.run({"x": rows(count)})["y"], 2 * rows(count))


def test_what_does_not_fit_fails_as_it_does_unbound(session: Session) -> None:
    for wrong in (np.ones((4, 5), np.float32), np.ones((4, 4), np.float64)):
        with pytest.raises(RunFailed) as caught:
            session.run({"x": wrong})
        assert caught.value.fault == "input"
    assert np.array_equal(session.run({"x": rows(4)})["y"], 2 * rows(4))


def test_threads_do_not_get_each_others_rows(session: Session) -> None:
    with ThreadPoolExecutor(4) as pool:
        for first, found in enumerate(pool.map(lambda n: session.run({"x": rows(4, n)})["y"], range(400))):
            assert np.array_equal(found, 2 * rows(4, first))


def test_a_bound_run_is_stopped_too(session: Session) -> None:
    stop = Stop()
    assert not stop.is_set
    stop.now()
    assert stop.is_set
    with pytest.raises(RunFailed) as caught:
        session.run({"x": rows(4)}, stop)
    assert caught.value.fault == "stopped"


def test_each_bound_size_is_a_graph_of_its_own_and_others_are_none(session: Session) -> None:
    """On CUDA each run says which graph it is; the CPU takes the same options, and records nothing."""
    session.provider = "cuda"  # what the options go by
    stop = Stop()
    assert np.array_equal(session.run({"x": rows(4)}, stop)["y"], 2 * rows(4))
    assert stop.options.get_run_config_entry("gpu_graph_id") == "4"
    session.run({"x": rows(3)}, stop)
    assert stop.options.get_run_config_entry("gpu_graph_id") == "-1"


def test_a_bound_size_that_answers_otherwise_is_given_up_and_said(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.models.bound.Bound.run", lambda *_: {"y": np.ones((2, 4), np.float32)})
    session.bind({"x": rows(2)}, "cpu")
    assert session.note == "batches of 2 are not bound to the device: they answered otherwise so"
    assert np.array_equal(session.run({"x": rows(2)})["y"], 2 * rows(2))


def test_where_nodes_run_is_told(session: Session) -> None:
    assert session.placement == {"cpu": 1}
