"""Memory stays flat after warm-up for any batch sizes; `make long NAME=flat` is the long form."""

import shutil
from pathlib import Path

import pytest

from tests.long.benchmarks import flat
from tests.support import models

SHORT = 400


@pytest.mark.parametrize("toml", ["", "buckets = [1, 4, 16, 64]"])
def test_random_batch_sizes_leave_memory_flat(toml: str, tmp_path: Path) -> None:
    models.perceptron(tmp_path, "tiny")
    (tmp_path / "tiny" / "model.toml").write_text(f'task = "tensor"\nmax_batch = 64\n{toml}')
    found = flat.measure_in_subprocess(tmp_path / "tiny", SHORT)
    assert found["items"] > 10 * SHORT
    assert found["growth"] <= flat.MOST_GROWTH, found


def test_random_batch_sizes_leave_memory_of_a_convolutional_network_flat(tmp_path: Path) -> None:
    shutil.copytree(flat.ROOT / "models" / "digits", tmp_path / "digits")
    found = flat.measure_in_subprocess(tmp_path / "digits", SHORT)
    assert found["growth"] <= flat.MOST_GROWTH, found
