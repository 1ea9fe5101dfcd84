"""`jitney worker`: supervises worker processes and recovers the jobs of one that died.

Each worker writes the jobs it executes to its in-flight journal, a file. When it dies,
`worker.crash_recovery.recover` reads that file and returns the jobs to the queue.
"""

import argparse
import math
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from cli.serve import redis_address
from cli.serve.child_process import ChildProcess
from cli.serve.start_errors import BadSetting, CannotStart, parse_count, print_line
from cli.serve.supervisor import Backoff, Supervisor
from model_runtime.cpus import Cpus, cpus_of_process, read_cpus, usable_cpus

MAX_PROCESSES = 256
MAX_GPUS = 1024
DRAIN_S = 3.0  # the default of the worker
STOP_TIMEOUT_AFTER_DRAIN_S = 2.0
MAX_SECONDS = 1e9  # the longest timeout of the system

SETTINGS_HELP = """environment:
  JITNEY_WORKERS          worker processes per GPU (default 1)
  JITNEY_CPUS             CPUs of each process (default: an equal share), or one list for all, such as 8-15
  JITNEY_GPU_DEVICES      CUDA device numbers of the GPUs to use (default 0)
  JITNEY_MODELS_DIR       folder of models (default models)
  JITNEY_SERVE_MODELS     names of the models to serve, separated by commas (default: all)
  JITNEY_REDIS_URL        URL of Redis >= 7.0 or Valkey (default redis://127.0.0.1:6379/0)
  JITNEY_REDIS_URL_FILE   file that contains this URL
  JITNEY_RESTART_LIMIT_S  longest delay before a dead worker restarts (default 10)
docs/reference/settings.md lists all settings. To run one process under another supervisor: python -m worker."""


@dataclass(frozen=True)
class Settings:
    processes: int = 1
    devices: tuple[int, ...] = (0,)
    drain_s: float = DRAIN_S
    cpus: Cpus | None = None  # None: an equal share for each process
    backoff: Backoff = field(default_factory=Backoff)

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> "Settings":
        """Read the environment; an empty variable counts as unset. Raises BadSetting for an invalid value."""
        default = Backoff()
        limit_s = _parse_seconds(env, "JITNEY_RESTART_LIMIT_S", default.limit_s)
        return cls(
            processes=parse_count("JITNEY_WORKERS=", env.get("JITNEY_WORKERS") or "1", "worker", MAX_PROCESSES),
            devices=_parse_devices("JITNEY_GPU_DEVICES=", env.get("JITNEY_GPU_DEVICES") or "0"),
            drain_s=_parse_seconds(env, "JITNEY_DRAIN_S", DRAIN_S),
            cpus=_parse_cpus(env.get("JITNEY_CPUS") or ""),
            backoff=replace(default, first_s=min(default.first_s, limit_s), limit_s=limit_s),
        )


def _parse_devices(name: str, text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and int(part) < MAX_GPUS for part in parts):
        raise BadSetting(f"{name}{text} is not a list of GPUs: use 0 to {MAX_GPUS - 1}, separated by commas")
    return tuple(dict.fromkeys(int(part) for part in parts))


def _parse_cpus(text: str) -> Cpus | None:
    try:
        return read_cpus(text) if text else None
    except ValueError as error:
        raise BadSetting(f"JITNEY_CPUS={text}: {error}") from error


def _parse_seconds(env: Mapping[str, str], name: str, default_s: float) -> float:
    text = env.get(name) or str(default_s)
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= MAX_SECONDS:
        raise BadSetting(f"{name}={text} is not a time in seconds: use a number above 0, at most {MAX_SECONDS:.0f}")
    return seconds


@contextmanager
def journal_folder() -> Iterator[Path]:
    """Create a folder for in-flight journals, which lives as long as the supervisor. Raises CannotStart."""
    try:
        folder = tempfile.TemporaryDirectory(prefix="jitney-workers-", ignore_cleanup_errors=True)
    except OSError as error:
        raise CannotStart(f"cannot create a temporary folder: {error} (TMPDIR sets its place)") from error
    with folder as path:
        yield Path(path)


def worker_children(settings: Settings, folder: Path, env: Mapping[str, str]) -> list[ChildProcess]:
    """Describe the worker processes: equally many per GPU, with equal shares of the CPUs; all drain together."""
    # -P: do not import a folder named worker from the current directory.
    python = (sys.executable, "-P", "-m")
    gpus = [gpu for _ in range(settings.processes) for gpu in settings.devices]
    cpus = settings.cpus
    share = max(1, usable_cpus() // len(gpus))  # in total, no more threads than CPUs
    journals = [(str(folder / f"worker-{number}"), gpu) for number, gpu in enumerate(gpus, 1)]
    return [
        ChildProcess(
            name="worker" if len(journals) == 1 else Path(journal).name,
            command=(*python, "worker", "--journal", journal),
            env={
                **env,
                "JITNEY_GPU_DEVICE": str(gpu),
                "JITNEY_CPUS": str(share) if cpus is None else cpus_of_process(cpus, index, len(journals)),
            },
            stop_s=settings.drain_s + STOP_TIMEOUT_AFTER_DRAIN_S,
            on_death=(*python, "worker.crash_recovery.recover", journal),
            part="worker",
        )
        for index, (journal, gpu) in enumerate(journals)
    ]


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="jitney worker",
        description="Supervise worker processes, which claim jobs and run them in batches; SIGTERM drains them.",
        epilog=SETTINGS_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--processes", metavar="N", help="worker processes per GPU (default: JITNEY_WORKERS, or 1)")
    parser.add_argument("--device", metavar="N[,N]", help="GPUs to use (default: JITNEY_GPU_DEVICES, or 0)")
    parser.add_argument("--models", metavar="NAMES", help="models to serve (default: JITNEY_SERVE_MODELS, or all)")
    args = parser.parse_args(argv)
    try:
        redis_address.check(os.environ)
        settings = Settings.from_env(os.environ)
        if args.processes is not None:
            settings = replace(settings, processes=parse_count("--processes ", args.processes, "worker", MAX_PROCESSES))
        if args.device is not None:
            settings = replace(settings, devices=_parse_devices("--device ", args.device))
        with journal_folder() as folder:
            env = os.environ if args.models is None else {**os.environ, "JITNEY_SERVE_MODELS": args.models}
            return Supervisor(worker_children(settings, folder, env), backoff=settings.backoff).run()
    except CannotStart as error:
        print_line(str(error))
        return error.exit_code
