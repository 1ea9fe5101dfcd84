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

from background.bulk.dispatcher import BulkDrain
from background.bulk.step_runner import Stepper
from background.rq_pool import BULK, Carrier, Errand
from background.settings import DeliverySettings
from background.webhooks.dispatcher import Drain
from background.webhooks.sender import Sender
from jobs.bulk.open_storage import open_storage
from jobs.bulk.settings import BulkSettings
from jobs.config.settings_agreement import Agreement, Process, ShardsDiffer
from jobs.contract.background_lease import Flight
from jobs.contract.errors import StoreUnavailable
from jobs.models.catalog import Catalogue
from jobs.redis_client import keys
from jobs.redis_client.client import Connection
from jobs.redis_client.event_wait import end_all, is_stopped_first
from jobs.redis_client.pubsub import Listener
from jobs.redis_client.redis_url import Address
from jobs.store.job_store import JobStore
from jobs.store.settings import StoreSettings
from jobs.tenants import stored_limits
from jobs.tenants.stored_limits import TenantLimits
from jobs.webhooks.outbox import LANES

log = logging.getLogger("jitney.deliver")

EX_CONFIG = 78  # the supervisor does not restart what a restart cannot mend
COMPARE_S = 2.0  # between two looks at what other processes are set to, and at tenants' limits


def run(settings: DeliverySettings, store_settings: StoreSettings, bulk_settings: BulkSettings) -> int:
    """Deliver until SIGTERM, and end the process."""
    new_loop = import_module("uvloop").new_event_loop if find_spec("uvloop") else None
    try:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            code = runner.run(_start(settings, store_settings, bulk_settings))
    except ShardsDiffer as error:
        log.error("%s", error)  # noqa: TRY400 (the line says it all)
        code = EX_CONFIG
    logging.shutdown()
    os._exit(code)  # rq's threads, or a name's look-up without an answer, are not waited for


async def _start(settings: DeliverySettings, store_settings: StoreSettings, bulk_settings: BulkSettings) -> int:
    connection = Connection.of(store_settings)
    try:
        if misfit := await connection.misfit():
            log.error("%s", misfit)
            return EX_CONFIG
        await _deliver(settings, store_settings, bulk_settings, connection)
    finally:
        await connection.aclose()
    return 0


async def _deliver(
    settings: DeliverySettings, store_settings: StoreSettings, bulk_settings: BulkSettings, connection: Connection
) -> None:
    loop = asyncio.get_running_loop()
    stop = _stop_on_signal(loop)
    store = JobStore(store_settings, connection)
    me = Process.this("deliverer", secrets.token_hex(8), settings, store_settings, bulk_settings)
    agreement = Agreement(connection, me, store_settings.shards, COMPARE_S)
    limits = TenantLimits(connection, store.tenants)
    if await is_stopped_first(_until_known(agreement, limits), stop):
        return
    sender = Sender(settings, store)
    slots: dict[Errand, int] = {lane: settings.slots(lane) for lane in LANES}
    storage = open_storage(bulk_settings.bulk_store)
    stepper = Stepper(bulk_settings, store, storage, Catalogue(connection, settings.default_model), settings.guard())
    thread = ThreadPoolExecutor(1, thread_name_prefix="rq")  # rq blocks; its own calls go one after the other

    def carry(flight: Flight) -> None:  # in a thread of rq's
        asyncio.run_coroutine_threadsafe(sender.attempt(flight), loop).result()

    def step(flight: Flight) -> None:  # likewise
        asyncio.run_coroutine_threadsafe(stepper.step(flight), loop).result()

    def wake() -> None:
        drain.wake()
        bulks.wake()

    def landed() -> None:
        loop.call_soon_threadsafe(wake)

    own_address = settings.rq_address()
    carrier = Carrier(
        own_address or Address(store_settings.redis_url, store_settings.redis_url_file),
        settings.webhook_flight_s,
        {**dict.fromkeys(LANES, carry), BULK: step},
        landed,
        is_queue=own_address is None,
    )
    drain = Drain(store, carrier, slots, limits=settings.limits, poll_s=settings.webhook_poll_s, thread=thread)
    bulks = BulkDrain(bulk_settings, store, storage, carrier, thread)

    reconnects = itertools.count()

    async def look_again() -> None:
        if next(reconnects) and own_address is None:  # the queue's server was away, or is another one: rq's is the same
            await loop.run_in_executor(thread, carrier.reopen)
        limits.look_again()
        wake()

    def on_notice(channel: str, data: bytes) -> None:
        (limits.look_again if (channel, data) == (keys.NEWS, stored_limits.NEWS) else wake)()

    listener = Listener(connection, [keys.OUTBOX, keys.NEWS], on_notice, look_again)
    carrier.start({**slots, BULK: bulk_settings.bulk_steps})
    running = (*map(drain.run, LANES), bulks.run(), bulks.sweep(), listener.run())
    comparing = (agreement.keep_looking(), limits.run(COMPARE_S))
    log.info("delivers webhooks, %d at a time and %d to slow endpoints", slots["fast"], slots["slow"])
    failures = await _run((*running, *comparing), stop)
    carrier.close()
    await stepper.aclose()
    await sender.close(settings.deliver_drain_s)
    await _leave(agreement)
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
    await end_all(loops)
    return failures


async def _until_known(agreement: Agreement, limits: TenantLimits) -> None:
    await agreement.until_known()
    await limits.until_known()


async def _leave(agreement: Agreement) -> None:
    with suppress(StoreUnavailable):
        await agreement.withdraw()
    log.info("stopped")
