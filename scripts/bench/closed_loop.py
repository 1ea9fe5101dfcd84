"""Closed loop: so many callers, each with one request in flight, and the next as soon as the answer is there."""

import asyncio
import itertools
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, Final

import orjson

from scripts.bench.connection import Address, Answer, Connection, connect
from scripts.bench.errors import CannotMeasure
from scripts.bench.figures import STAGES, Slice

WAIT_S: Final = 10
WARM_S: Final = 0.3
# Longer than the service's own wait: it is to say 202 itself.
PATIENCE_S: Final = WAIT_S + 5.0
PAUSE_AFTER_FAILURE_S: Final = 0.1


def request(address: Address, model: str, content_type: str, body: bytes) -> bytes:
    """One whole `POST /v1/jobs` that waits for its answer."""
    head = (
        f"POST {address.prefix}/v1/jobs?model={model} HTTP/1.1\r\nHost: {address.authority}\r\n"
        f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\nPrefer: wait={WAIT_S}\r\n\r\n"
    )
    return head.encode() + body


async def measure(address: Address, requests: Sequence[bytes], concurrency: int, seconds: float) -> Slice:
    """Warms up until every caller had an answer, counts for `seconds`, and lets what is in flight end."""
    load = _Load(Slice(concurrency), itertools.cycle(requests))
    callers = [asyncio.create_task(_call(address, load)) for _ in range(concurrency)]
    try:
        await asyncio.sleep(WARM_S)
        # Before every caller had an answer, throughput is that of a queue that still fills.
        with suppress(TimeoutError):
            await asyncio.wait_for(load.all_called.wait(), PATIENCE_S)
        wall, cpu = time.perf_counter(), time.process_time()
        load.opened_at = wall
        await asyncio.sleep(seconds)
        load.closed_at = time.perf_counter()
        load.result.wall_s = load.closed_at - wall
        load.result.generator_cpu = (time.process_time() - cpu) / load.result.wall_s
        _, unanswered = await asyncio.wait(callers, timeout=PATIENCE_S)
        if unanswered:
            load.fail("no_answer", f"no answer within {PATIENCE_S:g} s", len(unanswered))
    finally:
        for caller in callers:
            caller.cancel()
        ended = await asyncio.gather(*callers, return_exceptions=True)
    for fault in ended:
        if isinstance(fault, Exception):
            raise fault
    return load.result


async def try_once(address: Address, body: bytes, name: str) -> None:
    """Sends one request outside of any measurement; raises CannotMeasure where the answer is not a result."""
    try:
        connection = await connect(address)
    except OSError as error:
        raise CannotMeasure(f"nothing answers at {address}: {error}") from error
    try:
        answer = await asyncio.wait_for(connection.ask(body), PATIENCE_S)
    except TimeoutError as error:
        raise CannotMeasure(f"{address} did not answer within {PATIENCE_S:g} s") from error
    except OSError as error:
        raise CannotMeasure(f"{address} broke the connection: {error}") from error
    finally:
        connection.close()
        await asyncio.sleep(0)
    job = _parse(answer.body)
    if answer.status != 200 or job.get("status") != "succeeded":
        raise CannotMeasure(f"the service has no result for {name}: {describe(answer.status, job)}")


def describe(status: int, job: dict[str, Any]) -> str:
    """What an answer that is no result says of itself: its code and its detail."""
    if status == 200:
        error = job.get("error") or {}
        return f"the job {job.get('status', 'is none')}: {error.get('code', '')}: {error.get('message', '')}"
    if status == 202:
        return f"202: the job was not done within {WAIT_S} s (it is {job.get('status', '?')})"
    return f"{status} {job.get('code', '')}: {job.get('detail', '')}"


class _Load:
    """What the callers of one slice share."""

    def __init__(self, result: Slice, requests: Iterator[bytes]) -> None:
        self.result = result
        self.requests = requests
        self.all_called = asyncio.Event()
        self._called = 0
        self.opened_at, self.closed_at = float("inf"), float("inf")

    def count(self, started: float, answer: Answer) -> bool:
        """Tells whether it was a result. Only those that arrive while the slice is open are counted."""
        job = _parse(answer.body)
        state = job.get("status")
        if answer.status != 200 or state != "succeeded":
            self.fail(str(answer.status) if answer.status != 200 else str(state), describe(answer.status, job))
            return False
        if self.opened_at <= answer.at < self.closed_at:
            result, timings = self.result, job["timings"]
            result.latencies_ms.append((answer.at - started) * 1000)
            result.batches += 1 / (job["batch_size"] or 1)
            for name in (*STAGES, "total"):
                result.stages_ms[name] += timings[name] or 0.0
        return True

    def called(self) -> None:
        """A caller had its first answer, of whatever kind."""
        self._called += 1
        if self._called == self.result.concurrency:
            self.all_called.set()

    def fail(self, kind: str, problem: str, count: int = 1) -> None:
        """Also counts what fails after the slice was closed: it was in flight while it was open."""
        if time.perf_counter() >= self.opened_at:
            self.result.failures[kind] += count
            self.result.first_problem = self.result.first_problem or problem


async def _call(address: Address, load: _Load) -> None:
    connection: Connection | None = None
    is_first = True
    try:
        while load.closed_at == float("inf"):
            started = time.perf_counter()
            try:
                if connection is None or not connection.is_open:
                    connection = await connect(address)
                    started = time.perf_counter()
                is_result = load.count(started, await connection.ask(next(load.requests)))
            except OSError as error:
                load.fail("connection", f"the connection broke or was refused: {error}")
                is_result = False
            if is_first:
                load.called()
                is_first = False
            if not is_result:
                await asyncio.sleep(PAUSE_AFTER_FAILURE_S)
    finally:
        if connection is not None:
            connection.close()
            await asyncio.sleep(0)


def _parse(body: bytes) -> dict[str, Any]:
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}
