"""Submits many inputs in chunks, and collects the results of as many jobs as may be in flight."""

from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable, Sequence
from time import monotonic
from typing import Any, Final

from jitney_client.errors import ApiError, ConnectionFailed, entry_error
from jitney_client.http_api import EARLY_S, Fields, HttpApi, backoff_s, new_key
from jitney_client.inputs import Input
from jitney_client.progress import Bar
from jitney_client.views import JobView, MapResult

MAX_CHUNK_JOBS: Final = 100
MAX_CHUNK_BYTES: Final = 4 << 20
MAX_CHUNK_AGE_S: Final = 0.2  # a chunk of an iterable that is slower than this is sent as it is
POLL_S: Final = 1  # of a query that waits until a part of its jobs are final
HELD_FACTOR: Final = 4  # results that wait for an earlier one, as a multiple of the jobs in flight

Encoder = Callable[[Input], bytes]


class Chunk:
    """Jobs that are sent in one request, again with the same Idempotency-Key until each is accepted or refused."""

    def __init__(self, indexes: Sequence[int], lines: Sequence[bytes]) -> None:
        self.indexes, self.lines, self.key = indexes, lines, new_key()
        self._unsent = {*range(len(lines))}

    @property
    def is_done(self) -> bool:
        return not self._unsent

    async def send(self, api: HttpApi) -> tuple[list[tuple[int, Fields | ApiError]], ApiError | None]:
        """Send the jobs once. Return for each index that is done its job or error, and an error that is temporary.

        Raises an error of the whole request.
        """
        done: list[tuple[int, Fields | ApiError]] = []
        temporary: ApiError | None = None
        for place, entry in enumerate(await api.submit_lines(self.lines, self.key)):
            if place not in self._unsent:
                continue
            error = None if "id" in entry else entry_error(entry["error"])
            if error is not None and error.is_temporary:
                temporary = error
                continue
            self._unsent.remove(place)
            done.append((self.indexes[place], error or entry))
        return done, temporary

    def split(self) -> "list[Chunk]":
        """Return the halves of a chunk that was too large and of which nothing was accepted."""
        half = len(self.lines) // 2
        return [Chunk(self.indexes[part], self.lines[part]) for part in (slice(half), slice(half, None))]


class Sender:
    """Sends chunks, one after the other; after a temporary refusal, not before the time that the service asks for.

    Raises that refusal once `retry_s` seconds have passed without progress and nothing is in flight.
    """

    def __init__(self, api: HttpApi) -> None:
        self.chunks: deque[Chunk] = deque()
        self.retry_at, self._api = 0.0, api
        self._refusals, self._refused_since = 0, 0.0
        self.max_jobs = MAX_CHUNK_JOBS  # of a chunk; less once the service has named its limit

    async def send_next(self, *, in_flight: int) -> list[tuple[int, Fields | ApiError]]:
        """Send the first chunk; return for each index that is done its job or error."""
        chunk = self.chunks[0]
        done: list[tuple[int, Fields | ApiError]] = []
        temporary: ApiError | ConnectionFailed | None
        try:
            done, temporary = await chunk.send(self._api)
        except ApiError as error:
            if error.status == 413 and len(chunk.lines) > 1:
                if error.code == "too_many_jobs":
                    self.max_jobs = max(1, int(error.details.get("limit", self.max_jobs)))
                self.chunks.popleft()
                self.chunks.extendleft(reversed(chunk.split()))
                return []
            if not error.is_temporary:
                if error.status in (401, 403) or len(chunk.lines) > 1:
                    raise
                self.chunks.popleft()
                return [(chunk.indexes[0], error)]
            temporary = error
        except ConnectionFailed as error:
            temporary = error
        if chunk.is_done:
            self.chunks.popleft()
        if done or temporary is None:
            self._refusals = 0
        if temporary is not None:
            self._refuse(temporary, in_flight + len(done))
        return done

    def progress(self) -> None:
        """Note that jobs in flight have ended, so that there is room for others now."""
        self._refusals, self.retry_at = 0, 0.0

    def _refuse(self, error: ApiError | ConnectionFailed, in_flight: int) -> None:
        now = monotonic()
        if not self._refusals:
            self._refused_since = now
        self._refusals += 1
        if not in_flight and now - self._refused_since > self._api.retry_s:
            raise error
        self.retry_at = now + backoff_s(error, self._refusals)


async def submit_many(
    api: HttpApi, inputs: Iterable[Input] | AsyncIterable[Input], encode: Encoder
) -> list[Fields | Exception]:
    """Submit all inputs; return for each its job, or why it was refused."""
    results: dict[int, Fields | Exception] = {}
    sender, source = Sender(api), _Source(inputs, encode)
    while sender.chunks or not source.is_exhausted:
        if not sender.chunks:
            chunk, wrong = await source.next_chunk(sender.max_jobs)
            results |= wrong
            if chunk is None:
                continue
            sender.chunks.append(chunk)
        await api.transport.sleep(max(0.0, sender.retry_at - monotonic()))
        results |= await sender.send_next(in_flight=0)
    return [results[index] for index in range(source.taken)]


class _Source:
    """The inputs that have not been submitted, encoded one after the other."""

    def __init__(self, inputs: Iterable[Input] | AsyncIterable[Input], encode: Encoder) -> None:
        self._inputs, self._encode = iterate_inputs(inputs), encode
        self._left_over: tuple[int, bytes] | None = None  # it did not fit into the chunk before
        self.taken, self.is_exhausted = 0, False

    async def next_chunk(self, max_jobs: int) -> tuple[Chunk | None, list[tuple[int, Exception]]]:
        """Return the next inputs as a chunk, None if there is none, and the errors of inputs that cannot be encoded."""
        jobs: list[tuple[int, bytes]] = []
        wrong: list[tuple[int, Exception]] = []
        size_bytes, began = 0, monotonic()
        while len(jobs) < max_jobs and monotonic() - began < MAX_CHUNK_AGE_S:
            job, self._left_over = self._left_over, None
            if job is None:
                try:
                    job_input = await anext(self._inputs)
                except StopAsyncIteration:
                    self.is_exhausted = True
                    break
                self.taken += 1
                try:
                    job = self.taken - 1, self._encode(job_input)
                except (OSError, TypeError, ValueError) as error:
                    wrong.append((self.taken - 1, error))
                    continue
            size_bytes += len(job[1])
            if jobs and size_bytes > MAX_CHUNK_BYTES:
                self._left_over = job
                break
            jobs.append(job)
        return (Chunk([index for index, _ in jobs], [line for _, line in jobs]) if jobs else None), wrong


class MapRun:
    """One call of `map`: at most `concurrency` jobs are in flight."""

    def __init__(
        self, api: HttpApi, inputs: Iterable[Input] | AsyncIterable[Input], encode: Encoder, concurrency: int
    ) -> None:
        if concurrency < 1:
            raise ValueError("concurrency must be 1 or more")
        self._api, self._concurrency = api, concurrency
        self._source, self._sender = _Source(inputs, encode), Sender(api)
        self._chunk_jobs = max(1, min(MAX_CHUNK_JOBS, concurrency // 4))
        self._in_flight: dict[str, int] = {}  # job id → index
        self._held = 0  # results that wait for an earlier one

    async def in_order(self) -> AsyncGenerator[MapResult]:
        """Yield the results in the order of the inputs."""
        held: dict[int, MapResult] = {}
        following = 0
        async for result in self.results():
            held[result.index] = result
            while following in held:
                yield held.pop(following)
                following += 1
            self._held = len(held)

    async def results(self) -> AsyncGenerator[MapResult]:
        """Yield the results as they come."""
        while True:
            found = await self._submit()
            if self._in_flight:
                found += await self._collect()
            elif self._sender.chunks:
                await self._api.transport.sleep(max(0.0, self._sender.retry_at - monotonic()))
            elif self._source.is_exhausted and not found:
                return
            for result in found:
                yield result

    async def _submit(self) -> list[MapResult]:
        """Send chunks while there is room; return the results of inputs that are refused."""
        results: list[MapResult] = []
        while monotonic() >= self._sender.retry_at and len(results) < self._concurrency:
            if not self._sender.chunks:
                if self._source.is_exhausted or self._room() < self._chunk_jobs:
                    break
                chunk, wrong = await self._source.next_chunk(min(self._chunk_jobs, self._sender.max_jobs))
                results += [MapResult(index, None, error, None) for index, error in wrong]
                if chunk is None:
                    continue
                self._sender.chunks.append(chunk)
            for index, entry in await self._sender.send_next(in_flight=len(self._in_flight)):
                if isinstance(entry, ApiError):
                    results.append(MapResult(index, None, entry, None))
                else:
                    self._in_flight[entry["id"]] = index
        return results

    def _room(self) -> int:
        flying = len(self._in_flight)
        return min(self._concurrency - flying, HELD_FACTOR * self._concurrency - flying - self._held)

    async def _collect(self) -> list[MapResult]:
        """Wait until a part of the jobs in flight are final, and return the results of those that are."""
        began, ids = monotonic(), [*self._in_flight]
        entries = await self._api.query(ids, POLL_S, min_final=max(1, len(ids) // 4))
        results: list[MapResult] = []
        for job_id, entry in zip(ids, entries, strict=False):
            index = self._in_flight.pop(job_id)
            if "id" not in entry:  # its result has expired, or the service has lost it
                results.append(MapResult(index, None, entry_error(entry["error"]), None))
                continue
            job = JobView(entry)
            if not job.is_final:
                self._in_flight[job_id] = index  # behind those that were not asked for
                continue
            if entry.get("output_url"):
                job = JobView(await self._api.with_output(entry))
            results.append(MapResult(index, job.output, job.failure, job))
        if results:
            self._sender.progress()
        elif monotonic() - began < EARLY_S:
            await self._api.transport.sleep(EARLY_S)
        return results


async def iterate_inputs(inputs: Iterable[Any] | AsyncIterable[Any]) -> AsyncIterator[Any]:
    if isinstance(inputs, AsyncIterable):
        async for one in inputs:
            yield one
    else:
        for one in inputs:
            yield one


async def map_inputs(mapping: MapRun, bar: Bar, *, ordered: bool, return_errors: bool) -> AsyncGenerator[MapResult]:
    """Yield the results, and show the progress. Raise the first error unless `return_errors`."""
    results = mapping.in_order() if ordered else mapping.results()
    try:
        async for result in results:
            bar.update(1)
            if result.error is not None and not return_errors:
                raise result.error
            yield result
    finally:
        bar.close()
        await results.aclose()
