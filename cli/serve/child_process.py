"""One process of ours: how it is started, bound to our life, and how it is ended with all that it started itself.

Knows nothing of when to start or end which; that is `cli.serve.supervisor`'s.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_PR_SET_PDEATHSIG = 1


class CannotStart(Exception):
    """Nothing can be started as asked; the message is for the operator."""


class BadSetting(CannotStart):
    """A variable or an option has a value that is not allowed: trying again is no use."""


@dataclass(frozen=True)
class ChildProcess:
    """One process to keep. Those behind it in the order wait until its `is_ready` says so, or raises CannotStart."""

    name: str
    command: tuple[str, ...]
    env: Mapping[str, str]
    pass_fds: tuple[int, ...] = ()
    stop_s: float = 3.0
    log: Path | None = None  # takes its output; without one, both streams go to our stderr
    is_ready: Callable[[], bool] | None = None
    on_death: tuple[str, ...] = ()  # a command run to its end before the successor of a dead one is thought of
    on_death_s: float = 10.0  # how long it may take
    part: str = ""  # neighbours in the order that share one are stopped at the same time


def spawn(child: ChildProcess) -> subprocess.Popen[bytes]:
    """Start it in a process group of its own (a terminal's Ctrl-C is ours to pass on) and bound to our life."""
    output = open(child.log, "ab") if child.log else None  # noqa: SIM115, PTH123 - closed below
    try:
        return subprocess.Popen(
            child.command,
            env=dict(child.env),
            stdin=subprocess.DEVNULL,
            stdout=output or sys.stderr.fileno(),
            stderr=output or sys.stderr.fileno(),
            pass_fds=child.pass_fds,
            process_group=0,
            preexec_fn=_end_with_parent(),  # noqa: PLW1509 - we have no threads
        )
    finally:
        if output:
            output.close()


def _end_with_parent() -> Callable[[], None] | None:
    """On Linux: a SIGTERM for the child when the thread that starts it is gone, however that went."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl  # looked up before the fork
    parent = os.getpid()

    def in_child() -> None:
        prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
        if os.getppid() != parent:  # it went between the fork and prctl
            os._exit(1)

    return in_child


def stop_process(process: subprocess.Popen[bytes], within_s: float) -> bool:
    """SIGTERM to the child's group, SIGKILL to what is left after `within_s`; whether it ended by itself."""
    return stop_together([(process, within_s)])[0]


def stop_together(running: Sequence[tuple[subprocess.Popen[bytes], float]]) -> list[bool]:
    """`stop` for several at the same time, each with its own patience; they are waited for one after the other."""
    for process, _ in running:
        signal_group(process, signal.SIGTERM)
    began_at = time.monotonic()
    return [_has_ended_by(process, began_at + within_s) for process, within_s in running]


def _has_ended_by(process: subprocess.Popen[bytes], until: float) -> bool:
    with suppress(subprocess.TimeoutExpired):
        process.wait(max(0.0, until - time.monotonic()))
    by_itself = process.returncode is not None
    kill_process(process)
    return by_itself


def kill_process(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL to the child, if it still runs, and to all it started."""
    signal_group(process, signal.SIGKILL)
    process.wait()


def signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Send to the child and all it started, if any is left."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def describe_exit(returncode: int) -> str:
    """Why a process is gone, in words."""
    if returncode == -signal.SIGALRM:
        return f"killed by its own alarm (signal {-returncode}): what was to be short did not end"
    return f"killed by signal {-returncode}" if returncode < 0 else f"exit code {returncode}"


def last_lines(log: Path | None, count: int = 10) -> str:
    """The end of a log, to stand behind an error message."""
    if log is None or not log.exists():
        return ""
    lines = log.read_text("utf-8", errors="replace").splitlines()[-count:]
    return "".join(f"\n  {line}" for line in [f"{log} ends with:", *lines])


def print_line(text: str) -> None:
    """One line of our own among the children's logs."""
    with suppress(OSError):  # a closed terminal must not keep us from stopping the children
        print(f"jitney: {text}", file=sys.stderr, flush=True)
