"""Starts, signals and stops one child process together with its process group.

`cli.serve.supervisor` decides when to do so.
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


@dataclass(frozen=True)
class ChildProcess:
    """A process to supervise. Later children start once `is_ready` returns True; it may raise CannotStart."""

    name: str
    command: tuple[str, ...]
    env: Mapping[str, str]
    pass_fds: tuple[int, ...] = ()
    stop_s: float = 3.0
    log: Path | None = None  # receives both output streams; None: the supervisor's stderr
    is_ready: Callable[[], bool] | None = None
    on_death: tuple[str, ...] = ()  # a command that must finish before a dead child restarts
    on_death_s: float = 10.0  # time limit of that command
    part: str = ""  # adjacent children of the same part are stopped together


def spawn(child: ChildProcess) -> subprocess.Popen[bytes]:
    """Start a child in its own process group, so that Ctrl-C reaches only the supervisor; it dies with this process."""
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
            preexec_fn=_end_with_parent(),  # noqa: PLW1509 - this process has no threads
        )
    finally:
        if output:
            output.close()


def _end_with_parent() -> Callable[[], None] | None:
    """Return a function for the child that requests SIGTERM when the parent thread ends (Linux only)."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl  # looked up before the fork
    parent = os.getpid()

    def in_child() -> None:
        prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
        if os.getppid() != parent:  # the parent died between fork and prctl
            os._exit(1)

    return in_child


def stop_process(process: subprocess.Popen[bytes], within_s: float) -> bool:
    """Send SIGTERM to the group, and SIGKILL after `within_s`. Return whether the child ended by itself."""
    return stop_together([(process, within_s)])[0]


def stop_together(running: Sequence[tuple[subprocess.Popen[bytes], float]]) -> list[bool]:
    """Stop several children at the same time, each within its own seconds. Return which ended by themselves."""
    for process, _ in running:
        signal_group(process, signal.SIGTERM)
    began_at = time.monotonic()
    return [_has_ended_by(process, began_at + within_s) for process, within_s in running]


def _has_ended_by(process: subprocess.Popen[bytes], deadline: float) -> bool:
    with suppress(subprocess.TimeoutExpired):
        process.wait(max(0.0, deadline - time.monotonic()))
    by_itself = process.returncode is not None
    kill_process(process)
    return by_itself


def kill_process(process: subprocess.Popen[bytes]) -> None:
    """Send SIGKILL to the process group and reap the child."""
    signal_group(process, signal.SIGKILL)
    process.wait()


def signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Send a signal to the process group, if it still exists."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def describe_exit(returncode: int) -> str:
    if returncode == -signal.SIGALRM:
        return f"killed by its own alarm (signal {-returncode}): a run exceeded JITNEY_RUN_STOP_TIMEOUT_S"
    return f"killed by signal {-returncode}" if returncode < 0 else f"exit code {returncode}"


def last_lines(log: Path | None, count: int = 10) -> str:
    """Return the last lines of a log, formatted to follow an error message."""
    if log is None or not log.exists():
        return ""
    lines = log.read_text("utf-8", errors="replace").splitlines()[-count:]
    return "".join(f"\n  {line}" for line in [f"{log} ends with:", *lines])
