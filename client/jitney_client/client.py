"""The synchronous client: `Jitney`, and the jobs and batches that it returns."""

from collections.abc import Iterable, Iterator, Mapping
from os import environ
from types import TracebackType
from typing import Any, Self, Unpack

import httpx2

from jitney_client import batch_api
from jitney_client.http_api import EVENTS, JOBS, Fields, HttpApi, new_key
from jitney_client.inputs import Input, JobOptions, job_fields, to_json
from jitney_client.many_inputs import Encoder, MapRun, map_inputs, submit_many
from jitney_client.progress import open_bar
from jitney_client.transport import BlockingTransport, Service, iterate, run
from jitney_client.views import BatchResult, BatchView, Event, JobView, MapResult

DEFAULT_URL = "http://127.0.0.1:8000"
VERSION = "0.1.0"


def find_service(url: str | None, api_key: str | None, timeout_s: float) -> Service:
    """Return the service that arguments or the environment name. Raises ValueError."""
    url = (url or environ.get("JITNEY_URL") or DEFAULT_URL).rstrip("/")
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"the URL must begin with http:// or https://, not {url!r}")
    key = api_key or environ.get("JITNEY_API_KEY")
    headers = {"user-agent": f"jitney-client/{VERSION}"} | ({"authorization": f"Bearer {key}"} if key else {})
    return Service(url, headers, timeout_s)


def encoder(model: str, options: JobOptions) -> Encoder:
    """Return what encodes an input as a job."""
    return lambda job_input: to_json(job_fields(model, job_input, options))


class Job(JobView):
    """A job. Its properties are those of the last read; `wait` and `refresh` read it again."""

    def __init__(self, data: Fields, api: HttpApi) -> None:
        super().__init__(data)
        self._api = api

    def wait(self, timeout_s: float | None = None) -> Self:
        """Wait until the job is final. Raises WaitTimeout."""
        if not self.is_final:
            self.data = run(self._api.wait(self.id, timeout_s))
        return self

    def result(self, timeout_s: float | None = None) -> Any:
        """Wait until the job is final and return its output. Raises JobFailed, WaitTimeout."""
        if failure := self.wait(timeout_s).failure:
            raise failure
        return self.output

    def refresh(self) -> Self:
        """Read the job."""
        self.data = run(self._api.read(self.id))
        return self

    def cancel(self) -> Self:
        """Cancel the job. Raises ApiError with the code `job_already_final` if it has ended."""
        self.data = run(self._api.cancel(self.id))
        return self

    def events(self) -> Iterator[Event]:
        """Follow the job by server-sent events: one for each state, until it is final."""
        return iterate(self._api.events(f"{JOBS}/{self.id}/events"))


class Batch(BatchView):
    """A batch. Its properties are those of the last read; `wait` and `refresh` read it again."""

    def __init__(self, data: Fields, api: HttpApi) -> None:
        super().__init__(data)
        self._api = api

    def wait(self, timeout_s: float | None = None, *, progress: bool = False) -> Self:
        """Wait until the batch has ended. Raises WaitTimeout."""
        bar = open_bar(self.counts["total"], "lines", wanted=progress)
        self.data = run(batch_api.wait_for_batch(self._api, self.id, timeout_s, bar))
        return self

    def refresh(self) -> Self:
        """Read the batch."""
        self.data = run(batch_api.read_batch(self._api, self.id))
        return self

    def cancel(self) -> Self:
        """Cancel the batch. What is done stays."""
        self.data = run(self._api.read_json("POST", f"{batch_api.BATCHES}/{self.id}/cancel"))
        return self

    def results(self) -> Iterator[BatchResult]:
        """Yield the results, in no order; of a batch that runs, those so far. Raises BatchFailed."""
        return iterate(batch_api.batch_results(self._api, self.data))

    def retry(self) -> "Batch":
        """Create a batch of the lines that failed."""
        return Batch(run(batch_api.retry_batch(self._api, self.id)), self._api)


class Jitney:
    """A client of one service. It may be used by several threads. Use it in a `with`, or call `close`."""

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        timeout_s: float = 30,
        retry_s: float = 60,
        http_client: httpx2.Client | None = None,
    ) -> None:
        """Create a client; nothing is sent.

        `url`, `api_key`: else JITNEY_URL and JITNEY_API_KEY, else http://127.0.0.1:8000 and no key. `timeout_s`: of
        each step of a request, beside the time that the service is asked to wait. `retry_s`: how long a request is
        repeated while the service is full, away or unreachable. `http_client`: for proxies and certificates.
        """
        service = find_service(url, api_key, timeout_s)
        self._http = http_client or httpx2.Client()
        self._api = HttpApi(BlockingTransport(self._http, service), retry_s)

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ---- jobs

    def submit(
        self, model: str, job_input: Input, *, idempotency_key: str | None = None, **options: Unpack[JobOptions]
    ) -> Job:
        """Submit a job and return it at once. An empty `model` is the service's default."""
        job = encoder(model, options)(job_input)
        return Job(run(self._api.submit(job, idempotency_key or new_key())), self._api)

    def run(
        self,
        model: str,
        job_input: Input,
        *,
        timeout_s: float | None = None,
        idempotency_key: str | None = None,
        **options: Unpack[JobOptions],
    ) -> Any:
        """Submit a job, wait for it and return its output. Raises JobFailed, WaitTimeout."""
        job = encoder(model, options)(job_input)
        return Job(run(self._api.run(job, idempotency_key or new_key(), timeout_s)), self._api).result()

    def submit_many(self, model: str, inputs: Iterable[Input], **options: Unpack[JobOptions]) -> list[Job | Exception]:
        """Submit many jobs in few requests. Return for each its job, or the error of an input that was refused."""
        results = run(submit_many(self._api, inputs, encoder(model, options)))
        return [each if isinstance(each, Exception) else Job(each, self._api) for each in results]

    def map(
        self,
        model: str,
        inputs: Iterable[Input],
        *,
        concurrency: int = 256,
        ordered: bool = True,
        return_errors: bool = False,
        progress: bool = False,
        **options: Unpack[JobOptions],
    ) -> Iterator[MapResult]:
        """Run the model over many inputs; yield their results, in order unless `ordered` is false.

        At most `concurrency` jobs are in flight. Without `return_errors` the first failure is raised; jobs in flight
        go on. The lane is `bulk` unless `options` name another one.
        """
        encode = encoder(model, {"lane": "bulk", **options})
        mapping = MapRun(self._api, inputs, encode, concurrency)
        bar = open_bar(inputs, model, wanted=progress)
        return iterate(map_inputs(mapping, bar, ordered=ordered, return_errors=return_errors))

    def job(self, job_id: str) -> Job:
        """Read a job. Raises NotFound."""
        return Job(run(self._api.read(job_id)), self._api)

    def list_jobs(self) -> Iterator[Job]:
        """Yield own jobs, newest first, without their outputs."""
        pages = self._api.pages(JOBS, "jobs", "next_cursor", {"limit": 100})
        return (Job(job, self._api) for job in iterate(pages))

    def events(self) -> Iterator[Event]:
        """Follow all own jobs from now on. It does not end by itself."""
        return iterate(self._api.events(EVENTS))

    # ---- batches

    def create_batch(
        self,
        model: str,
        inputs: Iterable[Input] | Mapping[str, Input],
        *,
        batch_metadata: Mapping[str, str] | None = None,
        batch_webhook: str | Mapping[str, Any] | None = None,
        **options: Unpack[JobOptions],
    ) -> Batch:
        """Upload inputs and run them as one batch, whether or not this process lives on.

        `custom_id` of a result is the input's key in a dict, or else its index. A webhook belongs to the batch, not to
        its jobs.
        """
        fields = {"metadata": batch_metadata, "webhook": batch_webhook}
        created = run(batch_api.create_batch(self._api, model, inputs, options, fields))
        return Batch(created, self._api)

    def batch(self, batch_id: str) -> Batch:
        """Read a batch. Raises NotFound."""
        return Batch(run(batch_api.read_batch(self._api, batch_id)), self._api)

    # ---- the service

    def models(self) -> list[dict[str, Any]]:
        """Return the models and versions that are served, as `/v1/models` has them."""
        models: list[dict[str, Any]] = run(self._api.read_json("GET", "/v1/models"))["models"]
        return models

    def webhook_secret(self) -> str:
        """Return the secret that `verify_webhook` takes."""
        return str(run(self._api.read_json("GET", "/v1/webhooks/secret"))["key"])
