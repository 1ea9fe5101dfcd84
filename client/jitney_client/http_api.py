"""Calls the HTTP API, for both clients: retries, long polls, server-sent events."""

import json
import random
import uuid
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from itertools import count
from math import ceil
from time import monotonic
from typing import Any, Final

import httpx2

from jitney_client.errors import ApiError, JitneyError, WaitTimeout, api_error
from jitney_client.inputs import to_json
from jitney_client.transport import Request, Transport, split_lines
from jitney_client.views import FINAL, Event

JOBS: Final = "/v1/jobs"
EVENTS: Final = "/v1/events"
MAX_POLL_S: Final = 50  # of one request; the service and most proxies end longer ones
MAX_BACKOFF_S: Final = 8
KEEPALIVE_S: Final = 60  # of silence, after which an event stream is broken: a comment comes every 15 s
EARLY_S: Final = 0.2  # a long poll that ends sooner without news was ended by a gateway that stops
JSON_TYPE: Final = {"content-type": "application/json"}

Fields = dict[str, Any]


def new_key() -> str:
    """Return an Idempotency-Key."""
    return uuid.uuid4().hex


def backoff_s(error: JitneyError, attempt: int) -> float:
    """Return the pause before the next attempt: what the service asks for, else longer each time, with jitter."""
    delay_s = min(2**attempt / 8, MAX_BACKOFF_S) if error.retry_after_s is None else error.retry_after_s
    return max(delay_s, 0.05) * random.uniform(1, 1.25)  # noqa: S311 (jitter, not secrecy)


class HttpApi:
    """Sends requests, and repeats them for up to `retry_s` seconds while the service is full, away or unreachable."""

    def __init__(self, transport: Transport, retry_s: float) -> None:
        self.transport, self.retry_s = transport, retry_s
        self._max_ids = 1000  # of a query

    async def send(self, request: Request, *, again: bool = True) -> httpx2.Response:
        """Return the response. Raises ApiError, ConnectionFailed. `again`: repeat the request after temporary errors.

        Every request may be repeated: those that make something have an Idempotency-Key.
        """
        until = monotonic() + (self.retry_s if again else 0)
        for attempt in count(1):
            try:
                response = await self.transport.send(request)
                if response.is_success:
                    return response
                raise api_error(response)
            except JitneyError as error:
                delay_s = backoff_s(error, attempt)
                if not error.is_temporary or monotonic() + delay_s > until:
                    raise
            await self.transport.sleep(delay_s)
        raise AssertionError

    async def read_json(self, method: str, path: str, **query: str | int) -> Fields:
        """Return the JSON object of a response."""
        answer: Fields = (await self.send(Request(method, path, query))).json()
        return answer

    # ---- jobs

    async def submit(self, job: bytes, key: str, wait_s: float = 0) -> Fields:
        """Submit an encoded job; return it once it is final, after `wait_s` seconds at the latest."""
        headers = {**JSON_TYPE, "idempotency-key": key}
        if wait_s > 0:
            wait_s = ceil(min(wait_s, MAX_POLL_S))
            headers["prefer"] = f"wait={wait_s}"
        answer: Fields = (await self.send(Request("POST", JOBS, {}, headers, job, wait_s))).json()
        return await self.with_output(answer)

    async def run(self, job: bytes, key: str, timeout_s: float | None) -> Fields:
        """Submit an encoded job and return it once it is final. Raises WaitTimeout."""
        until = None if timeout_s is None else monotonic() + timeout_s
        answer = await self.submit(job, key, MAX_POLL_S if timeout_s is None else timeout_s)
        if answer["status"] in FINAL:
            return answer
        return await self.wait(answer["id"], None if until is None else max(0.0, until - monotonic()))

    async def submit_lines(self, lines: Sequence[bytes], key: str) -> list[Fields]:
        """Submit encoded jobs in one request, once; return an entry for each. Raises an error of the whole request."""
        headers = {"content-type": "application/x-ndjson", "idempotency-key": key}
        request = Request("POST", JOBS, {}, headers, b"\n".join(lines))
        try:
            entries: list[Fields] = (await self.send(request, again=False)).json()["jobs"]
        except ApiError as error:  # no job was accepted: each has its error
            if "jobs" not in error.details:
                raise
            entries = error.details["jobs"]
            for entry in entries:
                entry["error"].setdefault("retry_after_s", error.retry_after_s)
        return entries

    async def read(self, job_id: str, wait_s: int = 0) -> Fields:
        """Return a job, once it is final or the wait is over."""
        query = {"wait": wait_s} if wait_s else {}
        request = Request("GET", f"{JOBS}/{job_id}", query, wait_s=wait_s)
        job: Fields = (await self.send(request)).json()
        return job

    async def with_output(self, job: Fields) -> Fields:
        """Return the job with its output, reading one that was too large for the response."""
        return await self.read(job["id"]) if job.get("output_url") else job

    async def wait(self, job_id: str, timeout_s: float | None) -> Fields:
        """Return a job once it is final. Raises WaitTimeout."""
        until = None if timeout_s is None else monotonic() + timeout_s
        while True:
            left_s = MAX_POLL_S if until is None else max(0.0, until - monotonic())
            began = monotonic()
            job = await self.read(job_id, ceil(min(left_s, MAX_POLL_S)))
            if job["status"] in FINAL:
                return await self.with_output(job)
            if until is not None and monotonic() >= until:
                raise WaitTimeout("job", job_id, job["status"])
            if monotonic() - began < EARLY_S:
                await self.transport.sleep(EARLY_S)

    async def query(self, job_ids: Sequence[str], wait_s: int, min_final: int) -> list[Fields]:
        """Return an entry for each of the first of these jobs, as many as one request may name, once some are final."""
        ids = list(job_ids[: self._max_ids])
        body = to_json({"ids": ids, "wait": wait_s, "min_final": min(min_final, len(ids))})
        try:
            request = Request("POST", f"{JOBS}/query", {}, JSON_TYPE, body, wait_s)
            entries: list[Fields] = (await self.send(request)).json()["jobs"]
        except ApiError as error:
            if error.code != "too_many_jobs" or not 0 < error.details.get("limit", 0) < len(ids):
                raise
            self._max_ids = int(error.details["limit"])
            return await self.query(job_ids, wait_s, min_final)
        return entries

    async def cancel(self, job_id: str) -> Fields:
        """Cancel a job and return it. Raises ApiError with the code `job_already_final` if it has ended otherwise."""
        try:
            return await self.read_json("DELETE", f"{JOBS}/{job_id}")
        except ApiError as error:
            job = await self.read(job_id) if error.code == "job_already_final" else {}
            if job.get("status") == "canceled":  # by an earlier attempt
                return job
            raise

    async def pages(self, path: str, name: str, cursor: str, query: Mapping[str, str | int]) -> AsyncGenerator[Fields]:
        """Yield the entries of a list, page by page. `name`: of the field with the entries, `cursor`: with the next."""
        found = dict(query)
        while True:
            page = await self.read_json("GET", path, **found)
            for entry in page[name]:
                yield entry
            if not page[cursor]:
                return
            found["cursor"] = page[cursor]

    # ---- events

    async def events(self, path: str) -> AsyncGenerator[Event]:
        """Yield the events of a stream. After an interruption, go on behind the last one."""
        last_id, failures, until = "", 0, monotonic() + self.retry_s
        while True:
            headers = {"accept": "text/event-stream"} | ({"last-event-id": last_id} if last_id else {})
            try:
                request = Request("GET", path, {}, headers, wait_s=KEEPALIVE_S)
                async with self.transport.stream(request) as (response, chunks):
                    if response.is_error:
                        raise api_error(response)
                    if response.status_code == httpx2.codes.NO_CONTENT:  # the job has ended, and all was read
                        return
                    fields: dict[str, str] = {}
                    async with aclosing(split_lines(chunks)) as lines:
                        async for line in lines:
                            failures, until = 0, monotonic() + self.retry_s
                            if line:  # a field, or a comment with an empty name
                                name, _, value = line.decode().partition(":")
                                fields[name] = value.removeprefix(" ")
                                continue
                            event, fields = _read_event(fields, last_id), {}
                            if event is not None:
                                last_id = event.id
                                yield event
                                if path != EVENTS and event.name in FINAL:
                                    return
                delay_s = EARLY_S
            except JitneyError as error:
                failures += 1
                delay_s = backoff_s(error, failures)
                if not error.is_temporary or monotonic() + delay_s > until:
                    raise
            await self.transport.sleep(delay_s)


def _read_event(fields: Mapping[str, str], last_id: str) -> Event | None:
    """Return the event of these fields; None if they are only comments."""
    if "data" not in fields:
        return None
    return Event(fields.get("id", last_id), fields.get("event", "message"), json.loads(fields["data"]))
