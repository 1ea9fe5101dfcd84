"""The delivering process: threads that wait for rq, and one event loop for all attempts, until a signal says stop."""

import asyncio
import logging
import os
import signal
from importlib import import_module
from importlib.util import find_spec

from jobs import keys
from jobs.connection import Connection
from jobs.notices import Listener
from jobs.outbox import LANES, Flight
from jobs.settings import StoreSettings
from jobs.store import JobStore
from worker.delivery.carrier import Carrier
from worker.delivery.drain import Drain
from worker.delivery.sender import Sender
from worker.delivery.settings import DeliverySettings

log = logging.getLogger("jitney.deliver")


def run(settings: DeliverySettings, store_settings: StoreSettings) -> int:
    """Deliver until SIGTERM, and end the process."""
    new_loop = import_module("uvloop").new_event_loop if find_spec("uvloop") else None
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(_deliver(settings, store_settings))
    logging.shutdown()
    os._exit(0)  # rq's threads, or a name's look-up without an answer, are not waited for


async def _deliver(settings: DeliverySettings, store_settings: StoreSettings) -> None:
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    connection = Connection(store_settings.redis_url, store_settings.redis_timeout_s)
    store = JobStore(store_settings, connection)
    sender = Sender(settings, store)
    slots = {lane: settings.slots(lane) for lane in LANES}

    def carry(flight: Flight) -> None:  # in a thread of rq's
        asyncio.run_coroutine_threadsafe(sender.attempt(flight), loop).result()

    def landed() -> None:
        loop.call_soon_threadsafe(drain.wake)

    rq_url = settings.rq_redis_url or store_settings.redis_url
    carrier = Carrier(rq_url, settings.webhook_flight_s, carry, landed)
    drain = Drain(store, carrier, slots, settings.limits, settings.webhook_poll_s)

    async def look_again() -> None:
        drain.wake()

    listener = Listener(connection, [keys.OUTBOX], lambda _channel, _data: drain.wake(), look_again)
    carrier.start(slots)
    loops = [asyncio.create_task(one) for one in (*map(drain.run, LANES), listener.run())]
    log.info("delivers webhooks, %d at a time and %d to slow endpoints", slots["fast"], slots["slow"])
    await asyncio.wait([*loops, asyncio.create_task(stop.wait())], return_when=asyncio.FIRST_COMPLETED)
    failures = [task.exception() for task in loops if task.done()]
    for task in loops:
        task.cancel()
    await asyncio.gather(*loops, return_exceptions=True)
    carrier.close()
    await sender.close(settings.deliver_drain_s)
    await connection.aclose()
    log.info("stopped")
    for failure in failures:
        raise failure or RuntimeError("a loop of the delivery ended by itself")
