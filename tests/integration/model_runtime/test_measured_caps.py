"""Measured batch caps: small where batching is costly, large where it is free, near the best of a sweep."""

import time
from pathlib import Path
from typing import NamedTuple

import pytest

from model_runtime.model import Model, load_model
from model_runtime.profiling.batch_cap import MeasuredModel, RunTimes
from model_runtime.repository.repository import ModelFolder, list_models
from tests.support import models

CLOSE = 1.05
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class Sweep(NamedTuple):
    """CPU-µs per row, by batch size."""

    cost: dict[int, float]

    def of(self, cap: int) -> float:
        return self.cost[cap]


def loaded(models_dir: Path) -> Model:
    (found,) = list_models(models_dir)
    assert isinstance(found, ModelFolder)
    return load_model(found)


def sweep(model: Model, rounds: int) -> Sweep:
    """The minimum over some rounds through all sizes, because other work only makes a run slower."""
    trial, best = MeasuredModel(model.inputs, model.run, spent=time.process_time), dict[int, RunTimes]()
    for size in SIZES:
        trial.warm_up(size)
    for _ in range(rounds):
        for size in SIZES:
            seen = trial.time(size)
            best[size] = seen if size not in best or seen.cost_s < best[size].cost_s else best[size]
    return Sweep({size: times.cost_s * 1e6 / size for size, times in best.items()})


def test_a_tiny_network_gets_a_large_cap(tmp_path: Path) -> None:
    models.perceptron(tmp_path, "tiny")
    model = loaded(tmp_path)
    assert model.max_batch >= 32
    found = sweep(model, 50)
    # A job costs some 150 µs in all; what its run costs of that is what the cap decides.
    outside_us = 150
    assert outside_us + found.of(model.max_batch) <= CLOSE * (outside_us + min(found.cost.values()))


def test_a_real_network_on_a_cpu_gets_a_small_one(tmp_path: Path, shared_data: Path) -> None:
    models.squeezenet(tmp_path, shared_data, "squeezenet1.1_fp32_dynbatch.derived.onnx")
    model = loaded(tmp_path)
    if model.card()["provider"] != "cpu":
        pytest.skip("a GPU runs it")
    assert model.max_batch <= 8
