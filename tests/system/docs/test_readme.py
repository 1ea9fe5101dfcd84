"""The commands at the top of the README, executed, give the output it shows."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from tests.support.model_files import graphs
from tests.support.service import Service
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[3]
README = (ROOT / "README.md").read_text()
RUN_IT = README.partition("## Run it")[2].partition("\n## ")[0]
EXAMPLES = re.findall(r"```sh\n(curl .+?)\n```\n```json\n(.+?)\n```", RUN_IT, re.DOTALL)
VOLATILE = {"id", "created_at", "started_at", "finished_at", "timings", "urls", "batch_size"}


def test_the_readme_has_commands_to_try() -> None:
    assert len(EXAMPLES) == 2


@pytest.mark.parametrize(("command", "shown"), EXAMPLES)
def test_each_curl_command_gives_the_shown_output(service: Service, command: str, shown: str) -> None:
    words = shlex.split(command.replace("http://localhost:8000", service.url))
    done = subprocess.run([*words, "-sS"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=30)
    assert steady(json.loads(done.stdout)) == steady(json.loads(shown))


def test_the_lines_for_a_model_of_ones_own_serve_it(tmp_path: Path) -> None:
    (block,) = re.findall(r"## Serve your own model.+?```sh\n(.+?)```", README, re.DOTALL)
    shutil.copytree(ROOT / "models" / "digits", tmp_path / "models" / "digits")
    nodes = [graphs.node("GlobalAveragePool", ["image"], ["means"]), graphs.node("Flatten", ["means"], ["y"])]
    graphs.write(tmp_path / "network.onnx", nodes, {"image": ["N", 3, 224, 224]}, {"y": ["N", 3]})
    (tmp_path / "labels.txt").write_text("red\ngreen\nblue\n")
    PIL.Image.new("RGB", (400, 300), (0, 200, 0)).save(tmp_path / "photo.jpg")
    put, _, curl = block.partition("curl ")
    with Service(tmp_path / "models", {"JITNEY_MODELS_POLL_S": "0.2"}) as service:
        subprocess.run(["bash", "-ec", put], cwd=tmp_path, check=True)
        words = shlex.split(curl.replace("http://localhost:8000", service.url))

        def label() -> str:
            done = subprocess.run(["curl", "-sS", *words], cwd=tmp_path, capture_output=True, text=True, check=True)
            return json.loads(done.stdout)["predictions"][0]["label"] if '"label"' in done.stdout else ""

        assert wait_until(label, "the model is served", 20) == "green"


def test_it_is_short_enough_to_read() -> None:
    lines = README.splitlines()
    assert len(lines) <= 130
    assert [line for line in lines if len(line) > 160] == []


def steady(value: Any) -> Any:
    """Remove values that differ between runs, and the last digits of probabilities."""
    if isinstance(value, dict):
        return {name: "…" if name in VOLATILE else steady(part) for name, part in value.items()}
    if isinstance(value, list):
        return [steady(part) for part in value]
    return round(value, 3) if isinstance(value, float) else value


def test_make_run_says_when_it_is_ready_and_stops_within_10_s(tmp_path: Path) -> None:
    out = tmp_path / "out"
    mine = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    env = {**mine, "JITNEY_PORT": "0", "JITNEY_DATA_DIR": str(tmp_path / "data")}
    with out.open("wb") as said, (tmp_path / "log").open("wb") as log:
        make = subprocess.Popen(["make", "run"], cwd=ROOT, env=env, stdout=said, stderr=log, start_new_session=True)
        try:
            first, curl = wait_until(
                lambda: out.read_text().splitlines()[:2] if out.read_text().count("\n") > 1 else None, "ready", 50
            )
            assert re.fullmatch(r"Jitney is ready in \d+\.\d s: http://127\.0\.0\.1:\d+", first)
            words = shlex.split(curl.partition("try: ")[2])
            answer = subprocess.run([*words, "-sS"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=30)
            assert '"predictions":[{"label":"7"' in answer.stdout  # else all of it is shown
        finally:
            os.killpg(make.pid, signal.SIGTERM)
            began = time.monotonic()
            make.wait(timeout=12)
    assert time.monotonic() - began < 10
    group = subprocess.run(["ps", "-eo", "sid"], capture_output=True, text=True, check=True).stdout.split()
    assert str(make.pid) not in group


def test_every_linked_page_exists() -> None:
    linked = re.findall(r"\]\(([^):#]+)\)", README)
    assert linked
    assert [link for link in linked if not (ROOT / link).exists()] == []
