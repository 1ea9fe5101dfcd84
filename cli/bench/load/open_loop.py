"""Open loop: sends requests at a fixed rate and measures each from the time it was due.

A stalled service therefore delays all later requests in the figures: no coordinated omission.
"""

import asyncio
import itertools
import math
import time
from collections.abc import Iterator
from typing import Final

from cli.bench.load import answer_counter
from cli.bench.load.answer_counter import AnswerCounter
from cli.bench.load.connection import Address, Connection, close_connection, ensure_connected
from cli.bench.load.submit_modes import Exchange
from cli.bench.load_levels import LoadLevel
from cli.bench.statistics import Slice

WARMUP_S: Final = 0.5
CONNECT_S: Final = 0.1
# Timers of the loop have a resolution of 1 ms. A request may leave early, as it is measured from then; never late.
EARLY_S: Final = 0.001
OVERDUE_S: Final = 0.01


async def measure(address: Address, exchange: Exchange, load: LoadLevel, seconds: float, connections: int) -> Slice:
    """Warm up at the same rate, count the requests due in `seconds`, then wait for those in flight."""
    interval = exchange.jobs / (load.rate or 1)
    count = AnswerCounter(Slice(load), exchange.jobs)
    first = time.perf_counter() + CONNECT_S
    count.opened_at, end = first + WARMUP_S, first + WARMUP_S + seconds
    total = math.ceil((end - first) / interval)
    dues = (first + number * interval for number in range(total))
    requests = itertools.cycle(exchange.requests)
    sends = (_send(address, exchange, count, requests, dues) for _ in range(min(connections, total)))
    senders = [asyncio.create_task(send) for send in sends]
    try:
        await asyncio.sleep(count.opened_at - time.perf_counter())
        count.open()
        await asyncio.sleep(end - time.perf_counter())
        count.closed_at = end
        count.close()
        for due in dues:
            if due >= count.opened_at:
                count.add_unsent(due)
        await answer_counter.wait_for_callers(senders, count)
    finally:
        await answer_counter.cancel_callers(senders)
    return count.result


async def _send(
    address: Address, exchange: Exchange, count: AnswerCounter, requests: Iterator[bytes], dues: Iterator[float]
) -> None:
    connection: Connection | None = None
    try:
        for due in dues:  # all senders share this iterator
            if due < count.opened_at < time.perf_counter():  # left over from the warm-up
                continue
            try:
                connection = await ensure_connected(address, connection)
                if (delay_s := due - EARLY_S - time.perf_counter()) > 0:
                    await asyncio.sleep(delay_s)
                sent = time.perf_counter()
                if due >= count.opened_at and sent - due > OVERDUE_S:
                    count.result.overdue += exchange.jobs
                done = await exchange.send(connection, next(requests))
                count.add(done, min(due, sent), due)
            except OSError as error:
                count.add_connection_error(error, due)
    finally:
        await close_connection(connection)
