"""Counts what comes back while a slice is open, and lets callers end: the same for a closed and an open loop."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any, Final

from cli.bench.load.connection import Address, Connection, connect
from cli.bench.load.submit_modes import WAIT_S, ExchangeResult
from cli.bench.statistics import STAGES, Slice

# Longer than the service's own wait: it is to say 202 itself.
PATIENCE_S: Final = WAIT_S + 5.0


class AnswerCounter:
    """What the callers of one slice share. It is open from `opened_at` until `closed_at`."""

    def __init__(self, result: Slice, jobs: int) -> None:
        self.result = result
        self.opened_at, self.closed_at = float("inf"), float("inf")
        self._jobs, self._cpu = jobs, 0.0

    def open(self) -> None:
        """Begin to count the generator's own CPU time; and answers, where the loop did not say from when on."""
        self.opened_at, self._cpu = min(self.opened_at, time.perf_counter()), time.process_time()

    def close(self) -> None:
        """Answers to what was asked while it was open may still come."""
        self.closed_at = min(self.closed_at, time.perf_counter())
        self.result.wall_s = self.closed_at - self.opened_at
        self.result.generator_cpu = (time.process_time() - self._cpu) / self.result.wall_s

    def add(self, done: ExchangeResult, started: float, place: float) -> bool:
        """Tells whether all had results. The slice counts results whose `place` it was open at, and failures since."""
        result, views = self.result, [one.view for one in done.verdicts if one.view is not None]
        if self.opened_at <= done.at < self.closed_at:
            result.in_time += len(views)
        if views and self.opened_at <= place < self.closed_at:
            result.latencies_ms.append((done.at - started) * 1000)
            for view in views:
                self._add_view(view)
        for one in done.verdicts:
            if one.view is None and place >= self.opened_at:
                kinds = result.refused if one.is_refusal else result.failures
                kinds[one.kind] += 1
                result.first_problem = result.first_problem or one.problem
        return len(views) == len(done.verdicts)

    def fail(self, kind: str, problem: str, place: float, requests: int = 1) -> None:
        """Requests to which no answer came."""
        if place >= self.opened_at:
            self.result.failures[kind] += requests * self._jobs
            self.result.first_problem = self.result.first_problem or problem

    def broke(self, error: OSError, place: float) -> None:
        self.fail("connection", f"the connection broke or was refused: {error}", place)

    def unsent(self, due: float) -> None:
        """A request was not sent at all; it had waited until the end."""
        self.result.unsent += self._jobs
        self.result.unsent_ms.append((self.closed_at - due) * 1000)

    def _add_view(self, view: dict[str, Any]) -> None:
        result, timings = self.result, view["timings"]
        result.answers += 1
        result.batches += 1 / (view["batch_size"] or 1)
        for name in (*STAGES, "total"):
            result.stages_ms[name] += timings[name] or 0.0


async def wait_for_callers(callers: Sequence["asyncio.Task[None]"], count: AnswerCounter) -> None:
    """Wait for what is in flight."""
    _, unanswered = await asyncio.wait(callers, timeout=PATIENCE_S)
    if unanswered:
        count.fail("no_answer", f"no answer within {PATIENCE_S:g} s", time.perf_counter(), len(unanswered))


async def cancel_callers(callers: Sequence["asyncio.Task[None]"]) -> None:
    """End them at once; raises what one of them ended with."""
    for caller in callers:
        caller.cancel()
    for fault in await asyncio.gather(*callers, return_exceptions=True):
        if isinstance(fault, Exception):
            raise fault


async def ensure_connected(address: Address, connection: Connection | None) -> Connection:
    """The same connection while it is open, else another; raises OSError."""
    return connection if connection is not None and connection.is_open else await connect(address)


async def close_connection(connection: Connection | None) -> None:
    """Close it, and give the loop a turn to do so."""
    if connection is not None:
        connection.close()
        await asyncio.sleep(0)
