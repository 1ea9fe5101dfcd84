"""Starts child processes in order, restarts those that die, and stops them in reverse order.

It must run on the main thread: signal handlers and Linux's parent-death signal require it.
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

from cli.serve import child_process
from cli.serve.child_process import ChildProcess
from cli.serve.start_errors import EX_CONFIG, CannotStart, print_line

EX_REASON_LOGGED = 10  # of an `on_death` command: it isolated the suspect jobs, so the restart need not be delayed
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_READY_POLL_S = 0.01
_TICK_S = 0.05


@dataclass(frozen=True)
class Backoff:
    """Delay before a restart: doubles with every death, and is reset after a healthy run."""

    first_s: float = 0.2
    limit_s: float = 10.0
    explained_s: float = 2.0  # the limit if the suspect jobs were isolated
    healthy_s: float = 30.0


@dataclass
class _ChildState:
    """A child and its current state.

    `process`: the running child or, if `cleanup_deadline` is set, its running `on_death` command.
    `due_at`: the time of its next start, while it waits for one.
    """

    child: ChildProcess
    delay_s: float
    was_ready: bool
    process: subprocess.Popen[bytes] | None = None
    cleanup_deadline: float | None = None
    due_at: float | None = 0.0
    started_at: float = 0.0
    has_run: bool = False


class Supervisor:
    """Runs children until a stop signal, a configuration error, or a failed first start."""

    def __init__(
        self,
        children: Sequence[ChildProcess],
        *,
        backoff: Backoff | None = None,
        tick: Callable[[], bool] | None = None,
        on_stop: Callable[[], None] | None = None,
    ) -> None:
        """Call `tick` every 50 ms once all children run, until it returns False; call `on_stop` before the shutdown."""
        self._backoff = backoff or Backoff()
        self._states = [_ChildState(child, self._backoff.first_s, child.is_ready is None) for child in children]
        self._tick = tick
        self._on_stop = on_stop
        self._exit_code: int | None = None
        self._wakeup_reader, self._wakeup_writer = socket.socketpair()

    def run(self) -> int:
        """Run until stopped; return 0 after a stop signal, 78 after a configuration error. Raises CannotStart."""
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
        """Do what is due; return the seconds until the next step, or None to wait for a signal."""
        for state in self._states:
            if state.process is not None:
                self._check_child(state, state.process)
        now = time.monotonic()
        for state in self._states:
            if state.due_at is not None and state.due_at <= now and self._exit_code is None:
                self._start(state, now)
            if not state.was_ready:
                state.was_ready = state.child.is_ready is not None and state.child.is_ready()
            if not state.was_ready:
                return _READY_POLL_S
        if self._tick is not None and not self._tick():
            self._tick = None
        deadlines = [at for state in self._states for at in (state.due_at, state.cleanup_deadline) if at is not None]
        waits = [at - now for at in deadlines] + ([_TICK_S] if self._tick is not None else [])
        return max(0.0, min(waits)) if waits else None

    def _check_child(self, state: _ChildState, process: subprocess.Popen[bytes]) -> None:
        has_ended = process.poll() is not None
        if state.cleanup_deadline is None and has_ended:
            self._on_death(state, process)
        elif state.cleanup_deadline is not None and (has_ended or state.cleanup_deadline <= time.monotonic()):
            self._on_cleanup_done(state, process)

    def _start(self, state: _ChildState, now: float) -> None:
        try:
            state.process = child_process.spawn(state.child)
        except (OSError, subprocess.SubprocessError) as error:
            if not state.has_run:
                raise CannotStart(f"{state.child.name} cannot be started: {error}") from error
            self._restart_later(state, f"{state.child.name} cannot be started: {error}")
            return
        state.has_run = True
        state.started_at, state.due_at = now, None

    def _on_death(self, state: _ChildState, process: subprocess.Popen[bytes]) -> None:
        child_process.kill_process(process)  # its own children must die before it restarts
        state.process = None
        if process.returncode == EX_CONFIG:
            print_line(f"{state.child.name} has an invalid configuration (exit code {EX_CONFIG}, see above): stopping")
            self._exit_code = EX_CONFIG
            return
        reason = f"{state.child.name} died: {child_process.describe_exit(process.returncode)}"
        if not state.was_ready:
            raise CannotStart(reason + child_process.last_lines(state.child.log))
        if time.monotonic() - state.started_at >= self._backoff.healthy_s:
            state.delay_s = self._backoff.first_s
        if state.child.on_death:
            print_line(reason)
            self._run_cleanup(state)
        else:
            self._restart_later(state, reason)

    def _run_cleanup(self, state: _ChildState) -> None:
        """Start the `on_death` command; the child restarts after it has ended."""
        child = state.child
        try:
            state.process = child_process.spawn(replace(child, command=child.on_death, pass_fds=()))
        except (OSError, subprocess.SubprocessError) as error:
            self._restart_later(state, f"cleanup after {child.name} cannot be started: {error}")
            return
        state.cleanup_deadline = time.monotonic() + child.on_death_s

    def _on_cleanup_done(self, state: _ChildState, process: subprocess.Popen[bytes]) -> None:
        returncode = process.returncode
        child_process.kill_process(process)
        state.process, state.cleanup_deadline = None, None
        name = state.child.name
        if returncode is None:
            self._restart_later(state, f"cleanup after {name} took more than {state.child.on_death_s:g} s: killed")
        elif returncode == EX_REASON_LOGGED:
            state.delay_s = min(state.delay_s, self._backoff.explained_s)
            self._restart_later(state, f"cleaned up after {name}: the suspect jobs are isolated")
        elif returncode:
            self._restart_later(state, f"cleanup after {name} failed: {child_process.describe_exit(returncode)}")
        else:
            self._restart_later(state, f"cleaned up after {name}")

    def _restart_later(self, state: _ChildState, reason: str) -> None:
        log = f" (its log: {state.child.log})" if state.child.log else ""
        print_line(f"{reason}; restarting in {state.delay_s:g} s{log}")
        state.due_at = time.monotonic() + state.delay_s
        state.delay_s = min(state.delay_s * 2, self._backoff.limit_s)

    def _stop_all(self) -> None:
        if self._on_stop is not None:
            self._on_stop()
        for _, part in groupby(reversed(self._states), lambda state: state.child.part or state.child.name):
            running = [(state.child, state.process) for state in part if state.process is not None]
            stopped = child_process.stop_together([(process, child.stop_s) for child, process in running])
            for (child, _), by_itself in zip(running, stopped, strict=True):
                if not by_itself:
                    print_line(f"{child.name} did not stop within {child.stop_s:g} s: killed")

    def _wait(self, timeout_s: float | None) -> None:
        """Sleep until a signal, such as SIGCHLD, or the timeout in seconds."""
        if select.select([self._wakeup_reader], [], [], timeout_s)[0]:
            self._wakeup_reader.recv(4096)

    @contextmanager
    def _install_wakeup_fd(self) -> Iterator[None]:
        # Every signal writes a byte to the socket, so that select also sees one that arrives just before it.
        self._wakeup_writer.setblocking(False)
        handled = [*_STOP_SIGNALS, signal.SIGCHLD]
        if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
            handled.remove(signal.SIGHUP)  # started with nohup
        previous = {number: signal.signal(number, self._on_signal) for number in handled}
        old_fd = signal.set_wakeup_fd(self._wakeup_writer.fileno(), warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(old_fd)
            for number, handler in previous.items():
                signal.signal(number, handler)
            self._wakeup_reader.close()
            self._wakeup_writer.close()

    def _on_signal(self, number: int, _frame: object) -> None:
        # Ignore a second signal: one sent to the process group arrives directly and again through make.
        if number != signal.SIGCHLD and self._exit_code is None:
            self._exit_code = 0
