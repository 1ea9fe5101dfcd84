"""Keeps child processes running: starts them in order, restarts what dies, stops them in reverse order.

Knows nothing of what they do. Belongs on the main thread: signals, and Linux's parent-death signal, hang on it.
"""

import ctypes
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

EX_CONFIG = 78  # sysexits.h: what a child exits with when its settings are wrong, so that trying again is no use
_PR_SET_PDEATHSIG = 1
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_GATE_POLL_S = 0.01
_TICK_S = 0.05


class CannotStart(Exception):
    """Nothing can be started as asked; the message is for the operator."""


@dataclass(frozen=True)
class Child:
    """One process to keep. Those behind it in the order wait until its `is_ready` says so, or raises CannotStart."""

    name: str
    command: tuple[str, ...]
    env: Mapping[str, str]
    pass_fds: tuple[int, ...] = ()
    stop_s: float = 3.0
    log: Path | None = None  # takes its output; without one, both streams go to our stderr
    is_ready: Callable[[], bool] | None = None


@dataclass(frozen=True)
class Backoff:
    """How long a dead child waits for its restart: doubling, and from the start again once one has lived."""

    first_s: float = 0.2
    limit_s: float = 10.0
    healthy_s: float = 30.0


class _Kept:
    """A child and where it stands: `process` while it runs, `due_at` while it waits to be started."""

    def __init__(self, child: Child, delay_s: float) -> None:
        self.child = child
        self.delay_s = delay_s
        self.process: subprocess.Popen[bytes] | None = None
        self.due_at: float | None = 0.0
        self.started_at = 0.0
        self.has_run = False
        self.was_ready = child.is_ready is None


class Supervisor:
    """Runs its children until a stop signal, a configuration error, or a first start that fails."""

    def __init__(
        self,
        children: Sequence[Child],
        *,
        backoff: Backoff | None = None,
        tick: Callable[[], bool] | None = None,
        on_stop: Callable[[], None] | None = None,
    ) -> None:
        """`tick` is called every 50 ms once all children run, until it returns False; `on_stop` before they stop."""
        self._backoff = backoff or Backoff()
        self._kept = [_Kept(child, self._backoff.first_s) for child in children]
        self._tick = tick
        self._on_stop = on_stop
        self._exit_code: int | None = None
        self._woken, self._waker = socket.socketpair()

    def run(self) -> int:
        """The exit code: 0 after a stop signal, 78 after a child's configuration error. Raises CannotStart."""
        with self._signals_wake_us():
            try:
                while True:
                    timeout_s = self._step()
                    if self._exit_code is not None:
                        return self._exit_code
                    self._wait(timeout_s)
            finally:
                self._stop_all()

    def _step(self) -> float | None:
        """Do what is due; returns the seconds until there is something to do again, None for when a signal comes."""
        for kept in self._kept:
            if kept.process is not None and kept.process.poll() is not None:
                self._on_death(kept, kept.process)
        now = time.monotonic()
        for kept in self._kept:
            if kept.due_at is not None and kept.due_at <= now and self._exit_code is None:
                self._start(kept, now)
            if not kept.was_ready:
                kept.was_ready = kept.child.is_ready is not None and kept.child.is_ready()
            if not kept.was_ready:
                return _GATE_POLL_S
        if self._tick is not None and not self._tick():
            self._tick = None
        waits = [kept.due_at - now for kept in self._kept if kept.due_at is not None]
        waits += [_TICK_S] if self._tick is not None else []
        return max(0.0, min(waits)) if waits else None

    def _start(self, kept: _Kept, now: float) -> None:
        try:
            kept.process = spawn(kept.child)
        except (OSError, subprocess.SubprocessError) as error:
            if not kept.has_run:
                raise CannotStart(f"{kept.child.name} can not be started: {error}") from error
            self._restart_later(kept, f"{kept.child.name} can not be started: {error}")
            return
        kept.has_run = True
        kept.started_at, kept.due_at = now, None

    def _on_death(self, kept: _Kept, process: subprocess.Popen[bytes]) -> None:
        signal_group(process, signal.SIGKILL)  # what it started dies with it, before its successor comes
        kept.process = None
        if process.returncode == EX_CONFIG:
            say(f"{kept.child.name} refuses its configuration (exit code {EX_CONFIG}, see its message above): stopping")
            self._exit_code = EX_CONFIG
            return
        reason = f"{kept.child.name} died: {describe_exit(process.returncode)}"
        if not kept.was_ready:
            raise CannotStart(reason + last_lines(kept.child.log))
        if time.monotonic() - kept.started_at >= self._backoff.healthy_s:
            kept.delay_s = self._backoff.first_s
        self._restart_later(kept, reason)

    def _restart_later(self, kept: _Kept, reason: str) -> None:
        say(f"{reason}; restarting in {kept.delay_s:g} s" + (f" (its log: {kept.child.log})" if kept.child.log else ""))
        kept.due_at = time.monotonic() + kept.delay_s
        kept.delay_s = min(kept.delay_s * 2, self._backoff.limit_s)

    def _stop_all(self) -> None:
        if self._on_stop is not None:
            self._on_stop()
        for kept in reversed(self._kept):
            if kept.process is not None and not stop(kept.process, kept.child.stop_s):
                say(f"{kept.child.name} did not stop within {kept.child.stop_s:g} s: killed")

    def _wait(self, timeout_s: float | None) -> None:
        """Sleep until a signal (a child's death is one) or the timeout."""
        if select.select([self._woken], [], [], timeout_s)[0]:
            self._woken.recv(4096)

    @contextmanager
    def _signals_wake_us(self) -> Iterator[None]:
        # Every signal writes a byte to the socket, also one that comes just before select: none is slept through.
        self._waker.setblocking(False)
        taken = [*_STOP_SIGNALS, signal.SIGCHLD]
        if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
            taken.remove(signal.SIGHUP)  # started with nohup
        before = {number: signal.signal(number, self._on_signal) for number in taken}
        old_fd = signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(old_fd)
            for number, handler in before.items():
                signal.signal(number, handler)
            self._woken.close()
            self._waker.close()

    def _on_signal(self, number: int, _frame: object) -> None:
        # A second one changes nothing: a group's signal reaches us directly and again through make.
        if number != signal.SIGCHLD and self._exit_code is None:
            self._exit_code = 0


def spawn(child: Child) -> subprocess.Popen[bytes]:
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


def stop(process: subprocess.Popen[bytes], within_s: float) -> bool:
    """SIGTERM to the child's group, SIGKILL to what is left after `within_s`; whether it ended by itself."""
    signal_group(process, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(within_s)
    ended = process.returncode is not None
    signal_group(process, signal.SIGKILL)
    process.wait()
    return ended


def signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Send to the child and all it started, if any is left."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def describe_exit(returncode: int) -> str:
    """Why a process is gone, in words."""
    return f"killed by signal {-returncode}" if returncode < 0 else f"exit code {returncode}"


def last_lines(log: Path | None, count: int = 10) -> str:
    """The end of a log, to stand behind an error message."""
    if log is None or not log.exists():
        return ""
    lines = log.read_text("utf-8", errors="replace").splitlines()[-count:]
    return "".join(f"\n  {line}" for line in [f"{log} ends with:", *lines])


def say(text: str) -> None:
    """One line of our own among the children's logs."""
    with suppress(OSError):  # a closed terminal must not keep us from stopping the children
        print(f"jitney: {text}", file=sys.stderr, flush=True)
