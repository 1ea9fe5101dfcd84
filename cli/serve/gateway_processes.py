"""`jitney api`: one gateway in this process or, where more are asked for, several that share one listening socket.

Each of several is a whole gateway; a connection belongs to the one that took it. Knows how one is called, not what it
does.
"""

import argparse
import errno
import importlib
import math
import os
import select
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

from cli.serve import redis_address, worker_processes
from cli.serve.supervisor import EX_CONFIG, BadSetting, CannotStart, ChildProcess, Supervisor, print_line
from jobs.config import environment

MAX_PROCESSES = 64
MAX_LAME_DUCK_S = 3600
# With the workers' 5 s (JITNEY_DRAIN_S, and 2) and the server's 2 s below 10 s, the patience of a `docker stop`.
STOP_TIMEOUT_S = 2.5


@dataclass(frozen=True)
class Settings:
    """What keeping gateways needs to know."""

    host: str = "127.0.0.1"
    port: int = 8000
    processes: int = 1
    lame_duck_s: float = 0.0

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> "Settings":
        """Raises CannotStart for a number that is none, as a PORT of 65536. An empty variable counts as unset."""
        port = environment.read(env, "PORT") or "8000"
        if not port.isascii() or not port.isdigit() or int(port) > 65535:
            raise BadSetting(f"JITNEY_PORT={port} is not a port: 0 to 65535, where 0 takes any free one")
        host, processes = (
            env.get("JITNEY_HOST") or "127.0.0.1",
            _parse_count("JITNEY_GATEWAYS=", env.get("JITNEY_GATEWAYS") or "1"),
        )
        lame_duck_s = _parse_lame_duck_s(env.get("JITNEY_LAME_DUCK_S") or "0")
        return cls(host=host, port=int(port), processes=processes, lame_duck_s=lame_duck_s)


def _parse_count(given_as: str, text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= MAX_PROCESSES:
        raise BadSetting(f"{given_as}{text} is not a number of gateway processes: 1 to {MAX_PROCESSES}")
    return int(text)


def _parse_lame_duck_s(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= MAX_LAME_DUCK_S:
        raise BadSetting(f"JITNEY_LAME_DUCK_S={text} is not a time in seconds: a number from 0 to {MAX_LAME_DUCK_S}")
    return seconds


def listen(host: str, port: int) -> socket.socket:
    """The gateways' socket, ours so that connections wait in its backlog while a gateway restarts."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        both = host == "::" and socket.has_dualstack_ipv6()
        return socket.create_server((host, port), family=family, backlog=1024, dualstack_ipv6=both)
    except (socket.gaierror, UnicodeError) as error:  # UnicodeError: a name that is no host's
        raise BadSetting(
            f"JITNEY_HOST={host} cannot be resolved: {getattr(error, 'strerror', None) or error}"
        ) from error
    except PermissionError as error:
        raise CannotStart(f"port {port} may not be opened by this user: set PORT to one above 1023") from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise CannotStart(
                f"port {port} is in use: set PORT to another, or JITNEY_PORT=0 for any free one"
            ) from error
        raise CannotStart(f"can not listen on {host} port {port}: {error.strerror}") from error


class GatewayProcesses:
    """The gateways to keep, and whether each of them has come up: each says so once, on a pipe of its own."""

    def __init__(self, settings: Settings, listener: socket.socket, env: Mapping[str, str]) -> None:
        processes = settings.processes
        # A lone one is asked at its port, where nobody else answers in its place.
        self._pipes = [os.pipe() for _ in range(processes)] if processes > 1 else []
        fd = listener.fileno()
        # -P: a folder named api where the command is called is not ours.
        command = (sys.executable, "-P", "-m", "api", "--fd", str(fd))
        stop_s = STOP_TIMEOUT_S + settings.lame_duck_s
        alone = ChildProcess("gateway", command, env, pass_fds=(fd,), stop_s=stop_s, part="gateway")
        self.children = [
            replace(
                alone,
                name=f"gateway-{number}",
                command=(*command, "--up-fd", str(up_fd)),
                pass_fds=(fd, up_fd),
            )
            for number, (_, up_fd) in enumerate(self._pipes, 1)
        ] or [alone]

    def are_ready(self) -> bool:
        """Whether every one has begun to answer at least once."""
        ends = [end for end, _ in self._pipes]
        return len(select.select(ends, [], [], 0)[0]) == len(ends)

    def close(self) -> None:
        for ends in self._pipes:
            for end in ends:
                os.close(end)


def _print_when_ready(gateways: GatewayProcesses, listener: socket.socket) -> Callable[[], bool]:
    host, port = listener.getsockname()[:2]

    def tick() -> bool:
        if not gateways.are_ready():
            return True
        print_line(f"{len(gateways.children)} gateways answer on {host} port {port}")
        return False

    return tick


def run(settings: Settings) -> int:
    """Keep several until stopped; returns the exit code, raises CannotStart."""
    with (
        closing(listen(settings.host, settings.port)) as listener,
        closing(GatewayProcesses(settings, listener, os.environ)) as gateways,
    ):
        # Closed before the gateways end: no caller is to wait in the backlog of a service that stops.
        tick, backoff = _print_when_ready(gateways, listener), worker_processes.Settings.from_env(os.environ).backoff
        return Supervisor(gateways.children, backoff=backoff, tick=tick, on_stop=listener.close).run()


def main(argv: Sequence[str]) -> int:
    """The verb `api`; returns the exit code."""
    parser = argparse.ArgumentParser(prog="jitney api", add_help=False, allow_abbrev=False)
    parser.add_argument("--workers", metavar="N")
    given, others = parser.parse_known_args(argv)
    try:
        redis_address.check(os.environ)
        settings = Settings.from_env(os.environ)
        if given.workers is not None:
            settings = replace(settings, processes=_parse_count("--workers ", given.workers))
        if settings.processes > 1 and others and not {"-h", "--help"} & set(others):
            print_line(f"{settings.processes} gateways take no other option, and not {others[0]}")
            return EX_CONFIG
        if settings.processes > 1 and not others:
            return run(settings)
    except CannotStart as error:
        print_line(str(error))
        return EX_CONFIG
    # A lone one is this process itself, with nothing in between.
    code: int = importlib.import_module("api.__main__").main(others)
    return code
