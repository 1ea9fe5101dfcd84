"""`python -m worker`: reads the settings, and starts the worker where all that it needs is installed."""

import argparse
import logging
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from pydantic import ValidationError

from jobs.config.settings_base import format_validation_error
from jobs.store.settings import StoreSettings
from model_runtime.cpus import bind_process
from worker.settings import WorkerSettings

EX_CONFIG = 78  # the supervisor does not restart what a restart can not mend


def main(argv: Sequence[str] | None = None) -> int:
    """Run one worker; returns the exit code."""
    parser = argparse.ArgumentParser(prog="jitney worker", description="Claims jobs and runs them in batches.")
    parser.add_argument("--black-box", type=Path, help="a file in which to note which jobs are in hands right now")
    args = parser.parse_args(argv)
    try:
        settings, store_settings = WorkerSettings(), StoreSettings()
    except ValidationError as error:
        sys.stderr.write(f"jitney worker: {format_validation_error(error)}\n")
        return EX_CONFIG
    logging.basicConfig(level=settings.log_level.upper(), format="%(asctime)s worker %(levelname)s %(message)s")
    logging.getLogger("PIL").setLevel(
        max(logging.INFO, logging.root.level)
    )  # at debug it tells of every chunk of every image
    if find_spec("onnxruntime") is None:
        sys.stderr.write(
            'jitney worker: ONNX Runtime is missing: pip install -e ".[cpu]" in its checkout, or [gpu] where one is\n'
        )
        return EX_CONFIG
    bind_process(settings.cpus)  # before there are threads, which take it over
    from worker.process import run  # noqa: PLC0415 (only now is it known that onnxruntime is there)

    return run(settings, store_settings, args.black_box)


if __name__ == "__main__":
    sys.exit(main())
