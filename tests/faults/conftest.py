"""One cluster for all tests of faults: each breaks something, is healed, and is held to every promise."""

import os
import random
import secrets
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import SHARED_DATA
from tests.faults.cluster import Cluster
from tests.faults.scenario import Scenario
from tests.support import models
from tests.support.service import ROOT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@pytest.fixture(scope="session")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every model that a fault is tried on."""
    folder = tmp_path_factory.mktemp("faults") / "models"
    shutil.copytree(ROOT / "models" / "digits", folder / "digits")
    models.doubling(folder)
    models.slow(folder)
    if SHARED_DATA.is_dir():
        models.squeezenet(folder, SHARED_DATA, "squeezenet1.1_fp32_dynbatch.derived.onnx")
    return folder


@pytest.fixture(scope="session")
def whole_cluster(models_dir: Path) -> Iterator[Cluster]:
    with Cluster(models_dir) as cluster:
        yield cluster


@pytest.fixture
def scenario(whole_cluster: Cluster, tmp_path: Path) -> Iterator[Scenario]:
    """A healthy cluster to break; at the end it is healed, and everything that was promised is checked."""
    seed = int(os.environ.get("FAULT_SEED") or secrets.randbelow(1 << 32))
    sys.stdout.write(f"FAULT_SEED={seed} repeats this\n")
    with Scenario(whole_cluster, seed, tmp_path / "history.jsonl") as one:
        yield one


@pytest.fixture
def chance(scenario: Scenario) -> random.Random:
    return scenario.random
