"""`jitney worker` as a user starts it, with stand-ins for worker and recovery, and with real ones."""

import os
import re
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from cli.serve import supervisor, worker_processes
from cli.serve.start_errors import CannotStart
from cli.serve.supervisor import Backoff
from jobs.redis_client import keys
from tests.support.processes import ROOT, is_running, program
from tests.support.servers import Server
from tests.support.service import QUICK, Service
from tests.support.waiting import wait_until
from worker.crash_recovery import recover
from worker.settings import WorkerSettings

# Writes its id into its journal, so that the recovery can tell whose journal it was given.
WORKER = """
import os, pathlib, sys, time
option, journal = sys.argv[1:]
assert option == "--journal"
pathlib.Path(journal).write_text(str(os.getpid()))
print("up", journal, os.getpid(), flush=True)
time.sleep(60)
"""
RECOVERY = """
import os, pathlib, sys
journal, = sys.argv[1:]
print("recovered", journal, pathlib.Path(journal).read_text(), os.environ["JITNEY_REDIS_URL"], flush=True)
"""


class Kept:
    """A running `jitney worker` and its output."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self._log = log

    def text(self) -> str:
        return self._log.read_text()

    def lives(self) -> list[tuple[str, int]]:
        """Journal and process id of every worker so far."""
        return [(journal, int(pid)) for journal, pid in re.findall(r"^up (\S+) (\d+)$", self.text(), re.MULTILINE)]


@contextmanager
def kept(
    tmp_path: Path, *argv: str, env: Mapping[str, str] | None = None, worker: str = WORKER, recovery: str = RECOVERY
) -> Iterator[Kept]:
    package, here, temporary = (tmp_path / name for name in ("parts/worker", "here", "tmp"))
    for folder in (package, here, temporary):
        folder.mkdir(parents=True)
    (package / "crash_recovery").mkdir()
    parts = {"__init__": "", "__main__": worker, "crash_recovery/__init__": "", "crash_recovery/recover": recovery}
    for name, code in parts.items():
        (package / f"{name}.py").write_text(code)
    settings = {
        "PYTHONPATH": f"{package.parent}:{ROOT}",
        "TMPDIR": str(temporary),
        "JITNEY_REDIS_URL": "redis://queue:1",
    }
    code = f"import sys; from cli.main import main; sys.exit(main(['worker', *{argv!r}]))"
    with program(code, here / "log", {**settings, **(env or {})}) as process:
        yield Kept(process, here / "log")


def test_a_dead_worker_is_recovered_and_another_takes_its_journal(tmp_path: Path) -> None:
    with kept(tmp_path) as started:
        [(journal, pid)] = wait_until(started.lives, "a worker is up")
        assert Path(journal).parent.parent == tmp_path / "tmp"
        assert Path(journal).name == "worker-1"
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: len(started.lives()) == 2, "another is up")
        assert [name for name, _ in started.lives()] == [journal, journal]
        text = started.text()
        assert f"recovered {journal} {pid} redis://queue:1\n" in text  # before its successor took the journal
        assert "jitney: worker died: killed by signal 9\n" in text
        assert "jitney: cleaned up after worker; restarting in 0.2 s\n" in text


def test_each_of_the_requested_workers_has_its_own_journal_and_nothing_is_left_behind(tmp_path: Path) -> None:
    with kept(tmp_path, "--processes", "3", env={"JITNEY_WORKERS": "2"}) as started:
        wait_until(lambda: len(started.lives()) == 3, "three are up")
        lives = dict(started.lives())
        assert sorted(Path(journal).name for journal in lives) == ["worker-1", "worker-2", "worker-3"]
        second = next(journal for journal in lives if journal.endswith("-2"))
        os.kill(lives[second], signal.SIGKILL)
        wait_until(lambda: len(started.lives()) == 4, "another is up")
        assert started.lives()[-1][0] == second
        assert "jitney: worker-2 died: killed by signal 9" in started.text()
        started.process.terminate()
        assert started.process.wait(10) == 0
        assert started.text().count("recovered") == 1
        assert [pid for _, pid in started.lives() if is_running(pid)] == []
        assert list((tmp_path / "tmp").iterdir()) == []


def test_the_models_option_is_passed_to_the_worker(tmp_path: Path) -> None:
    says = "import os, time; print('serves', os.environ['JITNEY_SERVE_MODELS'], flush=True); time.sleep(60)"
    with kept(tmp_path, "--models", "a,b", env={"JITNEY_SERVE_MODELS": "c"}, worker=says) as started:
        wait_until(lambda: "serves a,b\n" in started.text(), "it serves these")


def test_each_named_gpu_has_its_own_workers(tmp_path: Path) -> None:
    says = """
import os, sys, time
print("on", os.environ["JITNEY_GPU_DEVICE"], os.path.basename(sys.argv[2]), flush=True)
time.sleep(60)
"""
    with kept(tmp_path, "--device", "1, 3", "--processes", "2", env={"JITNEY_GPU_DEVICE": "7"}, worker=says) as started:
        wait_until(lambda: started.text().count("on ") == 4, "four are up")
        lines = sorted(re.findall(r"on (\d) worker-(\d)", started.text()))
        assert lines == [("1", "1"), ("1", "3"), ("3", "2"), ("3", "4")]


@pytest.mark.parametrize("devices", ["", ",", "a", "-1", "0,,1", "1024", "٣"])
def test_invalid_gpus_are_one_clear_line(capsys: pytest.CaptureFixture[str], devices: str) -> None:
    assert worker_processes.main([f"--device={devices}"]) == 78
    said = f"jitney: --device {devices} is not a list of GPUs: use 0 to 1023, separated by commas\n"
    assert capsys.readouterr().err == said
    if devices:
        with pytest.raises(CannotStart, match=r"JITNEY_GPU_DEVICES=.* is not a list of GPUs"):
            worker_processes.Settings.from_env({"JITNEY_GPU_DEVICES": devices})


def test_a_refused_configuration_ends_all_workers(tmp_path: Path) -> None:
    with kept(tmp_path, worker="import sys; print('JITNEY_MODELS_DIR is empty'); sys.exit(78)") as started:
        assert started.process.wait(10) == 78
        assert "JITNEY_MODELS_DIR is empty" in started.text()
        assert "recovered" not in started.text()


def test_the_longest_wait_for_a_restart_can_be_set(tmp_path: Path) -> None:
    with kept(tmp_path, env={"JITNEY_RESTART_LIMIT_S": "0.01"}, worker="raise SystemExit(3)", recovery="") as started:
        wait_until(lambda: started.text().count("restarting in") >= 3, "it died three times")
        assert set(re.findall(r"restarting in (\S+) s", started.text())) == {"0.01"}


@pytest.mark.parametrize("number", ["0", "-1", "two", "1.5", "257", "٣"])
def test_an_invalid_number_of_processes_is_one_clear_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, number: str
) -> None:
    assert worker_processes.main([f"--processes={number}"]) == 78
    monkeypatch.setenv("JITNEY_WORKERS", number)
    assert worker_processes.main([]) == 78
    assert capsys.readouterr().err == (
        f"jitney: --processes {number} is not a number of worker processes: use 1 to 256\n"
        f"jitney: JITNEY_WORKERS={number} is not a number of worker processes: use 1 to 256\n"
    )


@pytest.mark.parametrize("name", ["JITNEY_RESTART_LIMIT_S", "JITNEY_DRAIN_S"])
@pytest.mark.parametrize("seconds", ["0", "-1", "soon", "nan", "inf"])
def test_an_invalid_time_is_named(name: str, seconds: str) -> None:
    with pytest.raises(CannotStart, match=f"{name}={seconds} is not a time in seconds: use a number above 0"):
        worker_processes.Settings.from_env({name: seconds})


def test_recovery_and_supervisor_share_the_exit_code() -> None:
    assert recover.EX_SUSPECTS_ISOLATED == supervisor.EX_REASON_LOGGED


def test_a_worker_has_its_drain_time_and_two_seconds_more() -> None:
    assert WorkerSettings.model_fields["drain_s"].default == worker_processes.DRAIN_S
    settings = worker_processes.Settings.from_env({"JITNEY_DRAIN_S": "20"})
    assert [child.stop_s for child in worker_processes.worker_children(settings, Path(), {})] == [22]


def test_settings_are_documented_with_their_defaults() -> None:
    assert (
        worker_processes.Settings.from_env({"JITNEY_WORKERS": "", "JITNEY_DRAIN_S": "", "JITNEY_RESTART_LIMIT_S": ""})
        == worker_processes.Settings()
    )
    text = (ROOT / "docs" / "reference" / "settings.md").read_text()
    for name, default in {
        "JITNEY_WORKERS": worker_processes.Settings().processes,
        "JITNEY_RESTART_LIMIT_S": Backoff().limit_s,
    }.items():
        assert f"| `{name}` | {default:g} | " in text


def test_without_a_temporary_folder_it_says_what_to_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
    with pytest.raises(CannotStart, match=r"cannot create a temporary folder: .* \(TMPDIR sets its place\)"):
        worker_processes.journal_folder().__enter__()


def test_real_workers_register_are_restarted_and_stop(tmp_path: Path) -> None:
    with closing(Server()) as server, server.client() as client:
        env = {
            **QUICK,
            "JITNEY_REDIS_URL": server.url,
            "JITNEY_MODELS_DIR": str(ROOT / "models"),
            "JITNEY_WORKERS": "2",
        }
        log = tmp_path / "log"
        with program("import sys; from cli.main import main; sys.exit(main(['worker']))", log, env) as process:
            wait_until(lambda: client.scard(keys.WORKERS) == 2, f"two workers are announced; their log: {log}", 30)
            before = client.smembers(keys.WORKERS)
            pids = _workers_of(process)
            assert len(pids) == 2
            os.kill(pids[0], signal.SIGKILL)
            wait_until(lambda: len({*_workers_of(process), *pids}) == 3, "another worker runs")
            wait_until(lambda: client.smembers(keys.WORKERS) - before, "a third is announced", 30)
            pids = _workers_of(process)
            process.terminate()
            assert process.wait(10) == 0
            assert [pid for pid in pids if is_running(pid)] == []
            assert log.read_text().count(" stopped") == 2


def _workers_of(supervisor: subprocess.Popen[bytes]) -> list[int]:
    listed = subprocess.run(["ps", "-ewwo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout
    rows = [line.split(maxsplit=2) for line in listed.splitlines()[1:]]
    return [int(pid) for pid, parent, args in rows if int(parent) == supervisor.pid and "worker --journal" in args]


def test_two_workers_serve_one_gateway() -> None:
    with Service(env={"JITNEY_WORKERS": "2"}) as service:
        wait_until(lambda: service.http.get("/readyz").json().get("workers") == 2, "both workers are alive", 30)
