"""Reads a request of many texts or lists of token ids, submits them as jobs of several rows, and joins their answers.

For the APIs that answer in the same request: embeddings and rerank.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Final

import orjson

from api.asgi.request import Request
from api.asgi.responses import Receive
from api.gateway.gateway import Gateway
from api.submission.submit import Submitted, submit_many, unwrap, wait_for_outcomes
from jobs.contract.errors import JitneyError, Refused
from jobs.contract.input_fields import read_row_count
from jobs.contract.job import Job
from jobs.contract.job_request import JobRequest
from jobs.contract.json_reader import read_object
from jobs.contract.lifecycle import State

DEFAULT_ROWS: Final = 64  # of one job, for a model that is refused anyway because it takes no rows

Fields = Mapping[str, Any]


async def read_fields(gateway: Gateway, request: Request, receive: Receive, allowed: Sequence[str]) -> Fields:
    """Return the fields of a JSON body. Raises Refused for another content type, or a field that is not allowed."""
    if request.content_type != "application/json":
        message = f"content type {request.content_type[:80]!r} is not supported"
        raise Refused("unsupported_media_type", message, allowed=["application/json"])
    request.query()
    share = gateway.reserve_body(request, request.header(b"idempotency-key"))
    try:
        fields = read_object(await request.body(receive, share, gateway.settings.max_body_bytes), "the body")
    finally:
        share.release()
    if unknown := [name for name in fields if name not in allowed]:
        raise Refused("invalid_request", f"unknown field {unknown[0][:80]!r}", allowed=list(allowed))
    if not isinstance(fields.get("model", ""), str):
        raise Refused("invalid_request", 'field "model" must be a string')
    return fields


async def answer_texts(
    gateway: Gateway,
    request: Request,
    model: str,
    texts: Sequence[Any],
    *,
    to_input: Callable[[Sequence[Any]], Fields],
    parameters: Fields,
) -> list[dict[str, Any]]:
    """Return the model's answer to each text, in order. `to_input`: makes the input of a job of some texts.

    A text may be a list of token ids, as `to_input` takes them. Raises Refused if a text is refused or its job fails,
    with its index in `row`, or if the wait is over.
    """
    read_row_count(to_input(texts), None)
    rows = gateway.catalog.find(model).get("max_rows") or DEFAULT_ROWS
    parts = [texts[first : first + rows] for first in range(0, len(texts), rows)]
    job_requests = [
        JobRequest(model=model, parameters=parameters, rows=len(part), fields=to_input(part)) for part in parts
    ]
    wait_s = gateway.settings.predict_wait_s
    with ExitStack() as held:
        awaited = held.enter_context(gateway.awaited.hold(request.tenant, request.evict))
        awaited.grow(len(parts))
        key = request.header(b"idempotency-key")
        submitted = await submit_many(gateway, request.tenant, job_requests, key, waits=True)
        accepted = [each for each in submitted if isinstance(each, Submitted)]
        if len(accepted) < len(submitted):  # nobody waits for those that were accepted beside a refused one
            gateway.waiting.forget_all([(each.accepted.id, each.end) for each in accepted if each.end is not None])
            raise next(each for each in submitted if isinstance(each, JitneyError))
        jobs = [unwrap(job) for job in await wait_for_outcomes(gateway, accepted, wait_s)]
        if late := [job.id for job in jobs if not job.is_final]:
            message = f"{len(late)} jobs are not final within {wait_s:g} s and go on: read them at /v1/jobs/{late[0]}"
            raise Refused("wait_over", message, job=late[0], limit_s=wait_s)
        outputs = held.enter_context(gateway.outputs.hold(request.tenant, request.evict))
        answers: list[dict[str, Any]] = []
        for job in jobs:
            outputs.grow(job.output_bytes or 0)
            answers += _rows(await gateway.store.with_output(job), len(answers))
            await asyncio.sleep(0)  # parsing a job's output takes a millisecond or two
        return answers


def _rows(job: Job, first: int) -> list[dict[str, Any]]:
    """Return the answers of a job's rows. `first`: the index of its first text. Raises Refused if it failed."""
    if job.state == State.SUCCEEDED and job.output is not None:
        answers: list[dict[str, Any]] = orjson.loads(job.output)["rows"]
        return answers
    error = orjson.loads(job.error or b"{}")
    details = {"row": first + error["row"]} if isinstance(error.get("row"), int) else {}
    raise Refused(error["code"], error["message"], job=job.id, **details)
