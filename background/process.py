"""Runs the background process: rq threads; one event loop for webhooks, bulk steps and removal of expired files."""

import asyncio
import itertools
import logging
import os
import secrets
import signal
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NoReturn

from background.bulk.step_runner import BulkStepRunner
from background.dispatcher import Dispatcher
from background.rq_pool import BULK, Attempts, RqPool
from background.settings import BackgroundSettings
from background.webhooks.sender import Sender
from jobs.bulk import checkpoints, files
from jobs.bulk.open_storage import open_storage
from jobs.bulk.settings import BulkSettings
from jobs.bulk.storage import Storage
from jobs.config.settings_agreement import Process, QueueMismatch, SettingsAgreement
from jobs.config.settings_base import EX_CONFIG
from jobs.contract.errors import RetryLater, StoreUnavailable
from jobs.models.catalog import ModelCatalog
from jobs.redis_client import keys
from jobs.redis_client.client import RedisClient
from jobs.redis_client.event_wait import run_until_stopped
from jobs.redis_client.outage_log import OutageLog
from jobs.redis_client.pubsub import Subscriber
from jobs.redis_client.redis_url import RedisAddress
from jobs.redis_client.task_supervisor import TaskSupervisor
from jobs.store.background_lease import BackgroundLease
from jobs.store.job_store import JobStore
from jobs.store.settings import StoreSettings
from jobs.tenants import stored_limits
from jobs.tenants.stored_limits import StoredLimits
from jobs.webhooks import outbox
from jobs.webhooks.outbox import LANES, Lane

log = logging.getLogger("jitney.background")

AGREEMENT_POLL_S = 2.0  # between two refreshes of other processes' settings and of tenants' limits


def run(settings: BackgroundSettings, store_settings: StoreSettings, bulk: BulkSettings) -> int:
    """Run until SIGTERM, then end the process with an exit code."""
    new_loop = import_module("uvloop").new_event_loop if find_spec("uvloop") else None
    try:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            code = runner.run(_start(settings, store_settings, bulk))
    except QueueMismatch as error:
        log.error("%s", error)  # noqa: TRY400 (the message suffices)
        code = EX_CONFIG
    logging.shutdown()
    os._exit(code)  # does not wait for rq's threads or for pending DNS lookups


async def _start(settings: BackgroundSettings, store_settings: StoreSettings, bulk: BulkSettings) -> int:
    connection = RedisClient.of(store_settings)
    try:
        if unusable_reason := await connection.unusable_reason():
            log.error("%s", unusable_reason)
            return EX_CONFIG
        await _run_until_stopped(settings, bulk, JobStore(store_settings, connection))
    finally:
        await connection.aclose()
    return 0


async def _run_until_stopped(settings: BackgroundSettings, bulk: BulkSettings, store: JobStore) -> None:
    loop, connection = asyncio.get_running_loop(), store.connection
    stop = _stop_on_signal(loop)
    this_process = Process.this("background", secrets.token_hex(8), settings, store.settings, bulk)
    agreement = SettingsAgreement(connection, this_process, store.settings.shards, AGREEMENT_POLL_S)
    limits = StoredLimits(connection, store.tenants)
    if await run_until_stopped(_wait_for_shared_state(agreement, limits), stop):
        return
    sender = Sender(settings, store)
    storage, catalog = open_storage(bulk.bulk_store), ModelCatalog(connection, settings.default_model)
    step_runner = BulkStepRunner(bulk, store, storage, catalog, settings.address_policy())
    thread = ThreadPoolExecutor(1, thread_name_prefix="rq")  # rq's calls block; they run one at a time

    def in_loop(work: Callable[[BackgroundLease], Coroutine[Any, Any, None]]) -> Callable[[BackgroundLease], None]:
        return lambda lease: asyncio.run_coroutine_threadsafe(work(lease), loop).result()  # runs in an rq thread

    def wake() -> None:
        for dispatcher in dispatchers:
            dispatcher.wake()

    def on_thread_free() -> None:
        loop.call_soon_threadsafe(wake)

    own_address = settings.rq_address()
    address = own_address or RedisAddress(store.settings.redis_url, store.settings.redis_url_file)
    attempts: Attempts = {**dict.fromkeys(LANES, in_loop(sender.attempt)), BULK: in_loop(step_runner.step)}
    rq_pool = RqPool(address, settings.webhook_lease_s, attempts, on_thread_free, is_queue=own_address is None)
    dispatchers = _create_dispatchers(settings, bulk, store, rq_pool, thread)
    reconnects = itertools.count()

    async def on_connect() -> None:
        if next(reconnects) and own_address is None:  # the queue's server, which rq uses too, may be a new one
            await loop.run_in_executor(thread, rq_pool.reopen)
        limits.refresh_now()
        wake()

    def on_notification(channel: str, data: bytes) -> None:
        (limits.refresh_now if (channel, data) == (keys.INVALIDATION, stored_limits.LIMITS_CHANGED) else wake)()

    listener = Subscriber(connection, [keys.OUTBOX, keys.INVALIDATION], on_notification, on_connect)
    slots = {dispatcher.kind: dispatcher.slots for dispatcher in dispatchers}
    rq_pool.start(slots)
    sweep = _sweep_files(bulk.bulk_sweep_s, store, storage)
    work_loops = (*(dispatcher.run() for dispatcher in dispatchers), sweep, listener.run())
    refresh_loops = (agreement.run_until_mismatch(), limits.run(AGREEMENT_POLL_S), _flush_usage(store))
    log.info("delivering webhooks: %d at a time, and %d to slow endpoints", slots["fast"], slots["slow"])
    supervisor = TaskSupervisor()
    for work_loop in (*work_loops, *refresh_loops):
        supervisor.start(work_loop)
    await run_until_stopped(supervisor.wait_for_failure(), stop)
    await supervisor.cancel()
    rq_pool.close()
    await step_runner.aclose()
    await sender.close(settings.background_drain_s)
    with suppress(StoreUnavailable):
        await store.usage.tell(connection)
        await agreement.withdraw()
    log.info("stopped")
    supervisor.raise_failures()


def _create_dispatchers(
    settings: BackgroundSettings, bulk: BulkSettings, store: JobStore, rq_pool: RqPool, thread: ThreadPoolExecutor
) -> list[Dispatcher]:
    """Create one dispatcher for each kind of work. `thread` runs rq's calls, which block."""
    create = partial(Dispatcher, store.roots, rq_pool, thread)
    limits, lease_ms = settings.limits, int(bulk.bulk_step_lease_s * 1000)

    def of_lane(lane: Lane) -> Dispatcher:
        slots = settings.slots(lane)
        lease_due = partial(outbox.dispatch_due, store, lane=lane, slots=slots, limits=limits)
        return create(lane, lease_due, slots=slots, poll_s=settings.webhook_poll_s)

    steps_due = partial(checkpoints.dispatch_due_steps, store, slots=bulk.bulk_concurrency, lease_ms=lease_ms)
    steps = create(BULK, steps_due, slots=bulk.bulk_concurrency, poll_s=bulk.bulk_poll_s)
    return [*map(of_lane, LANES), steps]


def _stop_on_signal(loop: asyncio.AbstractEventLoop) -> asyncio.Event:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


async def _flush_usage(store: JobStore) -> NoReturn:
    while True:
        await asyncio.sleep(AGREEMENT_POLL_S)
        with suppress(StoreUnavailable):
            await store.usage.tell(store.connection)


async def _sweep_files(interval_s: float, store: JobStore, storage: Storage) -> NoReturn:
    outage = OutageLog(log, "remove expired files")
    while True:
        try:
            removed = await files.remove_expired(store, storage, await store.connection.now_ms())
            outage.ended()
            if removed:
                log.info("removed %d bulk files that had expired or were deleted", removed)
        except RetryLater as error:
            outage.began(error)
        except Exception:
            log.exception("cannot remove an expired file; will retry")
        await asyncio.sleep(interval_s)


async def _wait_for_shared_state(agreement: SettingsAgreement, limits: StoredLimits) -> None:
    await agreement.wait_until_known()
    await limits.wait_until_known()
