"""Numbers of GPUs, by a stand-in for NVIDIA's library: there is no GPU here."""

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from worker import gpu_meter
from worker.gpu_meter import GpuMeter


class Library(ModuleType):
    """A driver with two GPUs."""

    inits = 0
    fails = False

    def nvmlInit(self) -> None:  # noqa: N802 (the library's)
        self.inits += 1
        if self.fails:
            raise RuntimeError("no driver")

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Any:  # noqa: N802
        return index

    def nvmlDeviceGetHandleByUUID(self, name: str) -> Any:  # noqa: N802
        return {"GPU-a": 0, "GPU-b": 1}[name]

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:  # noqa: N802
        return SimpleNamespace(used=handle * 10 + 1, total=100)

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> Any:  # noqa: N802
        return SimpleNamespace(gpu=25 * (handle + 1))


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Library:
    made = Library("pynvml")
    monkeypatch.setitem(sys.modules, "pynvml", made)
    monkeypatch.setattr(gpu_meter, "find_spec", lambda _: made)
    return made


@pytest.mark.parametrize(("visible", "first"), [("", 0), ("1,0", 1), ("GPU-b,GPU-a", 1), ("7", 0)])
def test_each_gpu_is_read_by_its_cuda_number(
    library: Library, monkeypatch: pytest.MonkeyPatch, visible: str, first: int
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible if visible != "7" else "0,1")
    meter = GpuMeter()
    one, other = meter.read({0, 1})
    assert one == {"gpu": 0, "used_bytes": first * 10 + 1, "total_bytes": 100, "busy": 0.25 * (first + 1)}
    assert other["gpu"] == 1
    meter.read({0, 1})
    assert library.inits == 1


def test_without_gpus_in_use_nothing_is_loaded(library: Library) -> None:
    assert GpuMeter().read(set()) == []
    assert library.inits == 0


def test_a_driver_that_fails_is_asked_once(library: Library) -> None:
    library.fails = True
    meter = GpuMeter()
    assert [meter.read({0}), meter.read({0})] == [[], []]
    assert library.inits == 1


def test_without_the_library_there_are_no_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_meter, "find_spec", lambda _: None)
    assert GpuMeter().read({0}) == []
