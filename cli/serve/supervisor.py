"""Keeps child processes running: starts them in order, restarts what dies, stops them in reverse order.

Knows nothing of what they do. Belongs on the main thread: signals, and Linux's parent-death signal, hang on it.
"""

import select
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import groupby

from cli.serve.child_process import (
    BadSetting,
    CannotStart,
    ChildProcess,
    describe_exit,
    kill_process,
    last_lines,
    print_line,
    spawn,
    stop_process,
    stop_together,
)

# What describes children and runs them, for all who start some: they need not know where a process is made.
__all__ = [
    "EX_CONFIG",
    "Backoff",
    "BadSetting",
    "CannotStart",
    "ChildProcess",
    "Supervisor",
    "last_lines",
    "print_line",
    "spawn",
    "stop_process",
]

EX_CONFIG = 78  # sysexits.h: what a child exits with when its settings are wrong, so that trying again is no use
EX_REASON_LOGGED = 10  # of the command that follows a death: what it died of is set apart, and waits for no successor
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_GATE_POLL_S = 0.01
_TICK_S = 0.05


@dataclass(frozen=True)
class Backoff:
    """How long a dead child waits for its restart: doubling, and from the start again once one has lived."""

    first_s: float = 0.2
    limit_s: float = 10.0
    explained_s: float = 2.0  # the limit where what it died of is set apart: its successor may well live
    healthy_s: float = 30.0


class _ChildState:
    """A child and where it stands.

    `process` while something runs: the child or, with `cleanup_deadline` set, the command that follows its death;
    `due_at` while it waits to be started.
    """

    def __init__(self, child: ChildProcess, delay_s: float) -> None:
        self.child = child
        self.delay_s = delay_s
        self.process: subprocess.Popen[bytes] | None = None
        self.cleanup_deadline: float | None = None
        self.due_at: float | None = 0.0
        self.started_at = 0.0
        self.has_run = False
        self.was_ready = child.is_ready is None


class Supervisor:
    """Runs its children until a stop signal, a configuration error, or a first start that fails."""

    def __init__(
        self,
        children: Sequence[ChildProcess],
        *,
        backoff: Backoff | None = None,
        tick: Callable[[], bool] | None = None,
        on_stop: Callable[[], None] | None = None,
    ) -> None:
        """`tick` is called every 50 ms once all children run, until it returns False; `on_stop` before they stop."""
        self._backoff = backoff or Backoff()
        self._kept = [_ChildState(child, self._backoff.first_s) for child in children]
        self._tick = tick
        self._on_stop = on_stop
        self._exit_code: int | None = None
        self._woken, self._waker = socket.socketpair()

    def run(self) -> int:
        """The exit code: 0 after a stop signal, 78 after a child's configuration error. Raises CannotStart."""
        with self._install_wakeup_fd():
            try:
                while self._exit_code is None:
                    timeout_s = self._step()
                    if self._exit_code is None:
                        self._wait(timeout_s)
                return self._exit_code
            finally:
                self._stop_all()

    def _step(self) -> float | None:
        """Do what is due; returns the seconds until there is something to do again, None for when a signal comes."""
        for kept in self._kept:
            if kept.process is not None:
                self._check_child(kept, kept.process)
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
        moments = [at for kept in self._kept for at in (kept.due_at, kept.cleanup_deadline) if at is not None]
        waits = [at - now for at in moments] + ([_TICK_S] if self._tick is not None else [])
        return max(0.0, min(waits)) if waits else None

    def _check_child(self, kept: _ChildState, process: subprocess.Popen[bytes]) -> None:
        has_ended = process.poll() is not None
        if kept.cleanup_deadline is None and has_ended:
            self._on_death(kept, process)
        elif kept.cleanup_deadline is not None and (has_ended or kept.cleanup_deadline <= time.monotonic()):
            self._on_cleanup_done(kept, process)

    def _start(self, kept: _ChildState, now: float) -> None:
        try:
            kept.process = spawn(kept.child)
        except (OSError, subprocess.SubprocessError) as error:
            if not kept.has_run:
                raise CannotStart(f"{kept.child.name} can not be started: {error}") from error
            self._restart_later(kept, f"{kept.child.name} can not be started: {error}")
            return
        kept.has_run = True
        kept.started_at, kept.due_at = now, None

    def _on_death(self, kept: _ChildState, process: subprocess.Popen[bytes]) -> None:
        kill_process(process)  # what it started dies with it, before its successor comes
        kept.process = None
        if process.returncode == EX_CONFIG:
            print_line(
                f"{kept.child.name} refuses its configuration (exit code {EX_CONFIG}, see its message above): stopping"
            )
            self._exit_code = EX_CONFIG
            return
        reason = f"{kept.child.name} died: {describe_exit(process.returncode)}"
        if not kept.was_ready:
            raise CannotStart(reason + last_lines(kept.child.log))
        if time.monotonic() - kept.started_at >= self._backoff.healthy_s:
            kept.delay_s = self._backoff.first_s
        if kept.child.on_death:
            print_line(reason)
            self._run_cleanup(kept)
        else:
            self._restart_later(kept, reason)

    def _run_cleanup(self, kept: _ChildState) -> None:
        """Run the command that follows a death; until it has ended, no successor is due."""
        child = kept.child
        try:
            kept.process = spawn(replace(child, command=child.on_death, pass_fds=()))
        except (OSError, subprocess.SubprocessError) as error:
            self._restart_later(kept, f"clearing up after {child.name} can not be started: {error}")
            return
        kept.cleanup_deadline = time.monotonic() + child.on_death_s

    def _on_cleanup_done(self, kept: _ChildState, process: subprocess.Popen[bytes]) -> None:
        returncode = process.returncode
        kill_process(process)
        kept.process, kept.cleanup_deadline = None, None
        name = kept.child.name
        if returncode is None:
            self._restart_later(kept, f"clearing up after {name} took more than {kept.child.on_death_s:g} s: killed")
        elif returncode == EX_REASON_LOGGED:
            kept.delay_s = min(kept.delay_s, self._backoff.explained_s)
            self._restart_later(kept, f"cleared up after {name}: what it may have died of is set apart")
        elif returncode:
            self._restart_later(kept, f"clearing up after {name} failed: {describe_exit(returncode)}")
        else:
            self._restart_later(kept, f"cleared up after {name}")

    def _restart_later(self, kept: _ChildState, reason: str) -> None:
        print_line(
            f"{reason}; restarting in {kept.delay_s:g} s" + (f" (its log: {kept.child.log})" if kept.child.log else "")
        )
        kept.due_at = time.monotonic() + kept.delay_s
        kept.delay_s = min(kept.delay_s * 2, self._backoff.limit_s)

    def _stop_all(self) -> None:
        if self._on_stop is not None:
            self._on_stop()
        for _, part in groupby(reversed(self._kept), lambda kept: kept.child.part or kept.child.name):
            running = [(kept.child, kept.process) for kept in part if kept.process is not None]
            ended = stop_together([(process, child.stop_s) for child, process in running])
            for child in (child for (child, _), by_itself in zip(running, ended, strict=True) if not by_itself):
                print_line(f"{child.name} did not stop within {child.stop_s:g} s: killed")

    def _wait(self, timeout_s: float | None) -> None:
        """Sleep until a signal (a child's death is one) or the timeout."""
        if select.select([self._woken], [], [], timeout_s)[0]:
            self._woken.recv(4096)

    @contextmanager
    def _install_wakeup_fd(self) -> Iterator[None]:
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
