"""The delivering process: threads that wait for rq, and one event loop for all attempts, until a signal says stop."""

import asyncio
import logging
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from importlib.util import find_spec

from jobs import keys
from jobs.bulk.settings import BulkSettings
from jobs.bulk.storage import open_storage
from jobs.catalogue import Catalogue
from jobs.connection import Connection
from jobs.notices import Listener
from jobs.outbox import LANES, Flight
from jobs.redis_url import Address
from jobs.settings import StoreSettings
from jobs.store import JobStore
from worker.bulk.drain import BulkDrain
from worker.bulk.stepper import Stepper
from worker.delivery.carrier import BULK, Carrier, Errand
from worker.delivery.drain import Drain
from worker.delivery.sender import Sender
from worker.delivery.settings import DeliverySettings

log = logging.getLogger("jitney.deliver")

EX_CONFIG = 78  # the supervisor does not restart what a restart can not mend


def run(settings: DeliverySettings, store_settings: StoreSettings, bulk_settings: BulkSettings) -> int:
    """Deliver until SIGTERM, and end the process."""
    new_loop = import_module("uvloop").new_event_loop if find_spec("uvloop") else None
    with asyncio.Runner(loop_factory=new_loop) as runner:
        code = runner.run(_start(settings, store_settings, bulk_settings))
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
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    store = JobStore(store_settings, connection)
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

    was_connected = False

    async def look_again() -> None:
        nonlocal was_connected
        if was_connected and own_address is None:  # the queue's server was away, or is another one: rq's is the same
            await loop.run_in_executor(thread, carrier.reopen)
        was_connected = True
        wake()

    listener = Listener(connection, [keys.OUTBOX], lambda _channel, _data: wake(), look_again)
    carrier.start({**slots, BULK: bulk_settings.bulk_steps})
    running = (*map(drain.run, LANES), bulks.run(), bulks.sweep(), listener.run())
    loops = [asyncio.create_task(one) for one in running]
    log.info("delivers webhooks, %d at a time and %d to slow endpoints", slots["fast"], slots["slow"])
    await asyncio.wait([*loops, asyncio.create_task(stop.wait())], return_when=asyncio.FIRST_COMPLETED)
    failures = [task.exception() for task in loops if task.done()]
    for task in loops:
        task.cancel()
    await asyncio.gather(*loops, return_exceptions=True)
    carrier.close()
    await stepper.aclose()
    await sender.close(settings.deliver_drain_s)
    log.info("stopped")
    for failure in failures:
        raise failure or RuntimeError("a loop of the delivery ended by itself")
