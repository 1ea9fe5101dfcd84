"""Calls the HTTP API for batches: uploads lines, creates, waits, reads the results."""

from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Mapping
from contextlib import aclosing
from itertools import count
from json import loads
from tempfile import SpooledTemporaryFile
from time import monotonic
from typing import Any, Final

from jitney_client.errors import BatchFailed, JitneyError, WaitTimeout, api_error
from jitney_client.http_api import JSON_TYPE, Fields, HttpApi, backoff_s, new_key
from jitney_client.inputs import Input, JobOptions, job_fields, to_json
from jitney_client.many_inputs import iterate_inputs
from jitney_client.progress import Bar
from jitney_client.transport import Request, split_lines
from jitney_client.views import FINAL_BATCH, BatchResult, BatchView, read_batch_line

BATCHES: Final = "/v1/batches"
MEMORY_BYTES: Final = 8 << 20  # of lines that are not written to a temporary file
MIN_POLL_S: Final = 0.25
MAX_POLL_S: Final = 5.0

Inputs = Iterable[Input] | AsyncIterable[Input] | Mapping[str, Input]


async def create_batch(
    api: HttpApi, model: str, inputs: Inputs, options: JobOptions, fields: Mapping[str, Any]
) -> Fields:
    """Upload the inputs as lines and create a batch of them. `fields`: of the batch."""
    named = isinstance(inputs, Mapping)
    with SpooledTemporaryFile(MEMORY_BYTES) as file:
        number = 0
        async for one in iterate_inputs(inputs.items() if isinstance(inputs, Mapping) else inputs):
            custom_id, job_input = one if named else (str(number), one)
            body = job_fields(model, job_input, options)
            line = {"custom_id": custom_id, "method": "POST", "url": "/v1/jobs", "body": body}
            file.write(to_json(line) + b"\n")
            number += 1
        if not number:
            raise ValueError("a batch needs one input or more")
        request = Request("POST", "/v1/files", form={"purpose": "batch"}, file=file)
        uploaded = (await api.send(request)).json()
    batch = {"input_file_id": uploaded["id"], "endpoint": "/v1/jobs", **fields}
    return await _post(api, batch)


async def _post(api: HttpApi, batch: Mapping[str, Any]) -> Fields:
    body = to_json({name: value for name, value in batch.items() if value is not None})
    headers = {**JSON_TYPE, "idempotency-key": new_key()}
    answer: Fields = (await api.send(Request("POST", BATCHES, {}, headers, body))).json()
    return answer


async def retry_batch(api: HttpApi, batch_id: str) -> Fields:
    """Create a batch of the lines of an earlier one that failed."""
    return await _post(api, {"retry_of": batch_id, "endpoint": "/v1/jobs"})


async def read_batch(api: HttpApi, batch_id: str) -> Fields:
    return await api.read_json("GET", f"{BATCHES}/{batch_id}")


async def wait_for_batch(api: HttpApi, batch_id: str, timeout_s: float | None, bar: Bar) -> Fields:
    """Return a batch once it has ended. Raises WaitTimeout."""
    until = None if timeout_s is None else monotonic() + timeout_s
    pause_s, shown = MIN_POLL_S, 0
    try:
        while True:
            batch = await read_batch(api, batch_id)
            counts = batch["request_counts"]
            done = counts["completed"] + counts["failed"]
            if counts["total"] and hasattr(bar, "total"):
                bar.total = counts["total"]
            bar.update(done - shown)
            shown = done
            if batch["status"] in FINAL_BATCH:
                return batch
            left_s = pause_s if until is None else until - monotonic()
            if left_s <= 0:
                raise WaitTimeout("batch", batch_id, batch["status"])
            await api.transport.sleep(min(pause_s, left_s))
            pause_s = min(pause_s * 1.5, MAX_POLL_S)
    finally:
        bar.close()


async def batch_results(api: HttpApi, batch: Fields) -> AsyncGenerator[BatchResult]:
    """Yield the result of each line that has one, in no order. Raises BatchFailed if no line was run."""
    if batch["status"] not in FINAL_BATCH:
        batch = await read_batch(api, batch["id"])
    files = [batch[name] for name in ("output_file_id", "error_file_id") if batch.get(name)]
    if batch["status"] == "failed" and not files:
        raise BatchFailed(BatchView(batch))
    for file_id in files:
        async for line in _download(api, f"/v1/files/{file_id}/content"):
            yield read_batch_line(loads(line))


async def _download(api: HttpApi, path: str) -> AsyncGenerator[bytes]:
    """Yield the lines of a file. After an interruption, read it again and go on behind the last line."""
    read, until = 0, monotonic() + api.retry_s
    for attempt in count(1):
        try:
            async with api.transport.stream(Request("GET", path)) as (response, chunks):
                if response.is_error:
                    raise api_error(response)
                number = 0
                async with aclosing(split_lines(chunks)) as lines:
                    async for line in lines:
                        number += 1
                        if number > read and line:
                            read, until = number, monotonic() + api.retry_s
                            yield line
        except JitneyError as error:
            delay_s = backoff_s(error, attempt)
            if not error.is_temporary or monotonic() + delay_s > until:
                raise
            await api.transport.sleep(delay_s)
        else:
            return
