"""The asynchronous client: `AsyncJitney`, with the methods of `Jitney`, on asyncio or trio."""

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping
from types import TracebackType
from typing import Any, Self, Unpack

import httpx2

from jitney_client import batch_api
from jitney_client.client import encoder, find_service
from jitney_client.http_api import EVENTS, JOBS, Fields, HttpApi, new_key
from jitney_client.inputs import Input, JobOptions
from jitney_client.many_inputs import MapRun, map_inputs, submit_many
from jitney_client.progress import open_bar
from jitney_client.transport import AsyncTransport
from jitney_client.views import BatchResult, BatchView, Event, JobView, MapResult

Inputs = Iterable[Input] | AsyncIterable[Input]


class AsyncJob(JobView):
    """A job, as `Job` of the synchronous client."""

    def __init__(self, data: Fields, api: HttpApi) -> None:
        super().__init__(data)
        self._api = api

    async def wait(self, timeout_s: float | None = None) -> Self:
        """Wait until the job is final. Raises WaitTimeout."""
        if not self.is_final:
            self.data = await self._api.wait(self.id, timeout_s)
        return self

    async def result(self, timeout_s: float | None = None) -> Any:
        """Wait until the job is final and return its output. Raises JobFailed, WaitTimeout."""
        if failure := (await self.wait(timeout_s)).failure:
            raise failure
        return self.output

    async def refresh(self) -> Self:
        self.data = await self._api.read(self.id)
        return self

    async def cancel(self) -> Self:
        self.data = await self._api.cancel(self.id)
        return self

    def events(self) -> AsyncIterator[Event]:
        return self._api.events(f"{JOBS}/{self.id}/events")


class AsyncBatch(BatchView):
    """A batch, as `Batch` of the synchronous client."""

    def __init__(self, data: Fields, api: HttpApi) -> None:
        super().__init__(data)
        self._api = api

    async def wait(self, timeout_s: float | None = None, *, progress: bool = False) -> Self:
        """Wait until the batch has ended. Raises WaitTimeout."""
        bar = open_bar(self.counts["total"], "lines", wanted=progress)
        self.data = await batch_api.wait_for_batch(self._api, self.id, timeout_s, bar)
        return self

    async def refresh(self) -> Self:
        self.data = await batch_api.read_batch(self._api, self.id)
        return self

    async def cancel(self) -> Self:
        self.data = await self._api.read_json("POST", f"{batch_api.BATCHES}/{self.id}/cancel")
        return self

    def results(self) -> AsyncIterator[BatchResult]:
        """Yield the results, in no order; of a batch that runs, those so far. Raises BatchFailed."""
        return batch_api.batch_results(self._api, self.data)

    async def retry(self) -> "AsyncBatch":
        return AsyncBatch(await batch_api.retry_batch(self._api, self.id), self._api)


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
        self._api = HttpApi(AsyncTransport(self._http, service), retry_s)

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
        return AsyncJob(await self._api.submit(job, idempotency_key or new_key()), self._api)

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
        done = await self._api.run(job, idempotency_key or new_key(), timeout_s)
        return await AsyncJob(done, self._api).result()

    async def submit_many(
        self, model: str, inputs: Inputs, **options: Unpack[JobOptions]
    ) -> list[AsyncJob | Exception]:
        results = await submit_many(self._api, inputs, encoder(model, options))
        return [each if isinstance(each, Exception) else AsyncJob(each, self._api) for each in results]

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
        mapping = MapRun(self._api, inputs, encode, concurrency)
        bar = open_bar(inputs, model, wanted=progress)
        return map_inputs(mapping, bar, ordered=ordered, return_errors=return_errors)

    async def job(self, job_id: str) -> AsyncJob:
        return AsyncJob(await self._api.read(job_id), self._api)

    async def list_jobs(self) -> AsyncIterator[AsyncJob]:
        async for job in self._api.pages(JOBS, "jobs", "next_cursor", {"limit": 100}):
            yield AsyncJob(job, self._api)

    def events(self) -> AsyncIterator[Event]:
        return self._api.events(EVENTS)

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
        created = await batch_api.create_batch(self._api, model, inputs, options, fields)
        return AsyncBatch(created, self._api)

    async def batch(self, batch_id: str) -> AsyncBatch:
        return AsyncBatch(await batch_api.read_batch(self._api, batch_id), self._api)

    # ---- the service

    async def models(self) -> list[dict[str, Any]]:
        models: list[dict[str, Any]] = (await self._api.read_json("GET", "/v1/models"))["models"]
        return models

    async def webhook_secret(self) -> str:
        return str((await self._api.read_json("GET", "/v1/webhooks/secret"))["key"])
