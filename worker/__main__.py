"""`python -m worker`: reads the settings, loads the models, works until SIGTERM."""

import argparse
import asyncio
import gc
import logging
import signal
import sys
import time
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec

from pydantic import ValidationError

from jobs.connection import Connection
from jobs.settings import StoreSettings
from jobs.store import JobStore
from worker.settings import WorkerSettings

log = logging.getLogger("jitney.worker")

EX_CONFIG = 78  # the supervisor does not restart what a restart can not mend


def main(argv: Sequence[str] | None = None) -> int:
    """Run one worker; returns the exit code."""
    parser = argparse.ArgumentParser(prog="jitney worker", description="Claims jobs and runs them in batches.")
    parser.parse_args(argv)
    try:
        settings, store_settings = WorkerSettings(), StoreSettings()
    except ValidationError as error:
        sys.stderr.write(f"jitney worker: {error}\n")
        return EX_CONFIG
    logging.basicConfig(level=settings.log_level.upper(), format="%(asctime)s worker %(levelname)s %(message)s")
    if find_spec("onnxruntime") is None:
        log.error('ONNX Runtime is not installed: pip install "jitney[cpu]", or "jitney[gpu]" on a machine with a GPU')
        return EX_CONFIG
    return _serve(settings, store_settings)


def _serve(settings: WorkerSettings, store_settings: StoreSettings) -> int:
    from worker.models.model import Model, load  # noqa: PLC0415 (only now is it known that onnxruntime is there)
    from worker.models.repository import BrokenModel, scan  # noqa: PLC0415
    from worker.models.spec import ModelError  # noqa: PLC0415

    models: list[Model] = []
    failed: dict[str, str] = {}
    try:
        found = scan(settings.models_dir, settings.chosen)
    except ModelError as error:
        log.error("%s", error)  # noqa: TRY400 (the line says it all)
        return EX_CONFIG
    for folder in found:
        started = time.monotonic()
        try:
            if isinstance(folder, BrokenModel):
                failed[folder.name] = folder.reason
            else:
                models.append(load(folder))
                log.info("model %s loaded in %.0f ms", folder.name, (time.monotonic() - started) * 1000)
        except ModelError as error:
            failed[folder.name] = str(error)
    for name, reason in failed.items():
        log.error("model %s is not served: %s", name, reason)
    if not found:
        log.error("no models in %s: a model is a folder with a model.toml and 1/model.onnx", settings.models_dir)
        return EX_CONFIG
    # uvloop halves what a round trip costs; it is not made for every system, and nothing else depends on it.
    new_loop = import_module("uvloop").new_event_loop if find_spec("uvloop") else None
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(_work(settings, store_settings, models, failed))
    return 0


async def _work(settings: WorkerSettings, store_settings: StoreSettings, models: list, failed: dict[str, str]) -> None:  # type: ignore[type-arg]
    from worker.runtime import Runtime  # noqa: PLC0415

    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    connection = Connection(store_settings.redis_url, store_settings.redis_timeout_s)
    runtime = Runtime(settings, JobStore(store_settings, connection), models, failed)
    # What was loaded so far stays for ever: the collector need not look at it again with each pass.
    gc.collect()
    gc.freeze()
    log.info("worker %s serves %s", runtime.id, ", ".join(runtime.stations) or "nothing")
    await runtime.run(stop)
    await connection.aclose()
    log.info("worker %s stopped", runtime.id)


if __name__ == "__main__":
    sys.exit(main())
