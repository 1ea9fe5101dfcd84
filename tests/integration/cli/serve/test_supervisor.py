"""The supervisor with real, tiny children: it restarts dead ones, logs why, and leaves nothing behind."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cli.serve.supervisor import EX_REASON_LOGGED
from tests.support.processes import is_running, program
from tests.support.waiting import wait_until

# Each child tells its name and pid, and on SIGTERM that it stops.
SUPERVISE = """
import os, sys
from cli.serve.child_process import ChildProcess
from cli.serve.start_errors import CannotStart, print_line
from cli.serve.supervisor import Backoff, Supervisor

# Not by print: a signal handler that interrupts one cannot print.
TELL = "import os, signal, sys, time; tell = lambda text: os.write(1, f'{{text}} {{os.getpid()}}\\\\n'.encode())\\n"
END = "signal.signal(signal.SIGTERM, lambda *_: (tell('ends ' + NAME), sys.exit()))\\n"

def child(name, code="tell('up ' + NAME); time.sleep(60)", **more):
    text = TELL + f"NAME = {{name!r}}\\n" + more.pop("on_term", END) + code
    return ChildProcess(name, (sys.executable, "-S", "-c", text), {{**os.environ, "WHO": name}}, **more)

def after(code):
    return sys.executable, "-S", "-c", TELL + "NAME = 'after ' + os.environ['WHO']\\n" + code

backoff = Backoff()
{setup}
try:
    sys.exit(Supervisor(children, backoff=backoff).run())
except CannotStart as error:
    print_line(str(error))
    sys.exit(1)
"""


class Watched:
    """A supervisor's process and the output of it and its children."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self._log = log

    def text(self) -> str:
        return self._log.read_text()

    def pids(self, name: str) -> list[int]:
        return [int(pid) for pid in re.findall(rf"^up {name} (\d+)$", self.text(), re.MULTILINE)]

    def wait_for(self, *texts: str) -> None:
        for text in texts:
            wait_until(lambda text=text: text in self.text(), f"{text!r} is said")  # type: ignore[misc]

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(10)


@contextmanager
def supervised(tmp_path: Path, setup: str) -> Iterator[Watched]:
    log = tmp_path / "log"
    with program(SUPERVISE.format(setup=setup), log) as process:
        yield Watched(process, log)


def test_children_start_in_order_and_stop_in_reverse(tmp_path: Path) -> None:
    with supervised(tmp_path, "children = [child(n) for n in ('server', 'worker', 'gateway')]") as watched:
        watched.wait_for("up server", "up worker", "up gateway")
        pids = [watched.pids(name)[0] for name in ("server", "worker", "gateway")]
        assert pids == sorted(pids)
        assert watched.end() == 0
        assert re.findall(r"ends (\w+)", watched.text()) == ["gateway", "worker", "server"]
        assert not any(is_running(pid) for pid in pids)


def test_a_dead_child_is_restarted_with_its_reason_and_doubling_waits(tmp_path: Path) -> None:
    setup = "children = [child('worker')]; backoff = Backoff(first_s=0.05)"
    with supervised(tmp_path, setup) as watched:
        for deaths in (1, 2):
            wait_until(lambda deaths=deaths: len(watched.pids("worker")) == deaths, "it is up")  # type: ignore[misc]
            os.kill(watched.pids("worker")[-1], signal.SIGKILL)
        wait_until(lambda: len(watched.pids("worker")) == 3, "it is up for the third time")
        assert re.findall(r"jitney: (.*)", watched.text()) == [
            "worker died: killed by signal 9; restarting in 0.05 s",
            "worker died: killed by signal 9; restarting in 0.1 s",
        ]


def test_the_wait_is_capped_and_reset_after_a_healthy_run(tmp_path: Path) -> None:
    setup = """
children = [child('worker', "tell('up ' + NAME); sys.exit(3)")]
backoff = Backoff(first_s=0.01, limit_s=0.03)
"""
    with supervised(tmp_path, setup) as watched:
        wait_until(lambda: watched.text().count("restarting") >= 4, "it died four times")
        assert re.findall(r"exit code 3; restarting in (\S+) s", watched.text())[:4] == ["0.01", "0.02", "0.03", "0.03"]
    with supervised(tmp_path, setup.replace("limit_s=0.03", "healthy_s=0")) as watched:
        wait_until(lambda: watched.text().count("restarting") >= 3, "it died three times")
        assert set(re.findall(r"restarting in (\S+) s", watched.text())) == {"0.01"}


def test_a_configuration_error_stops_everything(tmp_path: Path) -> None:
    setup = "children = [child('server'), child('worker', 'sys.exit(78)')]"
    with supervised(tmp_path, setup) as watched:
        assert watched.process.wait(10) == 78
        assert "worker has an invalid configuration (exit code 78" in watched.text()
        assert "restarting" not in watched.text()


def test_a_missing_program_is_one_clear_line(tmp_path: Path) -> None:
    setup = "children = [child('server'), ChildProcess('worker', ('/no/such/program',), {})]"
    with supervised(tmp_path, setup) as watched:
        assert watched.process.wait(10) == 1
        assert "jitney: worker cannot be started: " in watched.text()
        assert "Traceback" not in watched.text()


def test_later_children_wait_until_the_first_is_ready(tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    setup = f"""
asked = []
def is_ready():
    asked.append(1)
    if len(asked) == 3:
        print_line("asked")
    return os.path.exists({str(flag)!r})
children = [child('server', is_ready=is_ready), child('worker')]
"""
    with supervised(tmp_path, setup) as watched:
        watched.wait_for("up server", "asked")
        assert not watched.pids("worker")
        flag.touch()
        watched.wait_for("up worker")


def test_a_first_start_that_fails_is_an_error_with_the_last_lines(tmp_path: Path) -> None:
    setup = """
from pathlib import Path
children = [child('server', "tell('no disk'); sys.exit(5)", is_ready=lambda: False, log=Path('server.log'))]
"""
    with supervised(tmp_path, setup) as watched:
        assert watched.process.wait(10) == 1
        assert re.search(r"server died: exit code 5\n.*server.log ends with:\n  no disk", watched.text())


def test_a_child_that_does_not_stop_is_killed_with_its_descendants(tmp_path: Path) -> None:
    setup = """
FORK = "os.fork() or (tell('up grandchild'), time.sleep(60))\\n"
children = [
    child('server'),
    child('worker', FORK + "tell('up ' + NAME); time.sleep(60)",
          on_term="signal.signal(signal.SIGTERM, signal.SIG_IGN)\\n", stop_s=0.2),
]
"""
    with supervised(tmp_path, setup) as watched:
        watched.wait_for("up server", "up worker", "up grandchild")
        began_at = time.monotonic()
        assert watched.end() == 0
        assert time.monotonic() - began_at < 5
        assert "worker did not stop within 0.2 s: killed" in watched.text()
        pids = [watched.pids(name)[0] for name in ("server", "worker", "grandchild")]
        wait_until(lambda: not any(is_running(pid) for pid in pids), "no process is left")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_ctrl_c_and_a_closed_terminal_stop_the_supervisor_too(tmp_path: Path, number: int) -> None:
    with supervised(tmp_path, "children = [child('worker')]") as watched:
        watched.wait_for("up worker")
        assert watched.end(number) == 0
        assert "ends worker" in watched.text()


def test_a_second_signal_does_not_cut_the_stop_short(tmp_path: Path) -> None:
    setup = """
SLOW = "signal.signal(signal.SIGTERM, lambda *_: (tell('drains'), time.sleep(0.3), tell('drained'), sys.exit()))\\n"
children = [child('worker', on_term=SLOW)]
"""
    with supervised(tmp_path, setup) as watched:
        watched.wait_for("up worker")
        watched.process.send_signal(signal.SIGTERM)
        watched.wait_for("drains")
        assert watched.end() == 0
        assert "drained" in watched.text()


def test_the_supervisor_stops_at_once_while_a_child_waits_for_its_restart(tmp_path: Path) -> None:
    setup = "children = [child('worker', 'sys.exit(3)')]; backoff = Backoff(first_s=30)"
    with supervised(tmp_path, setup) as watched:
        watched.wait_for("restarting in 30 s")
        assert watched.end() == 0


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="the parent-death signal is Linux's")
def test_children_die_with_a_killed_supervisor(tmp_path: Path) -> None:
    with supervised(tmp_path, "children = [child('server'), child('worker')]") as watched:
        watched.wait_for("up server", "up worker")
        pids = watched.pids("server") + watched.pids("worker")
        watched.process.kill()
        wait_until(lambda: not any(is_running(pid) for pid in pids), "no process is left")


def test_recovery_ends_before_the_successor_starts(tmp_path: Path) -> None:
    setup = """
clears = "tell('up ' + NAME); time.sleep(0.2); tell('cleared')"
children = [child('worker', "tell('up ' + NAME); sys.exit(3)", on_death=after(clears))]
backoff = Backoff(first_s=0.01, limit_s=0.01)
"""
    with supervised(tmp_path, setup) as watched:
        wait_until(lambda: len(watched.pids("worker")) == 3, "it is up for the third time")
        one_life = ["up worker", "up after worker", "cleared"]
        assert re.findall(r"^(up .*|cleared) \d+$", watched.text(), re.MULTILINE)[:7] == [*one_life * 2, "up worker"]
        ours = re.findall(r"jitney: (.*)", watched.text())
        assert ours[:2] == ["worker died: exit code 3", "cleaned up after worker; restarting in 0.01 s"]


def test_the_wait_stays_short_after_explained_deaths(tmp_path: Path) -> None:
    setup = f"""
children = [child('worker', "tell('up ' + NAME); sys.exit(3)", on_death=after('sys.exit({EX_REASON_LOGGED})'))]
backoff = Backoff(first_s=0.01, explained_s=0.02)
"""
    with supervised(tmp_path, setup) as watched:
        wait_until(lambda: watched.text().count("restarting") >= 3, "it died three times")
        said = "cleaned up after worker: the suspect jobs are isolated; restarting in"
        assert re.findall(r"jitney: (cleaned.*)", watched.text())[:3] == [f"{said} {s} s" for s in (0.01, 0.02, 0.02)]


@pytest.mark.parametrize(("code", "exit_code"), [("tell('up'); time.sleep(60)", 0), ("tell('up'); sys.exit(78)", 78)])
def test_no_recovery_runs_after_an_orderly_stop_or_a_refused_configuration(
    tmp_path: Path, code: str, exit_code: int
) -> None:
    setup = f"children = [child('worker', {code!r}, on_death=after('tell(NAME)'))]"
    with supervised(tmp_path, setup) as watched:
        watched.wait_for("up")
        assert (watched.end() if exit_code == 0 else watched.process.wait(10)) == exit_code
        assert "after worker" not in watched.text()


@pytest.mark.parametrize(
    ("on_death", "said"),
    [
        ("after('sys.exit(5)')", "cleanup after worker failed: exit code 5; restarting in"),
        ("('/no/such/program',)", "cleanup after worker cannot be started: "),
    ],
)
def test_a_failing_recovery_does_not_prevent_the_successor(tmp_path: Path, on_death: str, said: str) -> None:
    setup = f"children = [child('worker', on_death={on_death})]; backoff = Backoff(first_s=0.01)"
    with supervised(tmp_path, setup) as watched:
        watched.wait_for("up worker")
        os.kill(watched.pids("worker")[0], signal.SIGKILL)
        wait_until(lambda: len(watched.pids("worker")) == 2, "it is up again")
        assert said in watched.text()


def test_a_hanging_recovery_is_killed_with_its_descendants(tmp_path: Path) -> None:
    setup = """
HANGS = "os.fork() or (tell('up grandchild'), time.sleep(60)); tell('up ' + NAME); time.sleep(60)"
children = [child('worker', on_death=after(HANGS), on_death_s=2)]
backoff = Backoff(first_s=0.01)
"""
    with supervised(tmp_path, setup) as watched:
        watched.wait_for("up worker")
        os.kill(watched.pids("worker")[0], signal.SIGKILL)
        wait_until(lambda: len(watched.pids("worker")) == 2, "it is up again")
        assert "cleanup after worker took more than 2 s: killed; restarting in 0.01 s" in watched.text()
        pids = watched.pids("after worker") + watched.pids("grandchild")
        assert len(pids) == 2
        wait_until(lambda: not any(is_running(pid) for pid in pids), "nothing of it is left")


def test_other_children_and_a_stop_are_handled_during_recovery(tmp_path: Path) -> None:
    setup = """
DEAF = "signal.signal(signal.SIGTERM, signal.SIG_IGN); tell('up ' + NAME); time.sleep(60)"
children = [child('worker', on_death=after(DEAF), stop_s=0.2), child('gateway')]
backoff = Backoff(first_s=0.01)
"""
    with supervised(tmp_path, setup) as watched:
        watched.wait_for("up worker", "up gateway")
        os.kill(watched.pids("worker")[0], signal.SIGKILL)
        watched.wait_for("up after worker")
        os.kill(watched.pids("gateway")[0], signal.SIGKILL)
        wait_until(lambda: len(watched.pids("gateway")) == 2, "the gateway is up again")
        assert len(watched.pids("worker")) == 1
        assert watched.end() == 0
        assert "worker did not stop within 0.2 s: killed" in watched.text()
        pids = watched.pids("after worker") + watched.pids("gateway")
        assert not any(is_running(pid) for pid in pids)


def test_children_of_one_part_stop_at_the_same_time(tmp_path: Path) -> None:
    setup = """
# Each ends only once the other is asked to end too.
MEETS = '''
def meet(*_):
    open(NAME, 'w').close()
    while not all(os.path.exists(name) for name in ('one', 'two')):
        time.sleep(0.01)
    tell('ends ' + NAME)
    sys.exit()
signal.signal(signal.SIGTERM, meet)
'''
children = [child('server'), *(child(name, on_term=MEETS, part='worker') for name in ('one', 'two'))]
"""
    with supervised(tmp_path, setup) as watched:
        watched.wait_for("up server", "up one", "up two")
        assert watched.end() == 0
        ended = re.findall(r"ends (\w+)", watched.text())
        assert (sorted(ended[:2]), ended[2:]) == (["one", "two"], ["server"])
        assert "killed" not in watched.text()
