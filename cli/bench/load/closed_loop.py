"""Closed loop: a fixed number of callers, each of which sends its next request when the last one is answered."""

import asyncio
import itertools
import time
from collections.abc import Iterator
from typing import Final

from cli.bench.load import answer_counter
from cli.bench.load.answer_counter import AnswerCounter
from cli.bench.load.connection import Address, Connection, close_connection, ensure_connected
from cli.bench.load.submit_modes import Exchange
from cli.bench.load_levels import LoadLevel
from cli.bench.statistics import Slice
from jobs.redis_client.event_wait import wait_for_event

WARMUP_S: Final = 0.3
PAUSE_AFTER_FAILURE_S: Final = 0.1


async def measure(address: Address, exchange: Exchange, load: LoadLevel, seconds: float) -> Slice:
    """Warm up until every caller had an answer, count for `seconds`, then wait for requests in flight."""
    count, first_answers = AnswerCounter(Slice(load), exchange.jobs), _FirstAnswers(load.concurrency)
    requests = itertools.cycle(exchange.requests)
    calls = (_call(address, exchange, count, requests, first_answers) for _ in range(load.concurrency))
    callers = [asyncio.create_task(call) for call in calls]
    try:
        await asyncio.sleep(WARMUP_S)
        # Until every caller had an answer, the queue still fills and throughput is not steady.
        await wait_for_event(first_answers.all_answered, answer_counter.ANSWER_TIMEOUT_S)
        count.open()
        await asyncio.sleep(seconds)
        count.close()
        await answer_counter.wait_for_callers(callers, count)
    finally:
        await answer_counter.cancel_callers(callers)
    return count.result


class _FirstAnswers:
    """Counts the callers that had a first answer of any kind."""

    def __init__(self, callers: int) -> None:
        self._missing = callers
        self.all_answered = asyncio.Event()

    def add(self) -> None:
        self._missing -= 1
        if not self._missing:
            self.all_answered.set()


async def _call(
    address: Address, exchange: Exchange, count: AnswerCounter, requests: Iterator[bytes], first_answers: _FirstAnswers
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
                count.add_connection_error(error, time.perf_counter())
                is_result = False
            if is_first:
                first_answers.add()
                is_first = False
            if not is_result:
                await asyncio.sleep(PAUSE_AFTER_FAILURE_S)
    finally:
        await close_connection(connection)
