"""`python -m worker`: reads the settings, checks that ONNX Runtime is installed, and runs a worker."""

import argparse
import logging
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from jobs.config.fast_imports import fast_imports

with fast_imports():
    from pydantic import ValidationError

    from jobs.config import logs
    from jobs.config.settings_base import EX_CONFIG, format_validation_error
    from jobs.metrics import heap_trim
    from jobs.store.settings import StoreSettings
    from model_runtime.cpus import bind_process
    from worker.settings import WorkerSettings


def main(argv: Sequence[str] | None = None) -> int:
    """Run one worker; returns the exit code."""
    parser = argparse.ArgumentParser(prog="jitney worker", description="Claim jobs and run them in micro-batches.")
    parser.add_argument("--journal", type=Path, help="file that records which jobs are executing")
    args = parser.parse_args(argv)
    try:
        settings, store_settings = WorkerSettings(), StoreSettings()
    except ValidationError as error:
        sys.stderr.write(f"jitney worker: {format_validation_error(error)}\n")
        return EX_CONFIG
    logs.set_up("worker", settings.log_level, settings.log_format)
    logging.getLogger("PIL").setLevel(max(logging.INFO, logging.root.level))  # its debug log has every image chunk
    if find_spec("onnxruntime") is None:
        sys.stderr.write(
            'jitney worker: ONNX Runtime is not installed: pip install -e ".[cpu]" (or ".[gpu]" for a GPU)\n'
        )
        return EX_CONFIG
    heap_trim.keep_freed_memory()
    bind_process(settings.cpus)  # before any thread starts: threads inherit it
    with fast_imports():
        from worker.process import run  # noqa: PLC0415 (needs onnxruntime, checked above)

    return run(settings, store_settings, args.journal)


if __name__ == "__main__":
    sys.exit(main())
