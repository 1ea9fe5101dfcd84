"""Open loop: requests are due at a fixed rate, whether or not the last is answered, each measured from when it was due.

So a service that stands still is felt by all who would have come meanwhile: no coordinated omission.
"""

import asyncio
import itertools
import math
import time
from collections.abc import Iterator
from typing import Final

from cli.bench.load.answer_counter import (
    AnswerCounter,
    cancel_callers,
    close_connection,
    ensure_connected,
    wait_for_callers,
)
from cli.bench.load.connection import Address, Connection
from cli.bench.load.submit_modes import Exchange
from cli.bench.load_levels import LoadLevel
from cli.bench.statistics import Slice

WARMUP_S: Final = 0.5
CONNECT_S: Final = 0.1
# A loop's timers count whole milliseconds. Who leaves early is measured from then, so it may, and late it may not.
EARLY_S: Final = 0.001
OVERDUE_S: Final = 0.01


async def measure(address: Address, exchange: Exchange, load: LoadLevel, seconds: float, connections: int) -> Slice:
    """Counts what is due in `seconds`, after a warm-up at the same rate, and lets what is in flight end."""
    gap = exchange.jobs / (load.rate or 1)
    count = AnswerCounter(Slice(load), exchange.jobs)
    first = time.perf_counter() + CONNECT_S
    count.opened_at, end = first + WARMUP_S, first + WARMUP_S + seconds
    dues = (first + number * gap for number in range(math.ceil((end - first) / gap)))
    requests = itertools.cycle(exchange.requests)
    senders = [
        asyncio.create_task(_send(address, exchange, count, requests, dues))
        for _ in range(min(connections, math.ceil((end - first) / gap)))
    ]
    try:
        await asyncio.sleep(count.opened_at - time.perf_counter())
        count.open()
        await asyncio.sleep(end - time.perf_counter())
        count.closed_at = end
        count.close()
        for due in dues:
            if due >= count.opened_at:
                count.unsent(due)
        await wait_for_callers(senders, count)
    finally:
        await cancel_callers(senders)
    return count.result


async def _send(
    address: Address, exchange: Exchange, count: AnswerCounter, requests: Iterator[bytes], dues: Iterator[float]
) -> None:
    connection: Connection | None = None
    try:
        for due in dues:  # all senders take from the same
            if due < count.opened_at < time.perf_counter():  # left over from the warm-up
                continue
            try:
                connection = await ensure_connected(address, connection)
                if (early := due - EARLY_S - time.perf_counter()) > 0:
                    await asyncio.sleep(early)
                sent = time.perf_counter()
                if due >= count.opened_at and sent - due > OVERDUE_S:
                    count.result.overdue += exchange.jobs
                done = await exchange.send(connection, next(requests))
                count.add(done, min(due, sent), due)
            except OSError as error:
                count.broke(error, due)
    finally:
        await close_connection(connection)
