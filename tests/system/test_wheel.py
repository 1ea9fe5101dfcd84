"""The wheel serves the bundled model in an empty folder, and tasks of one's own beside it."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from tests.support import models
from tests.support.service import DIGITS, QUICK, ROOT
from tests.support.waiting import wait_until

TASK = """
from jitney import Task

class Sum(Task):
    kinds = frozenset({"tensors"})

    def preprocess(self, kind, data, parameters):
        from jobs.contract.tensors import unpack_tensors
        import numpy as np
        return {"x": np.frombuffer(unpack_tensors(data)["x"].data, np.float32)}

    def postprocess(self, outputs, parameters):
        return {"sum": float(outputs["y"].sum())}
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts of an environment with our wheel; what it depends on is that of the tests."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    # A copy: a build writes beside the sources, and takes what an earlier one has left there.
    left_out = shutil.ignore_patterns(".*", "tests", "build", "dist", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, folder / "sources", ignore=left_out)
    subprocess.run([*pip, "wheel", "-q", "--no-deps", "-w", folder, folder / "sources"], check=True)
    (wheel,) = folder.glob("jitney-*.whl")
    environment = folder / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    python = environment / "bin" / "python"
    subprocess.run([*pip, "--python", python, "install", "-q", "--no-deps", wheel], check=True)
    paths = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    )
    # A line of a .pth file adds a folder, but not what .pth files in that folder add: our checkout.
    (Path(paths.stdout.strip()) / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return environment / "bin"


@contextmanager
def started(scripts: Path, folder: Path) -> Iterator[tuple[str, Path]]:
    """`jitney up` in a folder: its URL and its log."""
    log = folder.parent / f"{folder.name}.log"
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("JITNEY_", "PYTHONPATH"))}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [scripts / "jitney", "up"],
            cwd=folder,
            env={**kept, **QUICK, "JITNEY_PORT": "0"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        ready = wait_until(lambda: re.search(r"is ready in .*: (http://\S+)", log.read_text()), "it is ready", 60)
        yield ready[1], log
    finally:
        process.terminate()
        process.wait(20)


def test_an_empty_folder_serves_the_bundled_model(installed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    with started(installed, folder) as (url, log):
        digit = next(path for path in DIGITS if path.name.startswith("7"))
        answer = httpx2.post(f"{url}/predict", files={"image": digit.read_bytes()}, trust_env=False)
        assert answer.json()["predictions"][0]["label"] == "7"
        page = httpx2.get(url, trust_env=False)
        assert page.status_code == 200
        assert "<title>Jitney" in page.text
        for path in (
            "/docs",
            "/docs/docs.js",
            "/docs/swagger-ui-bundle.js",
            "/docs/swagger-ui.css",
            "/openapi.json",
            "/ops",
            "/ops/main.js",
        ):
            assert httpx2.get(f"{url}{path}", trust_env=False).status_code == 200, path
        assert "there is no folder models here" in log.read_text()
        assert str(ROOT) not in log.read_text()
    assert [path.name for path in folder.iterdir()] == [".data"]


def test_a_task_of_ones_own_lies_beside_its_model(installed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "own"
    models.doubling(folder / "models", "sums", 'task = "sum.py:Sum"')
    (folder / "models" / "sums" / "sum.py").write_text(TASK)
    with started(installed, folder) as (url, _):
        shape = httpx2.get(f"{url}/v1/models/sums", trust_env=False).json()["versions"][0]["inputs"][0]["shape"]
        size = shape[0]
        job = {
            "model": "sums",
            "input": {"tensors": {"x": {"datatype": "FP32", "shape": [size], "data": [1.5] * size}}},
        }
        answer = httpx2.post(f"{url}/v1/jobs", json=job, headers={"prefer": "wait=10"}, trust_env=False)
        assert answer.json()["output"] == {"sum": 3.0 * size}


def test_every_package_is_listed() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    tops = {name.partition(".")[0] for name in listed}
    found = {
        ".".join(path.parent.relative_to(ROOT).parts) for top in tops for path in (ROOT / top).rglob("__init__.py")
    }
    assert found - {*listed} == set()
    assert {*listed} - found == {"jitney.bundled_models"}
