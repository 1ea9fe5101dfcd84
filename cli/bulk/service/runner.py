"""Runs lines through a service: many in one request, several requests at a time, waited for in the same request.

Each chunk has an Idempotency-Key of its run and first line, so that sending it again, from here or by the next process
after a kill, makes no job twice.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final

from cli.bulk.inputs.items import Item
from cli.bulk.results.rows import ResultRow
from cli.bulk.service.chunks import (
    FAULT,
    RETRYABLE_STATUSES,
    SETTLED,
    EntryOutcome,
    JobEncoder,
    classify_entry,
    encode_chunk,
    split_chunks,
)
from cli.bulk.service.client import CONNECTION_ERRORS, WAIT_S, HttpResponse, ServiceClient, check_authorized
from cli.bulk.service.in_flight_window import InFlightWindow

MAX_CONCURRENT_CHUNKS: Final = 24  # held at a time: in flight, or behind one that is not done
MAX_ATTEMPTS: Final = 5  # with faults of the service, and with keys whose job is of no use
MAX_PAUSE_S: Final = 10.0


class ServiceRunner:
    """A model of a service, for one run. `on_problem` hears of what holds the run up, and "" when it goes on."""

    def __init__(
        self, client: ServiceClient, wording: JobEncoder, key: str, window: InFlightWindow, chunk_lines: int
    ) -> None:
        """`key`: of the run; the same key must come with the same `chunk_lines`."""
        self._client, self._wording, self._key, self._window = client, wording, key, window
        self._chunk_lines = chunk_lines
        self._path = f"/v1/jobs?model={wording.model}&lane=bulk"
        self.trouble = ""
        self.on_problem: Callable[[str], None] = lambda _: None

    async def run(self, items: Iterator[Item]) -> AsyncIterator[list[ResultRow]]:
        """Give the rows of all lines, chunk by chunk, in order; raises CannotRun."""
        ahead: asyncio.Queue[asyncio.Task[list[ResultRow]] | None] = asyncio.Queue()
        held = asyncio.Semaphore(MAX_CONCURRENT_CHUNKS)
        tasks: set[asyncio.Task[Any]] = set()
        filling = asyncio.create_task(self._fill(split_chunks(items, self._chunk_lines), ahead, held, tasks))
        filling.add_done_callback(lambda _: ahead.put_nowait(None))
        try:
            while (chunk := await ahead.get()) is not None:
                yield await chunk
                held.release()
            await filling
        finally:
            for task in (filling, *tasks):
                task.cancel()
            await asyncio.gather(filling, *tasks, return_exceptions=True)

    async def _fill(
        self,
        chunks: Iterator[list[Item]],
        ahead: "asyncio.Queue[asyncio.Task[list[ResultRow]] | None]",
        held: asyncio.Semaphore,
        tasks: set[asyncio.Task[Any]],
    ) -> None:
        while (chunk := await asyncio.to_thread(next, chunks, None)) is not None:
            await held.acquire()
            await self._window.enter(len(chunk))
            task = asyncio.create_task(self._submit_chunk(chunk))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            ahead.put_nowait(task)

    async def _submit_chunk(self, chunk: list[Item]) -> list[ResultRow]:
        try:
            lines, rows = await asyncio.to_thread(encode_chunk, self._wording, chunk)
            rows |= await self._settle(chunk, lines)
        finally:
            self._window.leave(len(chunk))
        return [rows[place] for place in range(len(chunk))]

    async def _settle(self, chunk: Sequence[Item], lines: Mapping[int, bytes]) -> dict[int, ResultRow]:
        """Have every line end. A body that is too large goes as two, each under the key of its own first line."""
        rows: dict[int, ResultRow] = {}
        left, lost = dict(lines), dict[int, bytes]()
        base = key = f"{self._key}.{chunk[0].line}"
        faults = anew = 0
        while left or lost:
            if not left:  # their key's jobs are of no use: once more, under another
                anew += 1
                left, lost, key = lost, {}, f"{base}.{anew}"
            asked = dict(islice(left.items(), self._window.share))
            answer = await self._post(key, [asked.get(place, SETTLED) for place in range(len(chunk))])
            entries = answer.body.get("jobs")
            if not isinstance(entries, list) or len(entries) != len(chunk):
                if answer.status == 413 and len(chunk) > 1:
                    return rows | await self._halve(chunk, left | lost)
                entries = [{"error": _problem_entry(answer)}] * len(chunk)
            verdicts = {place: await self._final(chunk[place], entries[place]) for place in asked}
            faults += any(verdict.fault for verdict in verdicts.values())
            for place, verdict in verdicts.items():
                if verdict.anew and anew < MAX_ATTEMPTS:
                    lost[place] = left.pop(place)
                elif verdict.row is not None and not (verdict.fault and faults < MAX_ATTEMPTS):
                    rows[place] = verdict.row
                    del left[place]
            self._adapt(verdicts, answer)
        return rows

    async def _halve(self, chunk: Sequence[Item], left: Mapping[int, bytes]) -> dict[int, ResultRow]:
        middle = len(chunk) // 2
        first = await self._settle(chunk[:middle], {place: line for place, line in left.items() if place < middle})
        rest = {place - middle: line for place, line in left.items() if place >= middle}
        return first | {place + middle: row for place, row in (await self._settle(chunk[middle:], rest)).items()}

    def _adapt(self, verdicts: Mapping[int, EntryOutcome], answer: HttpResponse) -> None:
        pauses = [verdict.retry_later_s for verdict in verdicts.values() if verdict.retry_later_s is not None]
        pauses += [1.0] * any(verdict.fault for verdict in verdicts.values())
        if not pauses:
            self._window.taken(len(verdicts))
            self._say("")
            return
        pause_s = max([answer.retry_after_s or 0.0, *pauses]) if answer.status in RETRYABLE_STATUSES else max(pauses)
        self._window.refused(pause_s)
        why = (
            answer.words
            if answer.status in RETRYABLE_STATUSES or answer.status == FAULT
            else "the service takes no more at present"
        )
        self._say(f"{why}; again in {pause_s:g} s, with {self._window.share} in flight at most")

    async def _final(self, item: Item, entry: Mapping[str, Any]) -> EntryOutcome:
        """Judge an entry; a job that is not final yet is waited for by itself."""
        verdict = classify_entry(item, entry)
        while verdict.open_job_id:
            answer = await self._ask("GET", f"/v1/jobs/{verdict.open_job_id}?wait={WAIT_S}")
            verdict = classify_entry(item, answer.body if answer.status == 200 else {"error": _problem_entry(answer)})
            if verdict.retry_later_s is not None or verdict.fault:
                self._window.refused(verdict.retry_later_s or 1.0)
                verdict = EntryOutcome(open_job_id=str(entry["id"]))
        return verdict

    async def _post(self, key: str, lines: Sequence[bytes]) -> HttpResponse:
        headers = {"Content-Type": "application/x-ndjson", "Idempotency-Key": key, "Prefer": f"wait={WAIT_S}"}
        return await self._ask("POST", self._path, b"\n".join(lines), headers)

    async def _ask(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> HttpResponse:
        """Ask until there is an answer: a service that is away for a while costs a while. Raises CannotRun."""
        pause_s = 0.25
        while True:
            await self._window.wait_until_allowed()
            try:
                answer = await self._client.ask(method, path, body, headers)
            except CONNECTION_ERRORS as error:
                self._say(f"{self._client.url} does not answer ({error or type(error).__name__}); trying again")
                pause_s = min(2 * pause_s, MAX_PAUSE_S)
                await asyncio.sleep(pause_s)
                continue
            check_authorized(answer)
            return answer

    def _say(self, trouble: str) -> None:
        if trouble != self.trouble:
            self.trouble = trouble
            self.on_problem(trouble)


def _problem_entry(answer: HttpResponse) -> dict[str, Any]:
    """Give a problem as an entry has it."""
    code = answer.body.get("code") or "internal_error"
    return {"code": code, "message": answer.words, "status": answer.status, "retry_after_s": answer.retry_after_s}
