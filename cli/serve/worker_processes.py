"""`jitney worker`: keeps worker processes running, and has the jobs of one that died given back at once.

Each worker notes in a file of its own, its black box, which jobs it has in hands; when it dies,
`worker.crash_recovery.recover` reads it. Knows how these two are called, not what they do.
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
from cli.serve.supervisor import EX_CONFIG, Backoff, BadSetting, CannotStart, ChildProcess, Supervisor, print_line
from model_runtime.cpus import Cpus, cpus_of_process, read_cpus, usable_cpus

MAX_PROCESSES = 256
MAX_GPUS = 1024
DRAIN_S = 3.0  # the worker's own default
STOP_TIMEOUT_AFTER_DRAIN_S = 2.0
MAX_SECONDS = 1e9  # the system waits no longer

SETTINGS_HELP = """environment:
  WORKERS          worker processes (default 1), so many on each GPU
  CPUS             CPUs of each (default its share of all), or a list for all of them, as 8-15
  JITNEY_GPU_DEVICES       numbers of the GPUs to use, as CUDA counts them (default 0)
  JITNEY_MODELS_DIR       the folder of models (default models)
  JITNEY_REDIS_URL        Redis >= 7.0 or Valkey that keeps the queue (default redis://127.0.0.1:6379/0)
  JITNEY_REDIS_URL_FILE   a file that holds this URL
  JITNEY_RESTART_LIMIT_S  longest wait before a worker that died is started again (default 10)
docs/configuration.md has all of them. One process alone, supervised by something else: python -m worker."""


@dataclass(frozen=True)
class Settings:
    """What keeping workers needs to know."""

    processes: int = 1
    devices: tuple[int, ...] = (0,)
    drain_s: float = DRAIN_S
    cpus: Cpus | None = None  # None: each has its share of all
    backoff: Backoff = field(default_factory=Backoff)

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> "Settings":
        """Raises CannotStart for a number that is none. An empty variable counts as unset."""
        default = Backoff()
        limit_s = _parse_seconds(env, "JITNEY_RESTART_LIMIT_S", default.limit_s)
        return cls(
            processes=_parse_count("JITNEY_WORKERS=", env.get("JITNEY_WORKERS") or "1"),
            devices=_parse_devices("JITNEY_GPU_DEVICES=", env.get("JITNEY_GPU_DEVICES") or "0"),
            drain_s=_parse_seconds(env, "JITNEY_DRAIN_S", DRAIN_S),
            cpus=_parse_cpus(env.get("JITNEY_CPUS") or ""),
            backoff=replace(default, first_s=min(default.first_s, limit_s), limit_s=limit_s),
        )


def _parse_count(given_as: str, text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= MAX_PROCESSES:
        raise BadSetting(f"{given_as}{text} is not a number of worker processes: 1 to {MAX_PROCESSES}")
    return int(text)


def _parse_devices(given_as: str, text: str) -> tuple[int, ...]:
    parts = [cpus_of_process.strip() for cpus_of_process in text.split(",")]
    if not all(
        cpus_of_process.isascii() and cpus_of_process.isdigit() and int(cpus_of_process) < MAX_GPUS
        for cpus_of_process in parts
    ):
        raise BadSetting(f"{given_as}{text} names no GPUs: numbers from 0 to {MAX_GPUS - 1}, with commas between")
    return tuple(dict.fromkeys(int(cpus_of_process) for cpus_of_process in parts))


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
        raise BadSetting(f"{name}={text} is not a time in seconds: a number above 0, at most {MAX_SECONDS:.0f}")
    return seconds


@contextmanager
def journal_folder() -> Iterator[Path]:
    """A folder for the workers' black boxes: it outlives each worker, and goes with the process that keeps them."""
    try:
        folder = tempfile.TemporaryDirectory(prefix="jitney-workers-", ignore_cleanup_errors=True)
    except OSError as error:
        raise CannotStart(f"no temporary folder can be made: {error} (TMPDIR sets where)") from error
    with folder as path:
        yield Path(path)


def worker_children(settings: Settings, folder: Path, env: Mapping[str, str]) -> list[ChildProcess]:
    """The workers to keep, on each GPU as many; they share the CPUs, and drain at the same time, however many."""
    # -P: a folder named worker where the command is called is not ours.
    python = (sys.executable, "-P", "-m")
    gpus = [gpu for _ in range(settings.processes) for gpu in settings.devices]
    cpus = settings.cpus
    share = max(1, usable_cpus() // len(gpus))  # together they have no more threads than there are CPUs
    boxes = [(str(folder / f"worker-{number}"), gpu) for number, gpu in enumerate(gpus, 1)]
    return [
        ChildProcess(
            name="worker" if len(boxes) == 1 else Path(box).name,
            command=(*python, "worker", "--black-box", box),
            env={
                **env,
                "JITNEY_GPU_DEVICE": str(gpu),
                "JITNEY_CPUS": str(share) if cpus is None else cpus_of_process(cpus, nth, len(boxes)),
            },
            stop_s=settings.drain_s + STOP_TIMEOUT_AFTER_DRAIN_S,
            on_death=(*python, "worker.crash_recovery.recover", box),
            part="worker",
        )
        for nth, (box, gpu) in enumerate(boxes)
    ]


def main(argv: Sequence[str]) -> int:
    """The verb `worker`; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="jitney worker",
        description="Keep worker processes running, which claim jobs and run them in batches; SIGTERM drains them.",
        epilog=SETTINGS_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--processes", metavar="N", help="how many, on each GPU (default: WORKERS, or 1)")
    parser.add_argument(
        "--device", metavar="N[,N]", help="which GPUs, a worker process for each (default: JITNEY_GPU_DEVICES, or 0)"
    )
    parser.add_argument("--models", metavar="NAMES", help="which models, with commas between (default: MODELS, or all)")
    given = parser.parse_args(argv)
    try:
        redis_address.check(os.environ)
        settings = Settings.from_env(os.environ)
        if given.processes is not None:
            settings = replace(settings, processes=_parse_count("--processes ", given.processes))
        if given.device is not None:
            settings = replace(settings, devices=_parse_devices("--device ", given.device))
    except CannotStart as error:
        print_line(str(error))
        return EX_CONFIG
    try:
        with journal_folder() as folder:
            env = os.environ if given.models is None else {**os.environ, "JITNEY_SERVE_MODELS": given.models}
            return Supervisor(worker_children(settings, folder, env), backoff=settings.backoff).run()
    except CannotStart as error:
        print_line(str(error))
        return 1
