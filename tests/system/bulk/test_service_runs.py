"""Bulk runs through a real service: kills on either side lose no line and repeat none."""

import json
import re
import signal
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import bulk, models
from tests.support.api_keys import make_key
from tests.support.odd_images import expected_answers
from tests.support.service import DIGITS, Service
from tests.support.waiting import wait_until

LINES = 3000


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Serve a model that takes 50 ms an input."""
    folder = tmp_path_factory.mktemp("slow")
    models.slow(folder)
    with Service(folder) as service:
        yield service


def numbers(folder: Path, count: int) -> Path:
    """A folder of inputs for the slow model."""
    folder.mkdir()
    for number in range(count):
        (folder / f"{number:04}.bin").write_bytes(struct.pack("<4f", *[number] * 4))
    return folder


def test_a_folder_becomes_a_results_file(service: Service, tmp_path: Path) -> None:
    done = bulk.run(DIGITS[0].parent, "-o", tmp_path / "r.jsonl", "--url", service.url, "--parameters", '{"top_k": 1}')
    assert done.code == 0, done
    found = bulk.read_complete_rows(tmp_path / "r.jsonl", len(DIGITS))
    assert [row["input"] for row in found] == [path.name for path in DIGITS]
    assert [row["output"]["predictions"][0]["label"] for row in found] == [path.name[0] for path in DIGITS]
    assert {len(row["output"]["predictions"]) for row in found} == {1}
    assert f"{len(DIGITS)} lines, {len(DIGITS)} succeeded, 0 failed, mean batch" in done.said


def test_odd_images_fail_alone_each_with_its_code(service: Service, shared_data: Path, tmp_path: Path) -> None:
    done = bulk.run(shared_data / "odd", "-o", tmp_path / "r.jsonl", "--url", service.url)
    assert done.code == 1, done
    expected = expected_answers(shared_data)
    found = bulk.read_complete_rows(tmp_path / "r.jsonl", len(expected))
    assert {row["input"]: (row["error"] or {}).get("code") for row in found} == {
        name: one.get("code") for name, one in expected.items()
    }


def test_a_run_killed_repeatedly_loses_and_duplicates_nothing(tmp_path: Path) -> None:
    labels = bulk.digits_table(tmp_path / "in.jsonl", LINES)
    results = tmp_path / "r.jsonl"
    with Service() as service:
        args = (tmp_path / "in.jsonl", "-o", results, "--url", service.url)
        kills = [bulk.kill_after(results, lines, *args) for lines in (1, 400, 900, 1700)]
        done = bulk.run(*args)
        assert (done.code, kills) == (0, [True] * 4), done
        found = bulk.read_complete_rows(results, LINES)
        assert [row["id"] for row in found] == [f"n{number}" for number in range(LINES)]
        assert [row["output"]["predictions"][0]["label"] for row in found] == labels
        wait_until(lambda: bulk.count_submitted(service) == LINES, "one job a line was made, however often it was sent")


def test_the_run_continues_when_parts_of_the_service_die(tmp_path: Path) -> None:
    labels = bulk.digits_table(tmp_path / "in.jsonl", LINES)
    results = tmp_path / "r.jsonl"
    with Service() as service, bulk.running(tmp_path / "in.jsonl", "-o", results, "--url", service.url) as process:
        for lines, part in ((200, "worker"), (800, "api"), (1400, "server")):
            wait_until(lambda lines=lines: bulk.count(results) >= lines, f"{lines} lines are written", 40)  # type: ignore[misc]
            service.kill(part)
        process.wait(timeout=50)
        assert process.returncode == 0, bulk.CompletedRun(process)
        found = bulk.read_complete_rows(results, LINES)
        assert [row["output"]["predictions"][0]["label"] for row in found] == labels


def test_a_full_queue_slows_the_run_down_and_nothing_fails(tmp_path: Path) -> None:
    bulk.digits_table(tmp_path / "in.jsonl", 1000)
    with Service(env={"JITNEY_MAX_JOBS": "140"}) as service:
        done = bulk.run(tmp_path / "in.jsonl", "-o", tmp_path / "r.jsonl", "--url", service.url)
        assert done.code == 0, done
        assert "accepts no more jobs at present; retrying in" in done.said
        bulk.read_complete_rows(tmp_path / "r.jsonl", 1000)
        wait_until(lambda: bulk.count_submitted(service) == 1000, "one job a line was made")


def test_the_limits_and_the_key_of_the_tenant_are_respected(tmp_path: Path) -> None:
    bulk.digits_table(tmp_path / "in.jsonl", 600)
    limits = {"JITNEY_TENANT_JOBS": "120", "JITNEY_TENANT_REQUESTS": "50", "JITNEY_TENANT_WINDOW_S": "1"}
    with Service(env=limits) as service:
        key = make_key(f"unix://{(service.folder / 'data' / 'server.lock').read_text().strip()}", "acme")
        wait_until(lambda: service.http.get("/v1/jobs").status_code == 401, "the gateway knows that there are keys")
        args = (tmp_path / "in.jsonl", "-o", tmp_path / "r.jsonl", "--url", service.url)
        stranger = bulk.run(*args)
        assert stranger.code == 2
        assert "(401); the API key is read from JITNEY_API_KEY" in stranger.said
        done = bulk.run(*args, env={"JITNEY_API_KEY": key})
        assert done.code == 0, done
        assert re.search(r"retrying in \S+ s, with at most \d+ in flight", done.said)
        bulk.read_complete_rows(tmp_path / "r.jsonl", 600)


def test_requests_are_split_to_small_limits(tmp_path: Path) -> None:
    bulk.digits_table(tmp_path / "in.jsonl", 150)
    with Service(env={"JITNEY_MAX_BODY_BYTES": "9000", "JITNEY_MAX_JOBS_PER_REQUEST": "30"}) as service:
        done = bulk.run(tmp_path / "in.jsonl", "-o", tmp_path / "r.jsonl", "--url", service.url)
        assert done.code == 0, done
        bulk.read_complete_rows(tmp_path / "r.jsonl", 150)


def test_a_run_never_exceeds_its_in_flight_limit(slow: Service, tmp_path: Path) -> None:
    given = numbers(tmp_path / "in", 60)
    results = tmp_path / "r.jsonl"
    with bulk.running(given, "-o", results, "--url", slow.url, "--max-in-flight", "10") as process:
        most = 0
        while process.poll() is None:
            jobs = slow.http.get("/v1/jobs?limit=100").json()["jobs"]
            most = max(most, sum(job["status"] in ("queued", "running") for job in jobs))
    assert 1 <= most <= 10
    assert [row["output"]["tensors"]["y"]["data"][0] for row in bulk.read_complete_rows(results, 60)] == [
        2 * n for n in range(60)
    ]


def test_a_run_shows_progress_and_continues_after_a_cancel(slow: Service, tmp_path: Path) -> None:
    given, results = numbers(tmp_path / "in", 160), tmp_path / "r.jsonl"
    args = (given, "-o", results, "--url", slow.url, "--max-in-flight", "20")
    with bulk.running(*args) as process:
        wait_until(lambda: bulk.count(results) >= 20, "some are written", 30)
        told = json.loads(bulk.run("-o", results, "--status").out)
        assert (told["status"], told["total"], told["model"]) == ("running", 160, "slow")
        second = bulk.run(*args)
        assert second.code == 2
        assert "another run is writing" in second.said
        canceled = bulk.run("-o", results, "--cancel")
        assert canceled.code == 0, canceled
        process.wait(timeout=20)
    assert process.returncode == 128 + signal.SIGTERM
    open_jobs = [job for job in slow.http.get("/v1/jobs?limit=100").json()["jobs"] if job["status"] == "queued"]
    assert open_jobs == []
    assert json.loads(bulk.run("-o", results, "--status").out)["status"] == "canceled"
    done = bulk.run(*args)
    assert done.code == 0, done
    assert {row["status"] for row in bulk.read_complete_rows(results, 160)} == {"succeeded"}


def test_ctrl_c_stops_a_run_and_the_same_command_resumes(slow: Service, tmp_path: Path) -> None:
    given, results = numbers(tmp_path / "in", 40), tmp_path / "r.jsonl"
    args = (given, "-o", results, "--url", slow.url, "--max-in-flight", "10")
    before = bulk.count_submitted(slow)
    with bulk.running(*args) as process:
        wait_until(lambda: bulk.count(results) >= 10, "some are written", 30)
        process.send_signal(signal.SIGINT)
        process.wait(timeout=10)
        assert process.returncode == 128 + signal.SIGINT
    assert json.loads(bulk.run("-o", results, "--status").out)["status"] == "interrupted"
    assert bulk.run(*args).code == 0
    bulk.read_complete_rows(results, 40)
    wait_until(lambda: bulk.count_submitted(slow) - before == 40, "what was in flight was not sent as other jobs")


def test_failed_lines_run_again_and_replace_their_rows(service: Service, tmp_path: Path) -> None:
    given = tmp_path / "in.csv"
    paths = [tmp_path / "late.png" if number % 4 == 0 else DIGITS[number] for number in range(20)]
    given.write_text("path\n" + "".join(f"{path}\n" for path in paths))
    args = (given, "-o", tmp_path / "r.jsonl", "--url", service.url)
    done = bulk.run(*args)
    found = bulk.read_complete_rows(tmp_path / "r.jsonl", 20)
    assert (done.code, bulk.count_error_codes(found)) == (1, {"unreadable_input": 5}), done
    (tmp_path / "late.png").write_bytes(DIGITS[-1].read_bytes())
    assert bulk.run(*args).code == 1  # nothing is left to do, and some failed
    done = bulk.run(*args, "--retry-failed")
    assert done.code == 0, done
    again = bulk.read_complete_rows(tmp_path / "r.jsonl", 20)
    assert [row for row in again if row["line"] % 4 != 1] == [row for row in found if not row["error"]]
    assert {row["output"]["predictions"][0]["label"] for row in again if row["line"] % 4 == 1} == {DIGITS[-1].name[0]}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.csv", "late.png", "r.jsonl", "r.jsonl.state"]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--model", "nosuch"], "model nosuch is not served; the service has: digits"),
        (["--url", "http://127.0.0.1:9"], "`jitney up` starts one, --local runs without one"),
        (["--url", "ftp://x"], "must be http://HOST:PORT"),
        (["--parameters", "[]"], "a JSON object"),
        (["--max-in-flight", "0"], "must be an integer from 1"),
        (["--status", "--cancel"], "use only one of"),
    ],
)
def test_an_invalid_command_is_refused_as_a_whole(
    service: Service, tmp_path: Path, args: list[str], words: str
) -> None:
    url = [] if "--url" in args else ["--url", service.url]
    done = bulk.run(DIGITS[0].parent, "-o", tmp_path / "r.jsonl", *args, *url)
    assert done.code == 2
    assert words in done.said
    assert list(tmp_path.iterdir()) == []
