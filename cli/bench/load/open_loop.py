"""Open loop: requests are due at a fixed rate, whether or not the last is answered, each measured from when it was due.

So a service that stands still is felt by all who would have come meanwhile: no coordinated omission.
"""

import asyncio
import itertools
import math
import time
from collections.abc import Iterator
from typing import Final

from cli.bench.load.answer_counter import Count, connected, dismiss, hang_up, let_end
from cli.bench.load.connection import Address, Connection
from cli.bench.load.submit_modes import Exchange
from cli.bench.load_levels import Load
from cli.bench.statistics import Slice

WARM_S: Final = 0.5
CONNECT_S: Final = 0.1
# A loop's timers count whole milliseconds. Who leaves early is measured from then, so it may, and late it may not.
EARLY_S: Final = 0.001
OVERDUE_S: Final = 0.01


async def measure(address: Address, exchange: Exchange, load: Load, seconds: float, connections: int) -> Slice:
    """Counts what is due in `seconds`, after a warm-up at the same rate, and lets what is in flight end."""
    gap = exchange.jobs / (load.rate or 1)
    count = Count(Slice(load), exchange.jobs)
    first = time.perf_counter() + CONNECT_S
    count.opened_at, end = first + WARM_S, first + WARM_S + seconds
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
        await let_end(senders, count)
    finally:
        await dismiss(senders)
    return count.result


async def _send(
    address: Address, exchange: Exchange, count: Count, requests: Iterator[bytes], dues: Iterator[float]
) -> None:
    connection: Connection | None = None
    try:
        for due in dues:  # all senders take from the same
            if due < count.opened_at < time.perf_counter():  # left over from the warm-up
                continue
            try:
                connection = await connected(address, connection)
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
        await hang_up(connection)
