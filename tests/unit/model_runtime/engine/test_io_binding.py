"""Batch sizes with I/O binding give each caller the same answer; the CPU stands in for the device."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from model_runtime.engine.onnx_engine import GpuOptions, OnnxEngine, RunFailed, Stop
from model_runtime.engine.onnx_session import OnnxSession
from model_runtime.engine.providers import ProviderOptions
from model_runtime.spec.model_toml import ModelError
from model_runtime.tensor_spec import Array
from tests.support import models


@pytest.fixture
def session(tmp_path: Path) -> OnnxSession:
    """A doubling model; batches of 4 are bound to the CPU's memory."""
    opened = OnnxSession(models.doubling(tmp_path) / "1" / "model.onnx", "cpu", 1, GpuOptions())
    opened.bind_buffers({"x": np.zeros((4, 4), np.float32)}, "cpu")
    return opened


def rows(count: int, first: float = 0) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return (np.arange(count * 4, dtype=np.float32) + first).reshape(count, 4)


def test_a_bound_size_gives_the_same_answer(session: OnnxSession) -> None:
    assert np.array_equal(session.run({"x": rows(4)})["y"], 2 * rows(4))
    assert session.note == ""


def test_an_answer_is_not_overwritten_by_the_next(session: OnnxSession) -> None:
    first = session.run({"x": rows(4)})["y"]
    session.run({"x": rows(4, 100)})
    assert np.array_equal(first, 2 * rows(4))


def test_other_sizes_run_unbound(session: OnnxSession) -> None:
    for count in (1, 3, 5):
        assert np.array_equal(session.run({"x": rows(count)})["y"], 2 * rows(count))


def test_an_input_that_does_not_fit_fails_as_unbound(session: OnnxSession) -> None:
    for wrong in (np.ones((4, 5), np.float32), np.ones((4, 4), np.float64)):
        with pytest.raises(RunFailed) as caught:
            session.run({"x": wrong})
        assert caught.value.fault == "input"
    assert np.array_equal(session.run({"x": rows(4)})["y"], 2 * rows(4))


def test_threads_do_not_get_each_others_rows(session: OnnxSession) -> None:
    with ThreadPoolExecutor(4) as pool:
        for first, found in enumerate(pool.map(lambda n: session.run({"x": rows(4, n)})["y"], range(400))):
            assert np.array_equal(found, 2 * rows(4, first))


def test_a_bound_run_is_stopped_too(session: OnnxSession) -> None:
    stop = Stop()
    assert not stop.is_set
    stop.now()
    assert stop.is_set
    with pytest.raises(RunFailed) as caught:
        session.run({"x": rows(4)}, stop)
    assert caught.value.fault == "stopped"


def test_each_bound_size_has_its_own_graph_and_other_sizes_have_none(session: OnnxSession) -> None:
    """On CUDA each run names its graph; the CPU accepts the same options and records nothing."""
    session.provider = "cuda"  # what the options go by
    stop = Stop()
    assert np.array_equal(session.run({"x": rows(4)}, stop)["y"], 2 * rows(4))
    assert stop.options.get_run_config_entry("gpu_graph_id") == "4"
    session.run({"x": rows(3)}, stop)
    assert stop.options.get_run_config_entry("gpu_graph_id") == "-1"


def test_a_bound_size_with_differing_answers_is_dropped_and_reported(
    session: OnnxSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model_runtime.engine.io_binding.IoBinding.run", lambda *_: {"y": np.ones((2, 4), np.float32)})
    session.bind_buffers({"x": rows(2)}, "cpu")
    assert session.note == "batches of 2 use no bound buffers: their results differed"
    assert np.array_equal(session.run({"x": rows(2)})["y"], 2 * rows(2))


def test_the_placement_of_nodes_is_reported(session: OnnxSession) -> None:
    assert session.placement == {"cpu": 1}


def test_outputs_of_no_fixed_shape_are_not_bound(tmp_path: Path) -> None:
    """The number of detections varies from run to run: no buffer size fits all."""
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", "S"]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "open", ports[:1], ports[1:])
    onnx.save(helper.make_model(graph, ir_version=8), tmp_path / "model.onnx")
    engine = OnnxEngine(tmp_path / "model.onnx", "cpu", 1)
    engine.provider = "cuda"  # what preparing goes by; to bind would want its memory
    engine.warm_up({"x": rows(2)})
    assert np.array_equal(engine.run({"x": rows(2)})["y"], rows(2))


def test_a_model_that_cannot_be_recorded_is_reopened_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime refuses the whole session if a node stays on the CPU; the CPU stands in for CUDA."""
    path, asked = models.doubling(tmp_path) / "1" / "model.onnx", []
    open_it = OnnxSession._create_session

    def refuse_graphs(self: OnnxSession, threads: int, providers: ProviderOptions) -> object:
        asked.append(providers)
        if "enable_cuda_graph" in str(providers):
            raise ModelError(path, None, "not all nodes are CUDA's")
        monkeypatch.setattr(self, "provider", "cpu")
        return open_it(self, threads, ["CPUExecutionProvider"])

    monkeypatch.setattr(OnnxSession, "_create_session", refuse_graphs)
    session = OnnxSession(path, "cuda", 1, GpuOptions(device=1))
    assert session.note == "without CUDA graphs: not all nodes are CUDA's; 1 of 1 nodes run on the CPU"
    assert [("enable_cuda_graph" in str(one), "'device_id': '1'" in str(one)) for one in asked] == [
        (True, True),
        (False, True),
    ]
    stop = Stop()
    session.run({"x": rows(1)}, stop)
    with pytest.raises(RuntimeError, match="does not have configuration with key: gpu_graph_id"):
        stop.options.get_run_config_entry("gpu_graph_id")


def test_all_recordable_runs_use_one_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime allows only this for CUDA graphs; the CPU stands in for CUDA."""
    path, threads, open_it = models.doubling(tmp_path) / "1" / "model.onnx", set(), OnnxSession._create_session

    def on_the_cpu(self: OnnxSession, count: int, _: ProviderOptions) -> object:
        with monkeypatch.context() as patch:
            patch.setattr(self, "provider", "cpu")
            return open_it(self, count, ["CPUExecutionProvider"])

    def noted(self: OnnxSession, feed: dict[str, Array], stop: Stop | None, count: int) -> dict[str, Array]:
        threads.add(threading.current_thread().name)
        return run(self, feed, stop, count)

    run = OnnxSession._run
    monkeypatch.setattr(OnnxSession, "_create_session", on_the_cpu)
    monkeypatch.setattr(OnnxSession, "_run", noted)
    session = OnnxSession(path, "cuda", 1, GpuOptions())
    session.bind_buffers({"x": rows(4)}, "cpu")
    with ThreadPoolExecutor(4) as pool:
        for count, found in zip((1, 4) * 50, pool.map(lambda n: session.run({"x": rows(n)}), (1, 4) * 50), strict=True):
            assert np.array_equal(found["y"], 2 * rows(count))
    assert threads == {"cuda-graphs_0"}
