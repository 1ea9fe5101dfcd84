"""Counts the results of a slice; waits for its callers or cancels them."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any, Final

from cli.bench.load.submit_modes import WAIT_S, ExchangeResult
from cli.bench.statistics import STAGES, Slice

# Longer than the wait of the service, so that the service can answer 202.
ANSWER_TIMEOUT_S: Final = WAIT_S + 5.0


class AnswerCounter:
    """The counters that the callers of a slice share. The slice is open from `opened_at` until `closed_at`."""

    def __init__(self, result: Slice, jobs: int) -> None:
        self.result = result
        self.opened_at, self.closed_at = float("inf"), float("inf")
        self._jobs, self._cpu = jobs, 0.0

    def open(self) -> None:
        """Start counting: CPU time of the generator, and answers unless `opened_at` is already set."""
        self.opened_at, self._cpu = min(self.opened_at, time.perf_counter()), time.process_time()

    def close(self) -> None:
        """End the measured time; responses to earlier requests may still arrive."""
        self.closed_at = min(self.closed_at, time.perf_counter())
        self.result.wall_s = self.closed_at - self.opened_at
        self.result.generator_cpu = (time.process_time() - self._cpu) / self.result.wall_s

    def add(self, done: ExchangeResult, started: float, counted_at: float) -> bool:
        """Count an exchange; return whether all its jobs had results.

        `counted_at`: the time that decides whether the results belong to the slice. Failures count from then on too.
        """
        result, views = self.result, [outcome.view for outcome in done.outcomes if outcome.view is not None]
        if self.opened_at <= done.at < self.closed_at:
            result.in_time += len(views)
        if views and self.opened_at <= counted_at < self.closed_at:
            result.latencies_ms.append((done.at - started) * 1000)
            for view in views:
                self._add_view(view)
        for outcome in done.outcomes:
            if outcome.view is None and counted_at >= self.opened_at:
                kinds = result.refused if outcome.is_refusal else result.failures
                kinds[outcome.kind] += 1
                result.first_problem = result.first_problem or outcome.problem
        return len(views) == len(done.outcomes)

    def add_failure(self, kind: str, problem: str, counted_at: float, requests: int = 1) -> None:
        """Count requests without a response."""
        if counted_at >= self.opened_at:
            self.result.failures[kind] += requests * self._jobs
            self.result.first_problem = self.result.first_problem or problem

    def add_connection_error(self, error: OSError, counted_at: float) -> None:
        self.add_failure("connection", f"the connection broke or was refused: {error}", counted_at)

    def add_unsent(self, due: float) -> None:
        """Count a request that was due but not sent before the end."""
        self.result.unsent += self._jobs
        self.result.unsent_ms.append((self.closed_at - due) * 1000)

    def _add_view(self, view: dict[str, Any]) -> None:
        result, timings = self.result, view["timings"]
        result.answers += 1
        result.batches += 1 / (view["batch_size"] or 1)
        for name in (*STAGES, "total"):
            result.stages_ms[name] += timings[name] or 0.0


async def wait_for_callers(callers: Sequence["asyncio.Task[None]"], count: AnswerCounter) -> None:
    """Wait until all callers have ended, at most the answer timeout."""
    _, unanswered = await asyncio.wait(callers, timeout=ANSWER_TIMEOUT_S)
    if unanswered:
        count.add_failure("no_answer", f"no answer within {ANSWER_TIMEOUT_S:g} s", time.perf_counter(), len(unanswered))


async def cancel_callers(callers: Sequence["asyncio.Task[None]"]) -> None:
    """Cancel all callers at once; raise the first error of one."""
    for caller in callers:
        caller.cancel()
    for error in await asyncio.gather(*callers, return_exceptions=True):
        if isinstance(error, Exception):
            raise error
