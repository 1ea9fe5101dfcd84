"""`jitney up` as a user starts it, with a real queue server and stand-ins for the gateway and the worker."""

import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

import pytest

from cli.serve.gateway_processes import listen
from cli.serve.start_errors import CannotStart
from cli.serve.up import Settings
from tests.support.processes import ROOT, is_running, program
from tests.support.waiting import wait_until

# Answers every request with 200 on the socket it is given, once the worker's file is there.
GATEWAY = """
import http.server, os, pathlib, socket, sys
print("gateway", os.getpid(), os.environ["JITNEY_PORT"], os.environ["JITNEY_REDIS_URL"], flush=True)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        is_ready = pathlib.Path("worker-is-up").exists()
        self.send_response(200 if is_ready else 503)
        self.end_headers()
        self.wfile.write(os.environ.get("READYZ", "gateway %d" % os.getpid()).encode())
    def log_message(self, *_): pass
server = http.server.HTTPServer(("", 0), Handler, bind_and_activate=False)
server.socket.close()
server.socket = socket.socket(fileno=int(sys.argv[2]))
server.serve_forever()
"""
WORKER = """
import os, pathlib, sys, time
print("worker", os.getpid(), os.environ["JITNEY_MODELS_DIR"], flush=True)
print("box", pathlib.Path(sys.argv[2]).name, flush=True)
pathlib.Path("worker-is-up").touch()
time.sleep(60)
"""
BACKGROUND = """
import os, time
print("background", os.getpid(), os.environ["JITNEY_REDIS_URL"], flush=True)
time.sleep(60)
"""
UP = "import sys; from cli.main import main; sys.exit(main(['up']))"
READY = r"^Jitney is ready in \d+\.\d s: (http://127\.0\.0\.1:\d+)\n  try: curl (.*)$"


class Up:
    """A running `jitney up` and its output."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path) -> None:
        self.process = process
        self.folder = folder

    def text(self) -> str:
        return (self.folder / "log").read_text()

    def wait_ready(self) -> re.Match[str]:
        return wait_until(lambda: re.search(READY, self.text(), re.MULTILINE), "it says that it is ready")

    def pids(self) -> dict[str, int]:
        """The newest process of each part."""
        pids = {
            name: int(pid) for name, pid in re.findall(r"^(gateway|worker|background) (\d+)", self.text(), re.MULTILINE)
        }
        return {**pids, "server": int((self.folder / ".data" / "server.pid").read_text())}


@contextmanager
def up(tmp_path: Path, env: Mapping[str, str] | None = None, *, worker: str = WORKER) -> Iterator[Up]:
    parts = tmp_path / "parts"
    for name, code in {"api": GATEWAY, "worker": worker, "background": BACKGROUND}.items():
        (parts / name).mkdir(parents=True)
        (parts / name / "__init__.py").touch()
        (parts / name / "__main__.py").write_text(code)
    folder = tmp_path / "here"
    folder.mkdir()
    root = os.fspath(Path(__file__).parents[4])
    settings = {"JITNEY_PORT": "0", "PYTHONPATH": f"{parts}:{root}", "TMPDIR": os.fspath(tmp_path), **(env or {})}
    with program(UP, folder / "log", settings) as process:
        yield Up(process, folder)


def test_up_starts_reports_readiness_answers_and_leaves_nothing_behind(tmp_path: Path) -> None:
    with up(tmp_path) as started:
        said = started.wait_ready()
        assert said[2] == f"{said[1]}/v1/models"
        with urlopen(said[1]) as answer:
            assert answer.read().startswith(b"gateway")
        assert f" {said[1].rpartition(':')[2]} unix:///" in started.text()
        # There is no folder `models`: that of the checkout is served.
        assert re.search(rf"^worker \d+ {ROOT}/models$", started.text(), re.MULTILINE)
        pids = started.pids()
        started.process.terminate()
        assert started.process.wait(10) == 0
        assert [name for name, pid in pids.items() if is_running(pid)] == []


def test_a_caller_does_not_notice_a_gateway_that_was_killed(tmp_path: Path) -> None:
    with up(tmp_path) as started:
        url = started.wait_ready()[1]
        os.kill(started.pids()["gateway"], signal.SIGKILL)
        with urlopen(url, timeout=10) as answer:
            assert answer.read() == f"gateway {started.pids()['gateway']}".encode()
        assert "gateway died: killed by signal 9; restarting in 0.2 s" in started.text()


def test_the_queue_server_is_restarted_at_the_same_address(tmp_path: Path) -> None:
    with up(tmp_path) as started:
        started.wait_ready()
        wait_until(lambda: "background" in started.pids(), "every process has started")
        before = started.pids()
        os.kill(before["server"], signal.SIGKILL)
        after = wait_until(
            lambda: (now := started.pids()) != before and is_running(now["server"]) and now, "the server is back"
        )
        assert after == {**before, "server": after["server"]}  # type: ignore[index]
        assert re.search(r"(valkey|redis) died: killed by signal 9; restarting in 0.2 s", started.text())


@pytest.mark.parametrize(
    ("served", "tried"),
    [
        ('{"digits": "ready"}', "-X POST -F image=@samples/digits/7_01.png {url}/predict"),
        (
            '{"a": "ready", "digits": "ready"}',
            "-X POST -F image=@samples/digits/7_01.png -F model=digits {url}/predict",
        ),
        ('{"a": "ready", "digits": "failed"}', "{url}/v1/models"),
    ],
)
def test_the_printed_example_works_with_the_served_models(tmp_path: Path, served: str, tried: str) -> None:
    samples = tmp_path / "here" / "samples" / "digits"
    env = {"JITNEY_STARTED_AT": "1", "READYZ": f'{{"models": {served}}}'}
    with up(tmp_path, env, worker="import time; time.sleep(60)") as started:
        samples.mkdir(parents=True)
        (samples / "7_01.png").touch()
        (started.folder / "worker-is-up").touch()
        said = started.wait_ready()
        assert said[2] == tried.format(url=said[1])
        assert float(said[0].split()[4]) > 1e9  # counted from JITNEY_STARTED_AT


def test_the_configured_workers_start_and_a_dead_one_is_named_by_number(tmp_path: Path) -> None:
    with up(tmp_path, {"JITNEY_WORKERS": "2", "JITNEY_RESTART_LIMIT_S": "0.1"}) as started:
        wait_until(lambda: started.text().count("box worker-") == 2, "two workers are up")
        assert {"box worker-1", "box worker-2"} <= set(started.text().splitlines())
        os.kill(started.pids()["worker"], signal.SIGKILL)
        wait_until(lambda: started.text().count("box worker-") == 3, "another is up")
        assert re.search(r"jitney: worker-[12] died: killed by signal 9$", started.text(), re.MULTILINE)
        assert re.search(r"cleaned up after worker-[12].*; restarting in 0.1 s$", started.text(), re.MULTILINE)


def test_a_refused_configuration_ends_all_with_the_message_of_the_part(tmp_path: Path) -> None:
    with up(tmp_path, worker="import sys; print('JITNEY_MODELS_DIR is empty'); sys.exit(78)") as started:
        assert started.process.wait(10) == 78
        assert "JITNEY_MODELS_DIR is empty" in started.text()
        assert "jitney: worker has an invalid configuration" in started.text()


def test_a_port_in_use_is_one_clear_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with up(tmp_path, {"JITNEY_PORT": str(port)}) as started:
            assert started.process.wait(10) == 1
            line = f"jitney: port {port} is in use: set JITNEY_PORT to another, or 0 for any free one\n"
            assert started.text() == line


@pytest.mark.parametrize("port", ["eighty", "-1", "65536", "٣"])
def test_an_invalid_port_is_refused(port: str) -> None:
    with pytest.raises(CannotStart, match=f"JITNEY_PORT={port} is not a port"):
        Settings.from_env({"JITNEY_PORT": port})


def test_an_invalid_number_of_workers_is_refused() -> None:
    with pytest.raises(CannotStart, match="JITNEY_WORKERS=many is not a number of worker processes: use 1 to 256"):
        Settings.from_env({"JITNEY_WORKERS": "many"})


def test_empty_settings_count_as_unset() -> None:
    unset = Settings("models", Path(".data"), None)
    assert (
        Settings.from_env(
            dict.fromkeys(
                [
                    "JITNEY_HOST",
                    "JITNEY_PORT",
                    "JITNEY_MODELS_DIR",
                    "JITNEY_DATA_DIR",
                    "JITNEY_REDIS_URL",
                    "JITNEY_WORKERS",
                    "JITNEY_GATEWAYS",
                ],
                "",
            )
        )
        == unset
    )


def test_a_foreign_host_address_is_named() -> None:
    with pytest.raises(CannotStart, match=r"cannot listen on 192\.0\.2\.1 port 0"):
        listen("192.0.2.1", 0)
    with pytest.raises(CannotStart, match=r"JITNEY_HOST=no such host cannot be resolved"):
        listen("no such host", 0)
