"""`jitney api`: runs one gateway in this process, or several child processes that share one listening socket."""

import argparse
import errno
import importlib
import math
import os
import select
import socket
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

from cli.extras import missing_packages
from cli.serve import redis_address, worker_processes
from cli.serve.child_process import ChildProcess
from cli.serve.start_errors import EX_CONFIG, BadSetting, CannotStart, parse_count, print_line
from cli.serve.supervisor import Supervisor
from jobs.config import environment

MAX_PROCESSES = 64
MAX_LAME_DUCK_S = 3600
# Plus 5 s of workers (JITNEY_DRAIN_S + 2) and 2 s of the server: less than the 10 s of `docker stop`.
STOP_TIMEOUT_S = 2.5


@dataclass(frozen=True)
class Settings:
    host: str = "127.0.0.1"
    port: int = 8000
    processes: int = 1
    lame_duck_s: float = 0.0
    grpc_port: int = 0  # 0: no gRPC

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> "Settings":
        """Read the environment; an empty variable counts as unset. Raises BadSetting for an invalid value."""
        port = _parse_port("JITNEY_PORT", environment.read(env, "PORT") or "8000", "any free port")
        grpc_port = _parse_port("JITNEY_GRPC_PORT", environment.read(env, "GRPC_PORT") or "0", "off")
        if grpc_port and (hint := missing_packages("grpc", "grpc", "grpc_health", "grpc_reflection")):
            raise BadSetting(f"JITNEY_GRPC_PORT={grpc_port} {hint}")
        host = env.get("JITNEY_HOST") or "127.0.0.1"
        processes = parse_count("JITNEY_GATEWAYS=", env.get("JITNEY_GATEWAYS") or "1", "gateway", MAX_PROCESSES)
        lame_duck_s = _parse_lame_duck_s(env.get("JITNEY_LAME_DUCK_S") or "0")
        return cls(host=host, port=port, processes=processes, lame_duck_s=lame_duck_s, grpc_port=grpc_port)


def _parse_port(name: str, text: str, zero: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise BadSetting(f"{name}={text} is not a port: use 0 to 65535, where 0 means {zero}")
    return int(text)


def _parse_lame_duck_s(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= MAX_LAME_DUCK_S:
        raise BadSetting(f"JITNEY_LAME_DUCK_S={text} is not a time in seconds: use 0 to {MAX_LAME_DUCK_S}")
    return seconds


def listen(host: str, port: int) -> socket.socket:
    """Open the shared socket; its backlog holds connections while a gateway restarts. Raises CannotStart."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        both = host == "::" and socket.has_dualstack_ipv6()
        return socket.create_server((host, port), family=family, backlog=1024, dualstack_ipv6=both)
    except (socket.gaierror, UnicodeError) as error:  # UnicodeError: not a valid host name
        reason = getattr(error, "strerror", None) or error
        raise BadSetting(f"JITNEY_HOST={host} cannot be resolved: {reason}") from error
    except PermissionError as error:
        raise CannotStart(f"this user may not open port {port}: set JITNEY_PORT to 1024 or more") from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise CannotStart(f"port {port} is in use: set JITNEY_PORT to another, or 0 for any free one") from error
        raise CannotStart(f"cannot listen on {host} port {port}: {error.strerror}") from error


def check_grpc_port(listener: socket.socket, port: int) -> None:
    """Raise CannotStart if the port of gRPC is in use: the gateways would share it with another service.

    They open it themselves with SO_REUSEPORT, on the address of the listener.
    """
    if not port:
        return
    host = listener.getsockname()[0]
    try:
        both = host == "::" and socket.has_dualstack_ipv6()
        socket.create_server((host, port), family=listener.family, dualstack_ipv6=both).close()
    except OSError as error:
        reason = f"cannot listen on {host} JITNEY_GRPC_PORT={port}: {error.strerror}"
        raise CannotStart(f"{reason}; set it to another port, or 0 for no gRPC") from error


class GatewayProcesses:
    """The gateway child processes; each writes to its own pipe once it answers requests."""

    def __init__(self, settings: Settings, listener: socket.socket, env: Mapping[str, str]) -> None:
        processes = settings.processes
        check_grpc_port(listener, settings.grpc_port)
        # A single gateway needs no pipe: it is polled at its port.
        self._pipes = [os.pipe() for _ in range(processes)] if processes > 1 else []
        fd = listener.fileno()
        # The processes add up their counters in this file, because a scrape of /metrics/process reaches any of them.
        self._counters = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the pipes)
        counters_fd = self._counters.fileno()
        # -P: do not import a folder named api from the current directory.
        command = (sys.executable, "-P", "-m", "api", "--fd", str(fd))
        stop_s = STOP_TIMEOUT_S + settings.lame_duck_s
        single = ChildProcess("gateway", command, env, pass_fds=(fd,), stop_s=stop_s, part="gateway")
        self.children = [
            replace(
                single,
                name=f"gateway-{number}",
                command=(
                    *(*command, "--up-fd", str(up_fd), "--counters-fd", str(counters_fd)),
                    *("--counters-slot", str(number - 1), "--counters-slots", str(processes)),
                ),
                pass_fds=(fd, up_fd, counters_fd),
            )
            for number, (_, up_fd) in enumerate(self._pipes, 1)
        ] or [single]

    def are_ready(self) -> bool:
        """Return whether every gateway has answered requests at least once."""
        readers = [reader for reader, _ in self._pipes]
        return len(select.select(readers, [], [], 0)[0]) == len(readers)

    def close(self) -> None:
        self._counters.close()
        for pipe in self._pipes:
            for fd in pipe:
                os.close(fd)


def _print_when_ready(gateways: GatewayProcesses, listener: socket.socket) -> Callable[[], bool]:
    host, port = listener.getsockname()[:2]

    def tick() -> bool:
        if not gateways.are_ready():
            return True
        print_line(f"{len(gateways.children)} gateways answer on {host} port {port}")
        return False

    return tick


def run(settings: Settings) -> int:
    """Supervise several gateways until stopped and return the exit code. Raises CannotStart."""
    with (
        closing(listen(settings.host, settings.port)) as listener,
        closing(GatewayProcesses(settings, listener, os.environ)) as gateways,
    ):
        # Close the socket before the gateways end: no caller should wait in the backlog of a stopping service.
        tick, backoff = _print_when_ready(gateways, listener), worker_processes.Settings.from_env(os.environ).backoff
        return Supervisor(gateways.children, backoff=backoff, tick=tick, on_stop=listener.close).run()


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="jitney api", add_help=False, allow_abbrev=False)
    parser.add_argument("--workers", metavar="N", help="gateway processes (default: JITNEY_GATEWAYS, or 1)")
    args, others = parser.parse_known_args(argv)
    try:
        redis_address.check(os.environ)
        settings = Settings.from_env(os.environ)
        if args.workers is not None:
            settings = replace(settings, processes=parse_count("--workers ", args.workers, "gateway", MAX_PROCESSES))
        if settings.processes > 1 and others and not {"-h", "--help"} & set(others):
            print_line(f"{settings.processes} gateways take no other options: remove {others[0]}")
            return EX_CONFIG
        if settings.processes > 1 and not others:
            return run(settings)
    except CannotStart as error:
        print_line(str(error))
        return EX_CONFIG
    # A single gateway runs in this process, without a supervisor.
    code: int = importlib.import_module("api.__main__").main(others)
    return code
