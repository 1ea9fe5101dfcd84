"""Runs the worker process: checks, crash recovery, loading, serving, until SIGTERM or SIGINT."""

import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Coroutine
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from jobs.config.settings_agreement import QueueMismatch, wait_for_shard_check
from jobs.config.settings_base import EX_CONFIG
from jobs.redis_client.client import RedisClient
from jobs.redis_client.event_wait import run_until_stopped
from jobs.store.job_store import JobStore
from jobs.store.settings import StoreSettings
from model_runtime.spec.model_toml import ModelError
from worker.crash_recovery.in_flight_journal import delete_journal
from worker.crash_recovery.recover import recover_with_retries
from worker.settings import WorkerSettings
from worker.versions.folder_snapshot import check_models_dir
from worker.worker import Worker

log = logging.getLogger("jitney.worker")

SWITCH_INTERVAL_S = 0.0005  # how long the event loop may wait for a thread that computes in Python; 5 ms by default


def run(settings: WorkerSettings, store_settings: StoreSettings, journal: Path | None = None) -> int:
    """Run a worker until SIGTERM; returns the exit code. `journal`: the in-flight journal's path."""
    try:
        check_models_dir(settings.models_dir, settings.chosen)
    except ModelError as error:
        log.error("%s", error)  # noqa: TRY400 (the message suffices)
        return EX_CONFIG

    is_loading = False

    async def work() -> int:
        nonlocal is_loading
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        for signal_number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signal_number, stop.set)
        # No caller waits for a worker's commands, and giving up on a late claim costs a lease.
        command_timeout_s = max(store_settings.redis_timeout_s, store_settings.lease_s / 4)
        connection = RedisClient.of(store_settings, command_timeout_s)
        store = JobStore(store_settings, connection)
        if await _is_incompatible(connection):
            return EX_CONFIG
        if await run_until_stopped(wait_for_shard_check(connection, store_settings.shards), stop):
            return 0
        if journal is not None and await run_until_stopped(recover_with_retries(store, journal), stop):
            return 0
        worker = Worker(settings, store, journal)
        if await run_until_stopped(worker.begin(), stop):
            is_loading = worker.reconciler.is_busy
            return 0
        # Objects loaded so far live for ever: exclude them from garbage collection.
        gc.collect()
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        gc.freeze()
        log.info("worker %s serves %s", worker.id, ", ".join(worker.loaded_models.runners) or "nothing")
        try:
            await worker.run(stop)
        finally:
            is_loading = worker.reconciler.is_busy
        await connection.aclose()
        if journal is not None:
            delete_journal(journal)
        log.info("worker %s stopped", worker.id)
        return 0

    code = _run_on_loop(work())
    if is_loading:  # Python would wait for the loading thread
        logging.shutdown()
        os._exit(0)
    return code


async def _is_incompatible(connection: RedisClient) -> bool:
    """Return whether this queue can never be used; logs the reason."""
    if unusable_reason := await connection.unusable_reason():
        log.error("%s", unusable_reason)
        await connection.aclose()
    return bool(unusable_reason)


def _run_on_loop(work: Coroutine[Any, Any, int]) -> int:
    """Run a coroutine on an event loop; returns its exit code."""
    # uvloop halves the cost of a round trip. It is optional: it does not support every system.
    new_loop = import_module("uvloop").new_event_loop if find_spec("uvloop") else None
    try:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            return runner.run(work)
    except QueueMismatch as error:
        log.error("%s", error)  # noqa: TRY400 (the message suffices)
        return EX_CONFIG
