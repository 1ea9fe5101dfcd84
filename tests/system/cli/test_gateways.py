"""Several gateways behind one port, on a real queue: crashes, shared metrics, and shutdown."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from uuid import uuid4

import httpx2
import pytest

from cli.serve import gateway_processes
from cli.serve.start_errors import CannotStart
from tests.support.gateways import CARD, PNG, QUICK, Worker
from tests.support.processes import is_running, program
from tests.support.servers import Server
from tests.support.service import ROOT, Service
from tests.support.waiting import wait_until, wait_until_async

API = "import sys; from cli.main import main; sys.exit(main(['api', '--workers', '2']))"
pytestmark = pytest.mark.anyio


class Pair:
    """Two running gateways on their own queue."""

    def __init__(self, process: "subprocess.Popen[bytes]", log: Path, server: Server) -> None:
        self.process, self._log, self.server = process, log, server
        said = wait_until(lambda: re.search(r"2 gateways answer on \S+ port (\d+)", self.log()), "both answer", 30)
        self.port = int(said[1])
        self.url = f"http://127.0.0.1:{self.port}"

    def log(self) -> str:
        return self._log.read_text()

    def pids(self) -> list[int]:
        listed = subprocess.run(["ps", "-ewwo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout
        rows = [line.split(maxsplit=2) for line in listed.splitlines()[1:]]
        return [int(pid) for pid, parent, args in rows if int(parent) == self.process.pid and "-m api --fd" in args]

    def ask(self) -> httpx2.Client:
        """Open a new connection, which any gateway may accept."""
        return httpx2.Client(base_url=self.url, timeout=20, trust_env=False, verify=False)


@contextmanager
def pair(tmp_path: Path) -> Iterator[Pair]:
    with closing(Server()) as server:
        env = {**QUICK, "JITNEY_REDIS_URL": server.url, "JITNEY_PORT": "0", "JITNEY_RESTART_LIMIT_S": "0.2"}
        with program(API, tmp_path / "log", env) as process:
            yield Pair(process, tmp_path / "log", server)


async def serve(started: Pair) -> Worker:
    """Announce the model `m`, and wait until every gateway knows it."""
    worker = Worker(started.server)

    class Door:
        http = started.ask()

    await worker.announce(Door())  # type: ignore[arg-type]

    async def all_know() -> bool:
        answers = []
        for _ in range(12):
            with started.ask() as http:
                answers.append(http.get("/v1/models").text)
        return all(f'"name":"{CARD["name"]}"' in answer for answer in answers)

    await wait_until_async(all_know, "all gateways know the model")
    Door.http.close()
    return worker


def connections_of(pid: int) -> int:
    """Count the open sockets of a process, where the system shows them."""
    links = [str(one.readlink()) for one in Path(f"/proc/{pid}/fd").iterdir() if one.is_symlink()]
    return sum(link.startswith("socket:") for link in links)


@pytest.mark.skipif(sys.platform != "linux", reason="who has which connection is read in /proc")
async def test_gateways_share_the_port_and_their_metrics(tmp_path: Path) -> None:
    with pair(tmp_path) as started, ExitStack() as stack:
        worker = await serve(started)
        assert len(set(re.findall(r"gateway ([0-9a-f]{16}) listens", started.log()))) == 2
        pids = started.pids()
        idle = [connections_of(pid) for pid in pids]
        callers = [stack.enter_context(started.ask()) for _ in range(40)]
        headers = {"content-type": "image/png", "prefer": "wait=20"}
        with ThreadPoolExecutor(40) as pool:
            waiting = [pool.submit(http.post, "/v1/jobs?model=m", content=PNG, headers=headers) for http in callers]

            async def are_queued() -> bool:
                return await worker.states() == ["queued"] * 40

            await wait_until_async(are_queued, "all are queued")
            # Both took some.
            assert all(connections_of(pid) > before for pid, before in zip(pids, idle, strict=True))
            await worker.succeed(await worker.claim(40))
            jobs = [one.result() for one in waiting]
        assert {(one.status_code, one.json()["status"]) for one in jobs} == {(200, "succeeded")}
        seen = {http.get("/metrics").text for http in callers if http}
        counts = {line for text in seen for line in text.splitlines() if line.startswith("jitney_jobs_")}
        # A scrape of any of them answers the requests of both.
        process = {line for http in callers for line in http.get("/metrics/process").text.splitlines()}
        assert 'jitney_http_requests_total{method="POST",route="/v1/jobs",status="200"} 40.0' in process
        assert "jitney_gateway_processes 2.0" in process
        assert len([line for line in process if 'route="/v1/jobs",status=' in line]) == 1
        assert 'jitney_jobs_submitted_total{model="m"} 40.0' in counts
        assert len(counts) == 2  # submitted, finished: the same from every gateway
        # Who reads elsewhere waits as well: the end is told to each gateway that has a caller.
        last = callers[0].post("/v1/jobs?model=m", content=PNG, headers={"content-type": "image/png"}).json()
        with ThreadPoolExecutor(40) as pool:
            reads = [pool.submit(http.get, last["urls"]["self"], params={"wait": 20}) for http in callers]
            await worker.succeed(await worker.claim())
            assert {one.result().json()["status"] for one in reads} == {"succeeded"}
        await worker.connection.aclose()


async def test_a_gateway_killed_under_load_is_restarted_and_no_job_is_lost(tmp_path: Path) -> None:
    with pair(tmp_path) as started:
        worker = await serve(started)
        done = threading.Event()
        taken: list[str] = []
        refused: list[str] = []

        def send() -> None:
            while not done.is_set():
                headers = {"content-type": "image/png", "idempotency-key": uuid4().hex}
                for _ in range(10):
                    try:
                        with started.ask() as http:
                            answer = http.post("/v1/jobs?model=m", content=PNG, headers=headers)
                    except httpx2.HTTPError:  # it was the one that died: the same key again
                        continue
                    (taken if answer.status_code == 202 else refused).append(answer.text[7:41])
                    break

        with ThreadPoolExecutor(4) as pool:
            senders = [pool.submit(send) for _ in range(4)]
            try:
                wait_until(lambda: len(taken) > 20, "jobs come in")
                before = started.pids()
                os.kill(before[0], signal.SIGKILL)
                at_death = len(taken)
                wait_until(lambda: len(taken) > at_death + 20, "the other goes on")
                wait_until(lambda: len({*started.pids(), *before}) == 3, "another runs in its place")
                wait_until(lambda: len(re.findall(r"gateway \w+ listens", started.log())) == 3, "and listens", 30)
                wait_until(lambda: len(taken) > at_death + 100, "jobs come in")
            finally:
                done.set()
            for sender in senders:
                sender.result()
        assert re.search(r"jitney: gateway-[12] died: killed by signal 9; restarting in 0.2 s", started.log())
        assert refused == []
        assert (await worker.store.counts())["submitted:m"] == len(set(taken)) == len(taken)
        await worker.connection.aclose()


async def test_a_stop_answers_all_waiting_callers_with_the_current_state(tmp_path: Path) -> None:
    with pair(tmp_path) as started, ThreadPoolExecutor(20) as pool, ExitStack() as stack:
        worker = await serve(started)
        callers = [stack.enter_context(started.ask()) for _ in range(20)]
        headers = {"content-type": "image/png", "prefer": "wait=20"}
        waiting = [pool.submit(http.post, "/v1/jobs?model=m", content=PNG, headers=headers) for http in callers]

        async def are_queued() -> bool:
            return await worker.states() == ["queued"] * 20

        await wait_until_async(are_queued, "all are queued")
        pids = started.pids()
        started.process.terminate()
        assert {one.result().status_code for one in waiting} == {202}
        assert started.process.wait(10) == 0
        assert [pid for pid in pids if is_running(pid)] == []
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", started.port))
        assert "Traceback" not in started.log()
        await worker.connection.aclose()


async def test_two_behind_up_are_ready_when_both_answer() -> None:
    with Service(env={"JITNEY_GATEWAYS": "2"}) as service:
        wait_until(lambda: "Jitney is ready in" in service.out.read_text(), "it says that it is ready", 30)
        assert len(re.findall(r"gateway \w+ listens", service.log())) == 2
        assert service.stop() == 0


@pytest.mark.parametrize("number", ["0", "65", "two", "-1"])
def test_an_invalid_number_of_processes_is_one_clear_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, number: str
) -> None:
    assert gateway_processes.main([f"--workers={number}"]) == 78
    monkeypatch.setenv("JITNEY_GATEWAYS", number)
    assert gateway_processes.main([]) == 78
    assert capsys.readouterr().err == (
        f"jitney: --workers {number} is not a number of gateway processes: use 1 to 64\n"
        f"jitney: JITNEY_GATEWAYS={number} is not a number of gateway processes: use 1 to 64\n"
    )


def test_a_port_in_use_and_an_unknown_option_are_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setenv("JITNEY_PORT", str(taken.getsockname()[1]))
        assert gateway_processes.main(["--workers", "2"]) == 78
    assert "is in use" in capsys.readouterr().err
    assert gateway_processes.main(["--workers", "2", "--fd", "3"]) == 78
    assert "2 gateways take no other options: remove --fd" in capsys.readouterr().err
    with pytest.raises(CannotStart, match="JITNEY_PORT=http is not a port"):
        gateway_processes.Settings.from_env({"JITNEY_PORT": "http"})


def test_settings_are_documented_with_their_defaults() -> None:
    assert (
        gateway_processes.Settings.from_env({"JITNEY_GATEWAYS": "", "JITNEY_HOST": "", "JITNEY_PORT": ""})
        == gateway_processes.Settings()
    )
    assert "| `JITNEY_GATEWAYS` | 1 | " in (ROOT / "docs" / "reference" / "settings.md").read_text()
