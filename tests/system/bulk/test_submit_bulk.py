"""scripts/submit_bulk.py has no dependencies, resumes, and creates no job twice."""

import json
import signal
import subprocess
import sys
from pathlib import Path

from tests.support import bulk
from tests.support.service import DIGITS, ROOT, Service
from tests.support.waiting import wait_until

SCRIPT = ROOT / "scripts" / "submit_bulk.py"


def start(*args: object) -> "subprocess.Popen[str]":
    """Start a copy of the script with an interpreter that sees no library and no project code."""
    command = [sys.executable, "-I", "-S", str(SCRIPT), *map(str, args)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_killed_script_resumes(tmp_path: Path) -> None:
    given, results = tmp_path / "in", tmp_path / "r.jsonl"
    given.mkdir()
    for number in range(230):
        (given / f"{number:04}.png").write_bytes(DIGITS[number % 50].read_bytes())
    (given / "0100.png").write_bytes(b"not an image")
    with Service() as service:
        for lines in (50, 150):
            process = start(given, results, service.url)
            wait_until(lambda lines=lines: bulk.count(results) >= lines, f"{lines} lines are written", 30)  # type: ignore[misc]
            process.send_signal(signal.SIGKILL)
            process.communicate()
        with results.open("ab") as file:
            file.write(b'{"input": "torn')
        process = start(given, results, service.url)
        _, said = process.communicate(timeout=40)
        assert process.returncode == 0, said
        rows = [json.loads(line) for line in results.read_bytes().splitlines()]
        assert [Path(row["input"]).name for row in rows] == sorted(path.name for path in given.iterdir())
        assert [row["error"]["code"] for row in rows if row["error"]] == ["unsupported_media_type"]
        assert {row["status"] for row in rows if not row["error"]} == {"succeeded"}
        wait_until(lambda: bulk.count_submitted(service) == 229, "one job an image was made, none twice")


def test_errors_are_reported_and_end_the_script(service: Service, tmp_path: Path) -> None:
    process = start(DIGITS[0].parent, tmp_path / "r.jsonl", service.url, "nosuch")
    process.communicate(timeout=20)
    rows = [json.loads(line) for line in (tmp_path / "r.jsonl").read_bytes().splitlines()]
    assert {row["error"]["code"] for row in rows} == {"model_not_found"}
    process = start(DIGITS[0].parent, tmp_path / "q.jsonl", f"{service.url}/nowhere")
    _, said = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "returned 404" in said


def test_the_script_is_short_enough_to_be_read() -> None:
    assert len(SCRIPT.read_text().splitlines()) <= 70
