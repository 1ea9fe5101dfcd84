"""The delivering process: threads that wait for rq, and one event loop for all attempts, until a signal says stop."""

import asyncio
import itertools
import logging
import os
import secrets
import signal
from collections.abc import Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from background.bulk.dispatcher import BulkDispatcher
from background.bulk.step_runner import BulkStepRunner
from background.rq_pool import BULK, RqPool, WorkKind
from background.settings import BackgroundSettings
from background.webhooks.dispatcher import Dispatcher
from background.webhooks.sender import Sender
from jobs.bulk.open_storage import open_storage
from jobs.bulk.settings import BulkSettings
from jobs.config.settings_agreement import Process, SettingsAgreement, ShardsMismatch
from jobs.contract.background_lease import BackgroundLease
from jobs.contract.errors import StoreUnavailable
from jobs.models.catalog import ModelCatalog
from jobs.redis_client import keys
from jobs.redis_client.client import RedisClient
from jobs.redis_client.event_wait import cancel_all, run_until_stopped
from jobs.redis_client.pubsub import Subscriber
from jobs.redis_client.redis_url import RedisAddress
from jobs.store.job_store import JobStore
from jobs.store.settings import StoreSettings
from jobs.tenants import stored_limits
from jobs.tenants.stored_limits import StoredLimits
from jobs.webhooks.outbox import LANES

log = logging.getLogger("jitney.deliver")

EX_CONFIG = 78  # the supervisor does not restart what a restart cannot mend
AGREEMENT_POLL_S = 2.0  # between two looks at what other processes are set to, and at tenants' limits


def run(settings: BackgroundSettings, store_settings: StoreSettings, bulk_settings: BulkSettings) -> int:
    """Deliver until SIGTERM, and end the process."""
    new_loop = import_module("uvloop").new_event_loop if find_spec("uvloop") else None
    try:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            code = runner.run(_start(settings, store_settings, bulk_settings))
    except ShardsMismatch as error:
        log.error("%s", error)  # noqa: TRY400 (the line says it all)
        code = EX_CONFIG
    logging.shutdown()
    os._exit(code)  # rq's threads, or a name's look-up without an answer, are not waited for


async def _start(settings: BackgroundSettings, store_settings: StoreSettings, bulk_settings: BulkSettings) -> int:
    connection = RedisClient.of(store_settings)
    try:
        if unusable_reason := await connection.unusable_reason():
            log.error("%s", unusable_reason)
            return EX_CONFIG
        await _deliver(settings, store_settings, bulk_settings, connection)
    finally:
        await connection.aclose()
    return 0


async def _deliver(
    settings: BackgroundSettings, store_settings: StoreSettings, bulk_settings: BulkSettings, connection: RedisClient
) -> None:
    loop = asyncio.get_running_loop()
    stop = _stop_on_signal(loop)
    store = JobStore(store_settings, connection)
    me = Process.this("deliverer", secrets.token_hex(8), settings, store_settings, bulk_settings)
    agreement = SettingsAgreement(connection, me, store_settings.shards, AGREEMENT_POLL_S)
    limits = StoredLimits(connection, store.tenants)
    if await run_until_stopped(_wait_until_known(agreement, limits), stop):
        return
    sender = Sender(settings, store)
    slots: dict[WorkKind, int] = {lane: settings.slots(lane) for lane in LANES}
    storage = open_storage(bulk_settings.bulk_store)
    step_runner = BulkStepRunner(
        bulk_settings, store, storage, ModelCatalog(connection, settings.default_model), settings.address_policy()
    )
    thread = ThreadPoolExecutor(1, thread_name_prefix="rq")  # rq blocks; its own calls go one after the other

    def deliver(lease: BackgroundLease) -> None:  # in a thread of rq's
        asyncio.run_coroutine_threadsafe(sender.attempt(lease), loop).result()

    def step(lease: BackgroundLease) -> None:  # likewise
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

    async def refresh_now() -> None:
        if next(reconnects) and own_address is None:  # the queue's server was away, or is another one: rq's is the same
            await loop.run_in_executor(thread, rq_pool.reopen)
        limits.refresh_now()
        wake()

    def on_notification(channel: str, data: bytes) -> None:
        (limits.refresh_now if (channel, data) == (keys.INVALIDATION, stored_limits.LIMITS_CHANGED) else wake)()

    listener = Subscriber(connection, [keys.OUTBOX, keys.INVALIDATION], on_notification, refresh_now)
    rq_pool.start({**slots, BULK: bulk_settings.bulk_concurrency})
    running = (*map(dispatcher.run, LANES), bulk_dispatcher.run(), bulk_dispatcher.sweep(), listener.run())
    comparing = (agreement.run_until_mismatch(), limits.run(AGREEMENT_POLL_S))
    log.info("delivers webhooks, %d at a time and %d to slow endpoints", slots["fast"], slots["slow"])
    failures = await _run((*running, *comparing), stop)
    rq_pool.close()
    await step_runner.aclose()
    await sender.close(settings.background_drain_s)
    await _withdraw(agreement)
    for failure in failures:
        raise failure or RuntimeError("a loop of the delivery ended by itself")


def _stop_on_signal(loop: asyncio.AbstractEventLoop) -> asyncio.Event:
    """Give an event that is set with the first signal to stop."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


async def _run(running: Iterable[Coroutine[Any, Any, None]], stop: asyncio.Event) -> list[BaseException | None]:
    """Run loops until `stop` is set, or one has ended; gives what ended it."""
    loops = [asyncio.create_task(one) for one in running]
    await asyncio.wait([*loops, asyncio.create_task(stop.wait())], return_when=asyncio.FIRST_COMPLETED)
    failures = [task.exception() for task in loops if task.done()]
    await cancel_all(loops)
    return failures


async def _wait_until_known(agreement: SettingsAgreement, limits: StoredLimits) -> None:
    await agreement.wait_until_known()
    await limits.wait_until_known()


async def _withdraw(agreement: SettingsAgreement) -> None:
    with suppress(StoreUnavailable):
        await agreement.withdraw()
    log.info("stopped")
