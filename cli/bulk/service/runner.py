"""Runs the lines of a bulk run through a service: chunks of jobs, several requests at a time.

The Idempotency-Key of a chunk consists of its run and first line, so that a resend, even by the next process
after a kill, creates no job twice.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final

from cli.bulk.inputs.items import Item
from cli.bulk.results.rows import ResultRow
from cli.bulk.service import chunks
from cli.bulk.service.chunks import EntryOutcome, JobEncoder, classify_entry, encode_chunk, split_chunks
from cli.bulk.service.client import CONNECTION_ERRORS, WAIT_S, HttpResponse, ServiceClient, check_authorized
from cli.bulk.service.in_flight_window import InFlightWindow
from jobs.redis_client.task_supervisor import TaskSupervisor

MAX_CONCURRENT_CHUNKS: Final = 24  # in flight, or done and waiting for an earlier one
MAX_ATTEMPTS: Final = 5  # after faults of the service, and for keys whose job is unusable
MAX_PAUSE_S: Final = 10.0

Pending = asyncio.Queue[asyncio.Task[list[ResultRow]] | None]  # of the rows of each chunk; None ends it


class ServiceRunner:
    """Runs the lines of one run. `on_problem` receives what delays the run, and "" when it continues."""

    def __init__(
        self, client: ServiceClient, encoder: JobEncoder, key: str, window: InFlightWindow, chunk_lines: int
    ) -> None:
        """`key`: the key of the run; the same key requires the same `chunk_lines`."""
        self._client, self._encoder, self._key, self._window = client, encoder, key, window
        self._chunk_lines = chunk_lines
        self._path = f"/v1/jobs?model={encoder.model}&lane=bulk"
        self.problem, self._tasks = "", TaskSupervisor()
        self.on_problem: Callable[[str], None] = lambda _: None

    async def run(self, items: Iterator[Item]) -> AsyncIterator[list[ResultRow]]:
        """Yield the rows of all lines, chunk by chunk, in order. Raises CannotRun."""
        pending: Pending = asyncio.Queue()
        slots = asyncio.Semaphore(MAX_CONCURRENT_CHUNKS)
        submitter = self._tasks.run(self._submit_all(split_chunks(items, self._chunk_lines), pending, slots))
        submitter.add_done_callback(lambda _: pending.put_nowait(None))
        try:
            while (chunk := await pending.get()) is not None:
                yield await chunk
                slots.release()
            await submitter
        finally:
            await self._tasks.finish_work()

    async def _submit_all(self, split: Iterator[list[Item]], pending: Pending, slots: asyncio.Semaphore) -> None:
        while (chunk := await asyncio.to_thread(next, split, None)) is not None:
            await slots.acquire()
            await self._window.enter(len(chunk))
            pending.put_nowait(self._tasks.run(self._submit_chunk(chunk)))

    async def _submit_chunk(self, chunk: list[Item]) -> list[ResultRow]:
        try:
            lines, rows = await asyncio.to_thread(encode_chunk, self._encoder, chunk)
            rows |= await self._settle(chunk, lines)
        finally:
            self._window.leave(len(chunk))
        return [rows[position] for position in range(len(chunk))]

    async def _settle(self, chunk: Sequence[Item], lines: Mapping[int, bytes]) -> dict[int, ResultRow]:
        """Return the row of every line. Sends a chunk that is too large as two, each under its own first line's key."""
        rows: dict[int, ResultRow] = {}
        unsettled, unusable = dict(lines), dict[int, bytes]()
        base = key = f"{self._key}.{chunk[0].line}"
        faults = resubmits = 0
        while unsettled or unusable:
            if not unsettled:  # the jobs of this key are unusable: resubmit their lines under another
                resubmits += 1
                unsettled, unusable, key = unusable, {}, f"{base}.{resubmits}"
            sent = dict(islice(unsettled.items(), self._window.request_size))
            response = await self._post(key, [sent.get(position, chunks.SETTLED) for position in range(len(chunk))])
            entries = response.body.get("jobs")
            if not isinstance(entries, list) or len(entries) != len(chunk):
                if response.status == 413 and len(chunk) > 1:
                    return rows | await self._settle_halves(chunk, unsettled | unusable)
                entries = [{"error": _problem_entry(response)}] * len(chunk)
            outcomes = {position: await self._wait_final(chunk[position], entries[position]) for position in sent}
            faults += any(outcome.is_fault for outcome in outcomes.values())
            for position, outcome in outcomes.items():
                if outcome.resubmit and resubmits < MAX_ATTEMPTS:
                    unusable[position] = unsettled.pop(position)
                elif outcome.row is not None and not (outcome.is_fault and faults < MAX_ATTEMPTS):
                    rows[position] = outcome.row
                    del unsettled[position]
            self._adapt(outcomes, response)
        return rows

    async def _settle_halves(self, chunk: Sequence[Item], lines: Mapping[int, bytes]) -> dict[int, ResultRow]:
        middle = len(chunk) // 2
        first = await self._settle(chunk[:middle], {at: line for at, line in lines.items() if at < middle})
        second = await self._settle(chunk[middle:], {at - middle: line for at, line in lines.items() if at >= middle})
        return first | {at + middle: row for at, row in second.items()}

    def _adapt(self, outcomes: Mapping[int, EntryOutcome], response: HttpResponse) -> None:
        """Grow the window, or shrink it and pause all requests."""
        pauses = [outcome.retry_later_s for outcome in outcomes.values() if outcome.retry_later_s is not None]
        pauses += [1.0] * any(outcome.is_fault for outcome in outcomes.values())
        if not pauses:
            self._window.on_accepted(len(outcomes))
            self._report("")
            return
        is_retryable = response.status in chunks.RETRYABLE_STATUSES
        pause_s = max([response.retry_after_s or 0.0, *pauses]) if is_retryable else max(pauses)
        self._window.on_refused(pause_s)
        is_problem = is_retryable or response.status == chunks.FAULT
        reason = response.message if is_problem else "the service accepts no more jobs at present"
        self._report(f"{reason}; retrying in {pause_s:g} s, with at most {self._window.request_size} in flight")

    async def _wait_final(self, item: Item, entry: Mapping[str, Any]) -> EntryOutcome:
        """Classify an entry; poll its job while it is open."""
        outcome = classify_entry(item, entry)
        while outcome.open_job_id:
            response = await self._request("GET", f"/v1/jobs/{outcome.open_job_id}?wait={WAIT_S}")
            body = response.body if response.status == 200 else {"error": _problem_entry(response)}
            outcome = classify_entry(item, body)
            if outcome.retry_later_s is not None or outcome.is_fault:
                self._window.on_refused(outcome.retry_later_s or 1.0)
                outcome = EntryOutcome(open_job_id=str(entry["id"]))
        return outcome

    async def _post(self, key: str, lines: Sequence[bytes]) -> HttpResponse:
        headers = {"Content-Type": "application/x-ndjson", "Idempotency-Key": key, "Prefer": f"wait={WAIT_S}"}
        return await self._request("POST", self._path, b"\n".join(lines), headers)

    async def _request(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> HttpResponse:
        """Send a request, again until the service answers. Raises CannotRun if it denies access."""
        pause_s = 0.25
        while True:
            await self._window.wait_until_allowed()
            try:
                response = await self._client.request(method, path, body, headers)
            except CONNECTION_ERRORS as error:
                self._report(f"cannot reach {self._client.url}: {error or type(error).__name__}; retrying")
                pause_s = min(2 * pause_s, MAX_PAUSE_S)
                await asyncio.sleep(pause_s)
                continue
            check_authorized(response)
            return response

    def _report(self, problem: str) -> None:
        if problem != self.problem:
            self.problem = problem
            self.on_problem(problem)


def _problem_entry(response: HttpResponse) -> dict[str, Any]:
    """Return a problem response in the form of an entry's error."""
    return {
        "code": response.body.get("code") or "internal_error",
        "message": response.message,
        "status": response.status,
        "retry_after_s": response.retry_after_s,
    }
