"""The asynchronous client: `AsyncJitney`, with the methods of `Jitney`, on asyncio or trio."""

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping
from types import TracebackType
from typing import Any, Self, Unpack

import httpx2

from jitney_client import batch_calls
from jitney_client.calls import EVENTS, JOBS, Calls, Fields, new_key
from jitney_client.client import encoder, find_service
from jitney_client.inputs import Input, JobOptions
from jitney_client.mapping import MapRun, map_inputs, submit_many
from jitney_client.progress import open_bar
from jitney_client.transport import AsyncTransport
from jitney_client.views import BatchResult, BatchView, Event, JobView, MapResult

Inputs = Iterable[Input] | AsyncIterable[Input]


class AsyncJob(JobView):
    """A job, as `Job` of the synchronous client."""

    def __init__(self, data: Fields, calls: Calls) -> None:
        super().__init__(data)
        self._calls = calls

    async def wait(self, timeout_s: float | None = None) -> Self:
        """Wait until the job is final. Raises WaitTimeout."""
        if not self.is_final:
            self.data = await self._calls.wait(self.id, timeout_s)
        return self

    async def result(self, timeout_s: float | None = None) -> Any:
        """Wait until the job is final and return its output. Raises JobFailed, WaitTimeout."""
        if failure := (await self.wait(timeout_s)).failure:
            raise failure
        return self.output

    async def refresh(self) -> Self:
        self.data = await self._calls.read(self.id)
        return self

    async def cancel(self) -> Self:
        self.data = await self._calls.cancel(self.id)
        return self

    def events(self) -> AsyncIterator[Event]:
        return self._calls.events(f"{JOBS}/{self.id}/events")


class AsyncBatch(BatchView):
    """A batch, as `Batch` of the synchronous client."""

    def __init__(self, data: Fields, calls: Calls) -> None:
        super().__init__(data)
        self._calls = calls

    async def wait(self, timeout_s: float | None = None, *, progress: bool = False) -> Self:
        """Wait until the batch has ended. Raises WaitTimeout."""
        bar = open_bar(self.counts["total"], "lines", wanted=progress)
        self.data = await batch_calls.wait_for_batch(self._calls, self.id, timeout_s, bar)
        return self

    async def refresh(self) -> Self:
        self.data = await batch_calls.read_batch(self._calls, self.id)
        return self

    async def cancel(self) -> Self:
        self.data = await self._calls.read_json("POST", f"{batch_calls.BATCHES}/{self.id}/cancel")
        return self

    def results(self) -> AsyncIterator[BatchResult]:
        """Yield the results, in no order; of a batch that runs, those so far. Raises BatchFailed."""
        return batch_calls.batch_results(self._calls, self.data)

    async def retry(self) -> "AsyncBatch":
        return AsyncBatch(await batch_calls.retry_batch(self._calls, self.id), self._calls)


class AsyncJitney:
    """A client of one service, as `Jitney`. Use it in an `async with`, or await `close`."""

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        timeout_s: float = 30,
        retry_s: float = 60,
        http_client: httpx2.AsyncClient | None = None,
    ) -> None:
        service = find_service(url, api_key, timeout_s)
        self._http = http_client or httpx2.AsyncClient()
        self._calls = Calls(AsyncTransport(self._http, service), retry_s)

    async def close(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # ---- jobs

    async def submit(
        self, model: str, job_input: Input, *, idempotency_key: str | None = None, **options: Unpack[JobOptions]
    ) -> AsyncJob:
        job = encoder(model, options)(job_input)
        return AsyncJob(await self._calls.submit(job, idempotency_key or new_key()), self._calls)

    async def run(
        self,
        model: str,
        job_input: Input,
        *,
        timeout_s: float | None = None,
        idempotency_key: str | None = None,
        **options: Unpack[JobOptions],
    ) -> Any:
        job = encoder(model, options)(job_input)
        done = await self._calls.run(job, idempotency_key or new_key(), timeout_s)
        return await AsyncJob(done, self._calls).result()

    async def submit_many(
        self, model: str, inputs: Inputs, **options: Unpack[JobOptions]
    ) -> list[AsyncJob | Exception]:
        results = await submit_many(self._calls, inputs, encoder(model, options))
        return [each if isinstance(each, Exception) else AsyncJob(each, self._calls) for each in results]

    def map(
        self,
        model: str,
        inputs: Inputs,
        *,
        concurrency: int = 256,
        ordered: bool = True,
        return_errors: bool = False,
        progress: bool = False,
        **options: Unpack[JobOptions],
    ) -> AsyncIterator[MapResult]:
        encode = encoder(model, {"lane": "bulk", **options})
        mapping = MapRun(self._calls, inputs, encode, concurrency)
        bar = open_bar(inputs, model, wanted=progress)
        return map_inputs(mapping, bar, ordered=ordered, return_errors=return_errors)

    async def job(self, job_id: str) -> AsyncJob:
        return AsyncJob(await self._calls.read(job_id), self._calls)

    async def list_jobs(self) -> AsyncIterator[AsyncJob]:
        async for job in self._calls.pages(JOBS, "jobs", "next_cursor", {"limit": 100}):
            yield AsyncJob(job, self._calls)

    def events(self) -> AsyncIterator[Event]:
        return self._calls.events(EVENTS)

    # ---- batches

    async def create_batch(
        self,
        model: str,
        inputs: Inputs | Mapping[str, Input],
        *,
        batch_metadata: Mapping[str, str] | None = None,
        batch_webhook: str | Mapping[str, Any] | None = None,
        **options: Unpack[JobOptions],
    ) -> AsyncBatch:
        fields = {"metadata": batch_metadata, "webhook": batch_webhook}
        created = await batch_calls.create_batch(self._calls, model, inputs, options, fields)
        return AsyncBatch(created, self._calls)

    async def batch(self, batch_id: str) -> AsyncBatch:
        return AsyncBatch(await batch_calls.read_batch(self._calls, batch_id), self._calls)

    # ---- the service

    async def models(self) -> list[dict[str, Any]]:
        models: list[dict[str, Any]] = (await self._calls.read_json("GET", "/v1/models"))["models"]
        return models

    async def webhook_secret(self) -> str:
        return str((await self._calls.read_json("GET", "/v1/webhooks/secret"))["key"])
