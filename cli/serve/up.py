"""`jitney up`: runs Redis or Valkey, workers, the background process and gateways on this machine."""

import argparse
import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path

from cli.serve import gateway_processes, redis_address, worker_processes
from cli.serve.child_process import ChildProcess
from cli.serve.embedded_redis import EmbeddedRedis
from cli.serve.ready_line import ReadyLine
from cli.serve.start_errors import BadSetting, CannotStart, print_line
from cli.serve.supervisor import Supervisor
from jobs.config import environment

SETTINGS_HELP = """environment:
  JITNEY_PORT            port of the gateway (default 8000; 0: any free port)
  JITNEY_GRPC_PORT       port of the Open Inference Protocol over gRPC (default 0: off)
  JITNEY_HOST            address of the gateway (default 127.0.0.1: this machine only; 0.0.0.0: all)
  JITNEY_MODELS_DIR      folder of models (default models; without such a folder, the bundled model digits)
  JITNEY_DATA_DIR        data folder of the Redis or Valkey server (default .data)
  JITNEY_WORKERS         worker processes (default 1)
  JITNEY_GATEWAYS        gateway processes, which share the port (default 1)
  JITNEY_REDIS_URL       URL of an existing Redis >= 7.0 or Valkey; without it, a server is started
  JITNEY_REDIS_URL_FILE  file that contains this URL
PORT and REDIS_URL are also read without the prefix.
The settings of `jitney api`, `jitney worker` and `jitney background` apply too."""
BACKGROUND_STOP_TIMEOUT_S = 4.0  # JITNEY_BACKGROUND_DRAIN_S + 2


@dataclass(frozen=True)
class Settings:
    models_dir: str
    data_dir: Path
    redis_url: str | None  # None: start a server; empty: use JITNEY_REDIS_URL_FILE
    gateways: gateway_processes.Settings = field(default_factory=gateway_processes.Settings)
    workers: worker_processes.Settings = field(default_factory=worker_processes.Settings)

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> "Settings":
        """Read the environment; an empty variable counts as unset. Raises BadSetting for an invalid value."""
        return cls(
            models_dir=env.get("JITNEY_MODELS_DIR") or _default_models_dir(),
            data_dir=Path(env.get("JITNEY_DATA_DIR") or ".data"),
            redis_url="" if env.get("JITNEY_REDIS_URL_FILE") else environment.read(env, "REDIS_URL") or None,
            gateways=gateway_processes.Settings.from_env(env),
            workers=worker_processes.Settings.from_env(env),
        )


def _default_models_dir() -> str:
    """Return the folder `models` of the current one if it exists, or else the models of the package."""
    if Path("models").exists():
        return "models"
    root = Path(__file__).parents[2]
    places = (root / "jitney" / "bundled_models", root / "models")  # of a wheel, and of a checkout
    bundled = next((place for place in places if place.is_dir()), None)
    return "models" if bundled is None else str(bundled)


def run(settings: Settings, started_at: float) -> int:
    """Run all processes until stopped and return the exit code. Raises CannotStart."""
    with ExitStack() as stack:
        host = settings.gateways.host
        listener = stack.enter_context(closing(gateway_processes.listen(host, settings.gateways.port)))
        port = listener.getsockname()[1]
        if settings.models_dir != "models" and not os.environ.get("JITNEY_MODELS_DIR"):
            print_line(f"there is no folder models here: serving the bundled models in {settings.models_dir}")
        children: list[ChildProcess] = []
        redis_url = settings.redis_url
        if redis_url is None:
            server = stack.enter_context(closing(EmbeddedRedis(settings.data_dir)))
            redis_url = server.url
            children.append(server.child)
        data_dir = settings.data_dir
        env = {
            **os.environ,
            "JITNEY_REDIS_URL": redis_url,
            "JITNEY_MODELS_DIR": settings.models_dir,
            "JITNEY_HOST": host,
            "JITNEY_PORT": str(port),
            "JITNEY_BULK_STORE": os.environ.get("JITNEY_BULK_STORE") or str(data_dir / "bulk"),
            "JITNEY_TENSORRT_CACHE_DIR": os.environ.get("JITNEY_TENSORRT_CACHE_DIR") or str(data_dir / "engines"),
        }
        gateways = stack.enter_context(closing(gateway_processes.GatewayProcesses(settings.gateways, listener, env)))
        journals = stack.enter_context(worker_processes.journal_folder())
        workers = worker_processes.worker_children(settings.workers, journals, env)
        children += [*workers, _background_process(env), *gateways.children]
        ready = stack.enter_context(closing(ReadyLine(host, port, started_at, gateways.are_ready)))
        # Close the socket before the gateways end: no caller should wait in the backlog of a stopping service.
        return Supervisor(children, backoff=settings.workers.backoff, tick=ready.tick, on_stop=listener.close).run()


def _background_process(env: Mapping[str, str]) -> ChildProcess:
    """Describe the background process. It stops with the workers; webhooks of their last jobs wait in the outbox."""
    # -P: do not import a folder named background from the current directory.
    command = (sys.executable, "-P", "-m", "background")
    return ChildProcess("background", command, env, stop_s=BACKGROUND_STOP_TIMEOUT_S, part="worker")


def main(argv: Sequence[str]) -> int:
    began_at = time.time() - time.process_time()  # include the imports
    parser = argparse.ArgumentParser(
        prog="jitney up",
        description="Run Redis or Valkey, workers, the background process and gateways; Ctrl-C stops all of them.",
        epilog=SETTINGS_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.parse_args(argv)
    try:
        redis_address.check(os.environ)
        # `make run` sets JITNEY_STARTED_AT, so that the reported time includes the installation.
        return run(Settings.from_env(os.environ), _started_at(began_at))
    except CannotStart as error:
        print_line(str(error))
        return error.exit_code


def _started_at(began_at: float) -> float:
    text = os.environ.get("JITNEY_STARTED_AT") or str(began_at)
    try:
        return float(text)
    except ValueError as error:
        raise BadSetting(f"JITNEY_STARTED_AT={text} is not a time in seconds since 1970") from error
