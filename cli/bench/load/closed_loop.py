"""Closed loop: so many callers, each with one request in flight, and the next as soon as the answer is there."""

import asyncio
import itertools
import time
from collections.abc import Iterator
from typing import Final

from cli.bench.load import answer_counter
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
from jobs.redis_client.event_wait import wait_for_event

WARMUP_S: Final = 0.3
PAUSE_AFTER_FAILURE_S: Final = 0.1


async def measure(address: Address, exchange: Exchange, load: LoadLevel, seconds: float) -> Slice:
    """Warms up until every caller had an answer, counts for `seconds`, and lets what is in flight end."""
    count, called = AnswerCounter(Slice(load), exchange.jobs), _FirstAnswers(load.concurrency)
    requests = itertools.cycle(exchange.requests)
    callers = [asyncio.create_task(_call(address, exchange, count, requests, called)) for _ in range(load.concurrency)]
    try:
        await asyncio.sleep(WARMUP_S)
        # Before every caller had an answer, throughput is that of a queue that still fills.
        await wait_for_event(called.by_all, answer_counter.PATIENCE_S)
        count.open()
        await asyncio.sleep(seconds)
        count.close()
        await wait_for_callers(callers, count)
    finally:
        await cancel_callers(callers)
    return count.result


class _FirstAnswers:
    """How many callers had their first answer, of whatever kind."""

    def __init__(self, callers: int) -> None:
        self._left = callers
        self.by_all = asyncio.Event()

    def once(self) -> None:
        self._left -= 1
        if not self._left:
            self.by_all.set()


async def _call(
    address: Address, exchange: Exchange, count: AnswerCounter, requests: Iterator[bytes], called: _FirstAnswers
) -> None:
    connection: Connection | None = None
    is_first = True
    try:
        while count.closed_at == float("inf"):
            try:
                connection = await ensure_connected(address, connection)
                started = time.perf_counter()
                done = await exchange.send(connection, next(requests))
                is_result = count.add(done, started, done.at)
            except OSError as error:
                count.broke(error, time.perf_counter())
                is_result = False
            if is_first:
                called.once()
                is_first = False
            if not is_result:
                await asyncio.sleep(PAUSE_AFTER_FAILURE_S)
    finally:
        await close_connection(connection)
