"""How fast bulk requests are taken when nobody waits for their jobs: a burst of them, then the wait until all ended.

The burst has no more jobs than the service has just completed in a slice, so that they end in about as much time.
"""

import asyncio
import itertools
import time
from collections.abc import Iterator

from cli.bench.load.answer_counter import PATIENCE_S, cancel_callers, close_connection
from cli.bench.load.connection import Address, connect
from cli.bench.load.submit_modes import Exchange, build_poll_request, is_open, parse_json_object
from cli.bench.statistics import Slice


async def measure_accept_rate(address: Address, exchange: Exchange, result: Slice, seconds: float) -> None:
    """Adds to the slice of the same load how many jobs were taken, and in which time."""
    started = time.perf_counter()
    requests = itertools.islice(itertools.cycle(exchange.submit_only), -(-result.in_time // exchange.jobs))
    burst = _Burst(address, result, started, started + seconds)
    callers = [asyncio.create_task(burst.call(requests)) for _ in range(result.load.concurrency)]
    try:
        await asyncio.wait(callers)
    finally:
        await cancel_callers(callers)


class _Burst:
    def __init__(self, address: Address, result: Slice, started: float, until: float) -> None:
        self._address, self._result, self._started, self._until = address, result, started, until

    async def call(self, requests: Iterator[bytes]) -> None:
        """Ends early where the service takes no more, or is gone: the slice before has counted such answers."""
        connection = None
        try:
            connection = await connect(self._address)
            last_ids = []
            for request in requests:
                answer = await connection.ask(request)
                ids = [one["id"] for one in parse_json_object(answer.body).get("jobs", []) if "id" in one]
                if answer.status != 202 or not ids:
                    break
                self._result.accepted += len(ids)
                self._result.accepting_s = max(self._result.accepting_s, answer.at - self._started)
                last_ids.append(ids[-1])
                if answer.at > self._until:
                    break
            until = time.perf_counter() + PATIENCE_S + (self._until - self._started)
            for job_id in last_ids:
                while time.perf_counter() < until:
                    answer = await connection.ask(build_poll_request(self._address, job_id))
                    if not is_open(parse_json_object(answer.body)):
                        break
        except OSError:
            return
        finally:
            await close_connection(connection)
