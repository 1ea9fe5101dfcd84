"""`jitney up`: the queue's server, workers and the gateway on this machine, and a line that says when it is ready.

Knows how the parts are called and what they are given, not what they do.
"""

import argparse
import errno
import os
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path

from scripts import workers
from scripts.embedded import EmbeddedServer
from scripts.readiness import ReadyLine
from scripts.supervisor import CannotStart, Child, Supervisor, say

SETTINGS_HELP = """environment:
  PORT         where the gateway listens (default 8000; 0 for any free port)
  HOST         on which address (default 127.0.0.1: this machine only; 0.0.0.0 for all)
  MODELS_DIR   the folder of models (default models)
  DATA_DIR     where the queue is kept (default .data)
  WORKERS      worker processes (default 1)
  REDIS_URL    an existing Redis >= 7.0 or Valkey to use instead of a server of our own
The settings of `jitney api` and `jitney worker` hold here too."""

# With the workers' 5 s (DRAIN_S, and 2) and the server's 2 s below 10 s, the patience of a `docker stop`.
GATEWAY_STOPS_WITHIN_S = 2.5


@dataclass(frozen=True)
class Settings:
    """What `up` itself needs to know."""

    host: str
    port: int
    models_dir: str
    data_dir: Path
    redis_url: str | None
    pool: workers.Settings = field(default_factory=workers.Settings)

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> "Settings":
        """Raises CannotStart for a number that is none, as a PORT of 65536. An empty variable counts as unset."""
        port = env.get("PORT") or "8000"
        if not port.isascii() or not port.isdigit() or int(port) > 65535:
            raise CannotStart(f"PORT={port} is not a port: 0 to 65535, where 0 takes any free one")
        return cls(
            host=env.get("HOST") or "127.0.0.1",
            port=int(port),
            models_dir=env.get("MODELS_DIR") or "models",
            data_dir=Path(env.get("DATA_DIR") or ".data"),
            redis_url=env.get("REDIS_URL") or None,
            pool=workers.Settings.from_env(env),
        )


def listen(host: str, port: int) -> socket.socket:
    """The gateway's socket, ours so that connections wait in its backlog while a gateway restarts."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        both = host == "::" and socket.has_dualstack_ipv6()
        return socket.create_server((host, port), family=family, backlog=1024, dualstack_ipv6=both)
    except socket.gaierror as error:
        raise CannotStart(f"HOST={host} can not be resolved: {error.strerror}") from error
    except PermissionError as error:
        raise CannotStart(f"port {port} may not be opened by this user: set PORT to one above 1023") from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise CannotStart(f"port {port} is in use: set PORT to another, or PORT=0 for any free one") from error
        raise CannotStart(f"can not listen on {host} port {port}: {error.strerror}") from error


def children(settings: Settings, listener: socket.socket, redis_url: str, black_boxes: Path) -> list[Child]:
    """The workers and the gateway, in the order of their start."""
    env = {
        **os.environ,
        "REDIS_URL": redis_url,
        "MODELS_DIR": settings.models_dir,
        "HOST": settings.host,
        "PORT": str(listener.getsockname()[1]),
    }
    fd = listener.fileno()
    # -P: a folder named api where `jitney up` is called is not ours.
    command = (sys.executable, "-P", "-m", "api", "--fd", str(fd))
    gateway = Child("gateway", command, env, pass_fds=(fd,), stop_s=GATEWAY_STOPS_WITHIN_S)
    return [*workers.children(settings.pool, black_boxes, env), gateway]


def run(settings: Settings, started_at: float) -> int:
    """Until stopped; returns the exit code, raises CannotStart."""
    with ExitStack() as held:
        listener = held.enter_context(closing(listen(settings.host, settings.port)))
        kept: list[Child] = []
        redis_url = settings.redis_url
        if redis_url is None:
            server = held.enter_context(closing(EmbeddedServer(settings.data_dir)))
            redis_url = server.url
            kept.append(server.child)
        kept += children(settings, listener, redis_url, held.enter_context(workers.black_boxes()))
        ready = held.enter_context(closing(ReadyLine(settings.host, listener.getsockname()[1], started_at)))
        # Closed before the gateway ends: no caller is to wait in the backlog of a service that stops.
        return Supervisor(kept, backoff=settings.pool.backoff, tick=ready.tick, on_stop=listener.close).run()


def main(argv: Sequence[str]) -> int:
    """The verb `up`; returns the exit code."""
    began_at = time.time() - time.process_time()  # includes our own imports
    parser = argparse.ArgumentParser(
        prog="jitney up",
        description="Start the queue's server, workers and the gateway; Ctrl-C stops all of them.",
        epilog=SETTINGS_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.parse_args(argv)
    try:
        # Set by `make run`, so that the time it reports includes the installation.
        started_at = float(os.environ.get("JITNEY_STARTED_AT") or began_at)
        return run(Settings.from_env(os.environ), started_at)
    except CannotStart as error:
        say(str(error))
        return 1
