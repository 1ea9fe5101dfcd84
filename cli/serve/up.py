"""`jitney up`: the queue's server, workers, deliverer and gateway on this machine, and a line when it is ready.

Knows how the parts are called and what they are given, not what they do.
"""

import argparse
import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path

from cli.serve import gateway_processes, redis_address, worker_processes
from cli.serve.embedded_redis import EmbeddedRedis
from cli.serve.ready_line import ReadyLine
from cli.serve.supervisor import EX_CONFIG, BadSetting, CannotStart, ChildProcess, Supervisor, print_line
from jobs.config import environment

SETTINGS_HELP = """environment:
  PORT         where the gateway listens (default 8000; 0 for any free port)
  HOST         on which address (default 127.0.0.1: this machine only; 0.0.0.0 for all)
  JITNEY_MODELS_DIR   the folder of models (default models)
  JITNEY_DATA_DIR     where the queue is kept (default .data)
  WORKERS      worker processes (default 1)
  GATEWAYS     gateway processes, which share the port (default 1)
  JITNEY_REDIS_URL    an existing Redis >= 7.0 or Valkey to use instead of a server of our own
  JITNEY_REDIS_URL_FILE  a file that holds its URL
The settings of `jitney api`, `jitney worker` and `jitney deliver` hold here too."""
BACKGROUND_STOP_TIMEOUT_S = 4.0  # JITNEY_BACKGROUND_DRAIN_S, and 2


@dataclass(frozen=True)
class Settings:
    """What `up` itself needs to know."""

    models_dir: str
    data_dir: Path
    redis_url: str | None  # None: a server of our own; empty: JITNEY_REDIS_URL_FILE names it
    door: gateway_processes.Settings = field(default_factory=gateway_processes.Settings)
    pool: worker_processes.Settings = field(default_factory=worker_processes.Settings)

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> "Settings":
        """Raises CannotStart for a number that is none, as a PORT of 65536. An empty variable counts as unset."""
        return cls(
            models_dir=env.get("JITNEY_MODELS_DIR") or "models",
            data_dir=Path(env.get("JITNEY_DATA_DIR") or ".data"),
            redis_url="" if env.get("JITNEY_REDIS_URL_FILE") else environment.read(env, "REDIS_URL") or None,
            door=gateway_processes.Settings.from_env(env),
            pool=worker_processes.Settings.from_env(env),
        )


def run(settings: Settings, started_at: float) -> int:
    """Until stopped; returns the exit code, raises CannotStart."""
    with ExitStack() as held:
        host = settings.door.host
        listener = held.enter_context(closing(gateway_processes.listen(host, settings.door.port)))
        port = listener.getsockname()[1]
        kept: list[ChildProcess] = []
        redis_url = settings.redis_url
        if redis_url is None:
            server = held.enter_context(closing(EmbeddedRedis(settings.data_dir)))
            redis_url = server.url
            kept.append(server.child)
        parts = {
            "JITNEY_REDIS_URL": redis_url,
            "JITNEY_MODELS_DIR": settings.models_dir,
            "JITNEY_HOST": host,
            "JITNEY_PORT": str(port),
        }
        parts["JITNEY_BULK_STORE"] = os.environ.get("JITNEY_BULK_STORE") or str(settings.data_dir / "bulk")
        parts["JITNEY_TENSORRT_CACHE_DIR"] = os.environ.get("JITNEY_TENSORRT_CACHE_DIR") or str(
            settings.data_dir / "engines"
        )
        env = {**os.environ, **parts}
        door = held.enter_context(closing(gateway_processes.GatewayProcesses(settings.door, listener, env)))
        pool = worker_processes.worker_children(
            settings.pool, held.enter_context(worker_processes.journal_folder()), env
        )
        kept += [*pool, _background_process(env), *door.children]
        ready = held.enter_context(closing(ReadyLine(host, port, started_at, door.are_ready)))
        # Closed before the gateways end: no caller is to wait in the backlog of a service that stops.
        return Supervisor(kept, backoff=settings.pool.backoff, tick=ready.tick, on_stop=listener.close).run()


def _background_process(env: Mapping[str, str]) -> ChildProcess:
    """Whoever delivers webhooks; it stops with the workers: what they still end lies in the outbox."""
    # -P: a folder named worker where the command is called is not ours.
    command = (sys.executable, "-P", "-m", "background")
    return ChildProcess("deliverer", command, env, stop_s=BACKGROUND_STOP_TIMEOUT_S, part="worker")


def main(argv: Sequence[str]) -> int:
    """The verb `up`; returns the exit code."""
    began_at = time.time() - time.process_time()  # includes our own imports
    parser = argparse.ArgumentParser(
        prog="jitney up",
        description="Start the queue's server, workers, the deliverer and the gateway; Ctrl-C stops all.",
        epilog=SETTINGS_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.parse_args(argv)
    try:
        redis_address.check(os.environ)
    except CannotStart as error:
        print_line(str(error))
        return EX_CONFIG
    try:
        # Set by `make run`, so that the time it reports includes the installation.
        return run(Settings.from_env(os.environ), _started_at(began_at))
    except BadSetting as error:
        print_line(str(error))
        return EX_CONFIG
    except CannotStart as error:
        print_line(str(error))
        return 1


def _started_at(began_at: float) -> float:
    given = os.environ.get("JITNEY_STARTED_AT") or str(began_at)
    try:
        return float(given)
    except ValueError as error:
        raise BadSetting(f"JITNEY_STARTED_AT={given} is not a time in seconds since 1970") from error
