"""Measures how fast bulk requests are accepted: sends a burst without waiting for results, then waits for the jobs.

The burst has as many jobs as the service completed in the slice before, so that they take about as long.
"""

import asyncio
import itertools
import time
from collections.abc import Iterator

from cli.bench.load.answer_counter import ANSWER_TIMEOUT_S, cancel_callers
from cli.bench.load.connection import Address, close_connection, connect
from cli.bench.load.submit_modes import Exchange, build_poll_request, is_open, parse_json_object
from cli.bench.statistics import Slice


async def measure_accept_rate(address: Address, exchange: Exchange, result: Slice, seconds: float) -> None:
    """Send the burst; add the accepted jobs and their time to the slice of the same load."""
    started = time.perf_counter()
    requests = itertools.islice(itertools.cycle(exchange.submit_only), -(-result.in_time // exchange.jobs))
    calls = (_call(address, result, requests, started, seconds) for _ in range(result.load.concurrency))
    callers = [asyncio.create_task(call) for call in calls]
    try:
        await asyncio.wait(callers)
    finally:
        await cancel_callers(callers)


async def _call(address: Address, result: Slice, requests: Iterator[bytes], started: float, seconds: float) -> None:
    """Send requests; stop early if the service refuses one or is gone: the slice before counts such failures."""
    connection = None
    try:
        connection = await connect(address)
        last_ids = []
        for request in requests:
            response = await connection.request(request)
            ids = [job["id"] for job in parse_json_object(response.body).get("jobs", []) if "id" in job]
            if response.status != 202 or not ids:
                break
            result.accepted += len(ids)
            result.accepting_s = max(result.accepting_s, response.at - started)
            last_ids.append(ids[-1])
            if response.at > started + seconds:
                break
        deadline = time.perf_counter() + ANSWER_TIMEOUT_S + seconds
        for job_id in last_ids:
            while time.perf_counter() < deadline:
                response = await connection.request(build_poll_request(address, job_id))
                if not is_open(parse_json_object(response.body)):
                    break
    except OSError:
        return
    finally:
        await close_connection(connection)
