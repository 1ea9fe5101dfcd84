"""The examples of docs/reference/http-api.md, executed as they stand."""

import json
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import models
from tests.support.model_files import text
from tests.support.servers import free_port
from tests.support.service import ROOT, Service
from tests.support.waiting import wait_until

API = (ROOT / "docs" / "reference" / "http-api.md").read_text()


@pytest.fixture(scope="module")
def documented(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Serve the documented models: digits, double, and some for text."""
    models_dir = tmp_path_factory.mktemp("models")
    models.doubling(models_dir)
    text.encoder(models_dir, "sentences")
    text.ranker(models_dir)
    text.classifier(models_dir)
    shutil.copytree(ROOT / "models" / "digits", models_dir / "digits")
    with Service(models_dir) as service:
        count = len([*models_dir.iterdir()])
        wait_until(lambda: len(service.http.get("/v1/models").json()["models"]) == count, "all models are served")
        yield service


def test_every_documented_way_to_submit_works(documented: Service, tmp_path: Path) -> None:
    (block,) = re.findall(r"### Content types.+?```sh\n(.+?)```", API, re.DOTALL)
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


def test_the_example_of_many_jobs_in_one_request_works(documented: Service, tmp_path: Path) -> None:
    (block,) = re.findall(r"### Many jobs in one request.+?```sh\n(.+?)```", API, re.DOTALL)
    script = block.replace("http://localhost:8000", documented.url).replace("curl ", "curl -sS -w '\\n' ")
    (tmp_path / "samples").symlink_to(ROOT / "samples")
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    images, tensors = (json.loads(answer)["jobs"] for answer in done.stdout.splitlines())
    found = [documented.final(job["id"])["output"]["predictions"][0]["label"] for job in images]
    assert (found, {job["lane"] for job in images}) == (["1", "2", "3"], {"bulk"})
    assert (tensors[0]["status"], tensors[0]["output"]["tensors"]["y"]["data"]) == ("succeeded", [2, 4, 6, 8])
    assert json.dumps(tensors[1]) in API


def test_the_example_of_a_job_of_several_rows_works(documented: Service, tmp_path: Path) -> None:
    (block, shown) = re.findall(r"### A job of several rows.+?```sh\n(.+?)```\n```json\n(.+?)```", API, re.DOTALL)[0]
    script = block.replace("http://localhost:8000", documented.url).replace("curl ", "curl -sS -w '\\n' ")
    floats = "printf '\\0\\0\\200\\77%.0s' 1 2 3 4 > four_floats.bin\n"
    done = subprocess.run(["bash", "-c", floats + script], cwd=tmp_path, capture_output=True, text=True, check=True)
    tensors, raw = (json.loads(answer) for answer in done.stdout.splitlines())
    assert tensors["output"] == json.loads(shown)["output"]
    assert documented.final(raw["id"])["output"]["tensors"]["y"] == {
        "datatype": "FP32",
        "shape": [2, 4],
        "data": [2.0] * 8,
    }


def test_the_examples_of_texts_work(documented: Service) -> None:
    (section,) = re.findall(r"## Texts: .+?\n## ", API, re.DOTALL)
    examples = re.findall(r"```sh\n(.+?)```\n```json\n(.+?)```", section, re.DOTALL)
    assert len(examples) == 2
    for script, shown in examples:
        command = script.replace("http://localhost:8000", documented.url)
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
        answer, expected = json.loads(done.stdout), json.loads(shown)
        for entry in expected.get("data", []):
            entry["embedding"] = pytest.approx(entry["embedding"], rel=1e-6)
        assert answer == expected


def test_the_example_of_predict_with_a_text_works(documented: Service, tmp_path: Path) -> None:
    (script, shown) = re.findall(r"## `POST /predict`.+?```sh\n(.+?)```\n```json\n(.+?)```", API, re.DOTALL)[0]
    command = script.replace("http://localhost:8000", documented.url)
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == json.loads(shown)


def test_the_documented_webhooks_arrive(tmp_path: Path) -> None:
    (block,) = re.findall(r"## Webhooks.+?```sh\n(.+?)```", API, re.DOTALL)
    port = free_port()
    (tmp_path / "samples").symlink_to(ROOT / "samples")
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    with Service(env={"JITNEY_WEBHOOK_ALLOW_CIDRS": "127.0.0.1/32"}) as service:
        before, submit, after = re.split(r"(?m)^(curl -F.+\n)", block)
        words = {"http://localhost:8000": service.url, "127.0.0.1:9000": f"127.0.0.1:{port}", "curl ": "curl -sS "}
        words |= {"python3 examples": f"JITNEY_PORT={port} exec {sys.executable} examples", "python3": sys.executable}

        def as_here(text: str, job: str = "") -> str:
            for word, meant in words.items():
                text = text.replace(word, meant)
            return text.replace("ID", job) if job else text

        receiving = as_here(before).replace(" &\n", "\n").replace("SECRET=$SECRET ", "export SECRET; ")
        said = tmp_path / "said"
        with said.open("wb") as out:
            receiver = subprocess.Popen(["bash", "-c", receiving], cwd=tmp_path, stdout=out, stderr=subprocess.DEVNULL)
        try:
            wait_until(lambda: _listens(port), "the receiver listens")
            done = subprocess.run(
                ["bash", "-c", as_here(submit)], cwd=tmp_path, capture_output=True, text=True, check=True
            )
            job = json.loads(done.stdout)["id"]
            wait_until(lambda: said.read_text().startswith(f"job.succeeded {job} {{'predictions'"), "it is told")
            done = subprocess.run(["bash", "-c", as_here(after, job)], capture_output=True, text=True, check=True)
            wait_until(lambda: said.read_text().count(job) == 2, "so is the other webhook")
        finally:
            receiver.kill()
            receiver.wait()
        attached, _, listed = done.stdout.partition("}{")
        assert '"state":"waiting"' in attached
        assert listed.count(f'"job":"{job}"') == 2


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
