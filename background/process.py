"""The background process: rq threads, and one event loop that runs all attempts, until SIGTERM or SIGINT."""

import asyncio
import itertools
import logging
import os
import secrets
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec

from background.bulk.dispatcher import BulkDispatcher
from background.bulk.step_runner import BulkStepRunner
from background.rq_pool import BULK, RqPool, WorkKind
from background.settings import BackgroundSettings
from background.webhooks.dispatcher import Dispatcher
from background.webhooks.sender import Sender
from jobs.bulk.open_storage import open_storage
from jobs.bulk.settings import BulkSettings
from jobs.config.settings_agreement import Process, QueueMismatch, SettingsAgreement
from jobs.contract.background_lease import BackgroundLease
from jobs.contract.errors import StoreUnavailable
from jobs.models.catalog import ModelCatalog
from jobs.redis_client import keys
from jobs.redis_client.client import RedisClient
from jobs.redis_client.event_wait import run_until_stopped
from jobs.redis_client.pubsub import Subscriber
from jobs.redis_client.redis_url import RedisAddress
from jobs.redis_client.task_supervisor import TaskSupervisor
from jobs.store.job_store import JobStore
from jobs.store.settings import StoreSettings
from jobs.tenants import stored_limits
from jobs.tenants.stored_limits import StoredLimits
from jobs.webhooks.outbox import LANES

log = logging.getLogger("jitney.background")

EX_CONFIG = 78  # the supervisor does not restart a process that a restart cannot repair
AGREEMENT_POLL_S = 2.0  # between two refreshes of other processes' settings and of tenants' limits


def run(settings: BackgroundSettings, store_settings: StoreSettings, bulk_settings: BulkSettings) -> int:
    """Run until SIGTERM, then end the process with an exit code."""
    new_loop = import_module("uvloop").new_event_loop if find_spec("uvloop") else None
    try:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            code = runner.run(_start(settings, store_settings, bulk_settings))
    except QueueMismatch as error:
        log.error("%s", error)  # noqa: TRY400 (the message suffices)
        code = EX_CONFIG
    logging.shutdown()
    os._exit(code)  # does not wait for rq's threads or for pending DNS lookups


async def _start(settings: BackgroundSettings, store_settings: StoreSettings, bulk_settings: BulkSettings) -> int:
    connection = RedisClient.of(store_settings)
    try:
        if unusable_reason := await connection.unusable_reason():
            log.error("%s", unusable_reason)
            return EX_CONFIG
        await _run_until_stopped(settings, store_settings, bulk_settings, connection)
    finally:
        await connection.aclose()
    return 0


async def _run_until_stopped(
    settings: BackgroundSettings, store_settings: StoreSettings, bulk_settings: BulkSettings, connection: RedisClient
) -> None:
    loop = asyncio.get_running_loop()
    stop = _stop_on_signal(loop)
    store = JobStore(store_settings, connection)
    this_process = Process.this("deliverer", secrets.token_hex(8), settings, store_settings, bulk_settings)
    agreement = SettingsAgreement(connection, this_process, store_settings.shards, AGREEMENT_POLL_S)
    limits = StoredLimits(connection, store.tenants)
    if await run_until_stopped(_wait_for_shared_state(agreement, limits), stop):
        return
    sender = Sender(settings, store)
    slots: dict[WorkKind, int] = {lane: settings.slots(lane) for lane in LANES}
    storage = open_storage(bulk_settings.bulk_store)
    step_runner = BulkStepRunner(
        bulk_settings, store, storage, ModelCatalog(connection, settings.default_model), settings.address_policy()
    )
    thread = ThreadPoolExecutor(1, thread_name_prefix="rq")  # rq's calls block; they run one at a time

    def deliver(lease: BackgroundLease) -> None:  # runs in an rq thread
        asyncio.run_coroutine_threadsafe(sender.attempt(lease), loop).result()

    def step(lease: BackgroundLease) -> None:  # runs in an rq thread
        asyncio.run_coroutine_threadsafe(step_runner.step(lease), loop).result()

    def wake() -> None:
        dispatcher.wake()
        bulk_dispatcher.wake()

    def on_thread_free() -> None:
        loop.call_soon_threadsafe(wake)

    own_address = settings.rq_address()
    rq_pool = RqPool(
        own_address or RedisAddress(store_settings.redis_url, store_settings.redis_url_file),
        settings.webhook_lease_s,
        {**dict.fromkeys(LANES, deliver), BULK: step},
        on_thread_free,
        is_queue=own_address is None,
    )
    dispatcher = Dispatcher(
        store, rq_pool, slots, limits=settings.limits, poll_s=settings.webhook_poll_s, thread=thread
    )
    bulk_dispatcher = BulkDispatcher(bulk_settings, store, storage, rq_pool, thread)

    reconnects = itertools.count()

    async def on_connect() -> None:
        if next(reconnects) and own_address is None:  # the queue's server, which rq uses too, may be a new one
            await loop.run_in_executor(thread, rq_pool.reopen)
        limits.refresh_now()
        wake()

    def on_notification(channel: str, data: bytes) -> None:
        (limits.refresh_now if (channel, data) == (keys.INVALIDATION, stored_limits.LIMITS_CHANGED) else wake)()

    listener = Subscriber(connection, [keys.OUTBOX, keys.INVALIDATION], on_notification, on_connect)
    rq_pool.start({**slots, BULK: bulk_settings.bulk_concurrency})
    work_loops = (*map(dispatcher.run, LANES), bulk_dispatcher.run(), bulk_dispatcher.sweep(), listener.run())
    refresh_loops = (agreement.run_until_mismatch(), limits.run(AGREEMENT_POLL_S))
    log.info("delivering webhooks: %d at a time, and %d to slow endpoints", slots["fast"], slots["slow"])
    supervisor = TaskSupervisor()
    for work_loop in (*work_loops, *refresh_loops):
        supervisor.start(work_loop)
    await run_until_stopped(supervisor.wait_for_failure(), stop)
    await supervisor.cancel()
    rq_pool.close()
    await step_runner.aclose()
    await sender.close(settings.background_drain_s)
    await _withdraw(agreement)
    supervisor.raise_failures()


def _stop_on_signal(loop: asyncio.AbstractEventLoop) -> asyncio.Event:
    """Return an event that SIGTERM and SIGINT set."""
    stop = asyncio.Event()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_number, stop.set)
    return stop


async def _wait_for_shared_state(agreement: SettingsAgreement, limits: StoredLimits) -> None:
    await agreement.wait_until_known()
    await limits.wait_until_known()


async def _withdraw(agreement: SettingsAgreement) -> None:
    with suppress(StoreUnavailable):
        await agreement.withdraw()
    log.info("stopped")
