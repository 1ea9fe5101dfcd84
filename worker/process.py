"""The worker process: models loaded, loops run, until a signal says stop."""

import asyncio
import gc
import logging
import signal
from importlib import import_module
from importlib.util import find_spec

from jobs.connection import Connection
from jobs.settings import StoreSettings
from jobs.store import JobStore
from worker.models.loading import load_all
from worker.models.spec import ModelError
from worker.runtime import Runtime
from worker.settings import WorkerSettings

log = logging.getLogger("jitney.worker")

EX_CONFIG = 78  # the supervisor does not restart what a restart can not mend


def run(settings: WorkerSettings, store_settings: StoreSettings) -> int:
    """Work until SIGTERM; returns the exit code."""
    try:
        models, failed = load_all(settings.models_dir, settings.chosen)
    except ModelError as error:
        log.error("MODELS_DIR=%s: %s", settings.models_dir, error)  # noqa: TRY400 (the line says it all)
        return EX_CONFIG

    async def work() -> None:
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        # Nobody waits for a worker's commands as a caller does; giving up on a claim that comes late costs a lease.
        patience_s = max(store_settings.redis_timeout_s, store_settings.lease_s / 4)
        connection = Connection(store_settings.redis_url, patience_s)
        runtime = Runtime(settings, JobStore(store_settings, connection), models, failed)
        # What was loaded so far stays for ever: the collector need not look at it again with each pass.
        gc.collect()
        gc.freeze()
        log.info("worker %s serves %s", runtime.id, ", ".join(runtime.stations) or "nothing")
        await runtime.run(stop)
        await connection.aclose()
        log.info("worker %s stopped", runtime.id)

    # uvloop halves what a round trip costs; it is not made for every system, and nothing else depends on it.
    new_loop = import_module("uvloop").new_event_loop if find_spec("uvloop") else None
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(work())
    return 0
