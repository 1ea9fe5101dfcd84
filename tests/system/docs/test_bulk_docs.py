"""The examples of docs/how-to/batches.md, executed as they stand."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import bulks
from tests.support.service import DIGITS, ROOT, Service

BULK = (ROOT / "docs" / "how-to" / "batches.md").read_text()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "samples").symlink_to(ROOT / "samples")
    return tmp_path


def test_the_example_with_the_sdk(service: Service, folder: Path) -> None:
    (code,) = re.findall(r"```python\n(# night\.py.+?)```", BULK, re.DOTALL)
    (folder / "night.py").write_text(code.replace("http://localhost:8000", service.url))
    done = subprocess.run(
        [sys.executable, "night.py"], cwd=folder, env=os.environ, capture_output=True, text=True, check=True
    )
    found = dict(line.split() for line in done.stdout.splitlines())
    assert found == {path.name: path.name[0] for path in DIGITS}


def test_the_examples_with_curl_and_for_failed_lines(service: Service, folder: Path) -> None:
    first, again = re.findall(r"```sh\n(.+?)```", BULK, re.DOTALL)
    with bulks.client(service.url) as ai:
        done = bulks.wait_for_end(ai, ai.batches.retrieve(run(first, service, folder)["id"]))
        (good,), _ = bulks.check_batch(ai, done, ["three"])
        assert good["response"]["body"]["output"]["predictions"][0]["label"] == "3"
        broken = bulks.wait_for_end(
            ai, bulks.start_batch(ai, ["broken", bulks.line("one", DIGITS[0].read_bytes(), "digits")])
        )
        answer = run(again.replace("batch_…", broken.id), service, folder)
        assert (answer["retry_of"], answer["input_file_id"]) == (broken.id, broken.input_file_id)


def run(block: str, service: Service, folder: Path) -> dict[str, str]:
    script = block.replace("http://localhost:8000", service.url)
    done = subprocess.run(["bash", "-c", script], cwd=folder, capture_output=True, text=True, check=True)
    answer: dict[str, str] = json.loads(done.stdout)
    return answer
