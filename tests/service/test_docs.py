"""The examples of docs/api.md and docs/models.md, executed as they stand."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import models
from tests.support.service import DIGITS, ROOT, Service

API = (ROOT / "docs" / "api.md").read_text()
MODELS = (ROOT / "docs" / "models.md").read_text()


@pytest.fixture(scope="module")
def documented(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Serve what the documents speak of: digits, double, and digits again with the task of one's own."""
    models_dir = tmp_path_factory.mktemp("models")
    models.doubling(models_dir)
    shutil.copytree(ROOT / "models" / "digits", models_dir / "digits")
    own = shutil.copytree(ROOT / "models" / "digits", models_dir / "parity")
    (code,) = re.findall(r"```python\n(# models/digits/parity\.py.+?)```", MODELS, re.DOTALL)
    (own / "parity.py").write_text(code)
    toml = (own / "model.toml").read_text().replace('task = "image-classification"', 'task = "parity.py:Parity"')
    (own / "model.toml").write_text(toml)
    with Service(models_dir) as service:
        yield service


def test_every_door_of_the_api_takes_a_job(documented: Service, tmp_path: Path) -> None:
    (block,) = re.findall(r"Five doors.+?```sh\n(.+?)```", API, re.DOTALL)
    script = block.replace("http://localhost:8000", documented.url).replace(
        "curl ", "curl -sS -w '\\n%{http_code}\\n' "
    )
    (tmp_path / "samples").symlink_to(ROOT / "samples")
    floats = "printf '\\0\\0\\200\\77%.0s' 1 2 3 4 > four_floats.bin\n"
    assert floats.strip() in block
    done = subprocess.run(["bash", "-c", floats + script], cwd=tmp_path, capture_output=True, text=True, check=True)
    answers = done.stdout.split("\n")
    assert answers[1::2] == ["202"] * 5, done.stdout + done.stderr
    for answer in answers[0:10:2]:
        assert documented.final(json.loads(answer)["id"])["status"] == "succeeded"


def test_many_jobs_in_one_request_as_written(documented: Service, tmp_path: Path) -> None:
    (block,) = re.findall(r"### Many jobs in one request.+?```sh\n(.+?)```", API, re.DOTALL)
    script = block.replace("http://localhost:8000", documented.url).replace("curl ", "curl -sS -w '\\n' ")
    (tmp_path / "samples").symlink_to(ROOT / "samples")
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    images, tensors = (json.loads(answer)["jobs"] for answer in done.stdout.splitlines())
    found = [documented.final(job["id"])["output"]["predictions"][0]["label"] for job in images]
    assert (found, {job["lane"] for job in images}) == (["1", "2", "3"], {"bulk"})
    assert (tensors[0]["status"], tensors[0]["output"]["tensors"]["y"]["data"]) == ("succeeded", [2, 4, 6, 8])
    assert json.dumps(tensors[1]) in API


def test_a_task_of_ones_own_works_as_written(documented: Service) -> None:
    for digit in (DIGITS[0], DIGITS[-1]):
        files = {"image": (digit.name, digit.read_bytes())}
        answer = documented.http.post("/predict", files=files, data={"model": "parity"}).json()
        assert answer["predictions"][0]["label"] == ("even" if int(digit.name[0]) % 2 == 0 else "odd")


def test_the_example_of_squeezenet_is_the_one_that_is_tested() -> None:
    (toml,) = re.findall(r"```toml\n(.+?)```", MODELS, re.DOTALL)
    assert toml.strip() == models.SQUEEZENET_TOML.strip()
