"""One cluster for all fault tests; after each test it is repaired and every promise is checked."""

import os
import secrets
import shutil
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.support import models
from tests.support.cluster.cluster import Cluster
from tests.support.cluster.scenario import Scenario
from tests.support.service import ROOT

FAILED = pytest.StashKey[bool]()
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@pytest.fixture(scope="package")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models of all fault tests; test_worker_faults adds its own, which each worker would load at each start."""
    folder = tmp_path_factory.mktemp("faults") / "models"
    shutil.copytree(ROOT / "models" / "digits", folder / "digits")
    models.doubling(folder)
    models.slow(folder)
    models.looping(folder)
    models.allocating(folder)
    models.poison(folder)
    (models.doubling(folder, "truncated") / "1" / "model.onnx").write_bytes(
        (ROOT / "models" / "digits" / "1" / "model.onnx").read_bytes()[:2000]
    )
    return folder


@pytest.fixture(scope="package")
def whole_cluster(models_dir: Path) -> Iterator[Cluster]:
    with Cluster(models_dir, {"JITNEY_RESTART_LIMIT_S": "1"}) as cluster:
        yield cluster


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Tell the scenario whether its test has failed: then its history matters more than the checks."""
    report = yield
    if report.failed:
        item.stash[FAILED] = True
    return report


@pytest.fixture
def scenario(whole_cluster: Cluster, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Scenario]:
    """A healthy cluster to break; at the end it is repaired, and every promise is checked."""
    seed = int(os.environ.get("FAULT_SEED") or secrets.randbelow(1 << 32))
    sys.stdout.write(f"FAULT_SEED={seed} repeats this\n")
    one = Scenario(whole_cluster, seed, tmp_path / "history.jsonl")
    one.enter()
    yield one
    one.leave(failed=request.node.stash.get(FAILED, False))
