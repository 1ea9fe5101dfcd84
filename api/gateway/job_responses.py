"""Builds the responses with one job or its output. Large outputs are streamed, within a budget that tenants share."""

import re
from base64 import b64decode
from collections.abc import AsyncIterator, Sequence
from math import prod
from typing import Final

import orjson

from api.asgi.request import Request
from api.asgi.responses import Header, HttpResponse
from api.asgi.streamed_response import StreamedResponse
from api.gateway.gateway import Gateway
from api.gateway.output_streams import enclose
from jobs.contract.errors import JitneyError, Refused
from jobs.contract.job import Job
from jobs.contract.job_view import job_view, linked_view, split_view
from jobs.contract.lifecycle import State
from jobs.contract.tensors import DATATYPES

JSON: Final = "application/json"
RAW: Final = "application/octet-stream"
_SERVER_TIMING: Final = b"queue;dur=%.3f, decode;dur=%.3f, batch;dur=%.3f, infer;dur=%.3f, total;dur=%.3f"
_ANY: Final = frozenset({"*/*", "application/*"})
# An output of a single tensor in base64, up to its text.
_BASE64_TENSOR: Final = re.compile(
    rb'\{"tensors":\{"(?:[^"\\]|\\.)*":\{"datatype":"(\w+)","shape":\[([\d,]*)\],"b64":"'
)
_BASE64_END: Final = b'"}}}'

Response = HttpResponse | StreamedResponse


def server_timing(job: Job) -> Header:
    """Return the header with the times of a final job by stage, in ms."""
    started_us, finished_us = job.started_us or job.created_us, job.finished_us or job.created_us
    queue_ms, total_ms = (started_us - job.created_us) / 1000, (finished_us - job.created_us) / 1000
    decode, batch, infer = job.stages_ms or (0.0, 0.0, 0.0)
    return b"server-timing", _SERVER_TIMING % (queue_ms, decode, batch, infer, total_ms)


async def job_response(
    gateway: Gateway, request: Request, job: Job, headers: Sequence[Header] = (), position: int | None = None
) -> Response:
    """Return the response with a job; raises Refused if its output is gone, OverLimit if too many are being sent."""
    if job.output is not None or not job.output_bytes:
        return HttpResponse(200, orjson.dumps(job_view(job, position)), headers)
    head, tail = split_view(lambda marked: orjson.dumps(job_view(marked)), job)
    share, pieces = await gateway.outputs.open(request.tenant, job, request.evict)
    length = len(head) + job.output_bytes + len(tail)
    return StreamedResponse(200, enclose(head, pieces, tail), length, share, headers)


async def submitted_job_response(gateway: Gateway, request: Request, job: Job, headers: Sequence[Header]) -> Response:
    """Return the response with a job that its submitter waited for; without its output if there is no room for it."""
    try:
        return await job_response(gateway, request, job, headers)
    except JitneyError:  # the job was accepted, so the caller must get its id
        return HttpResponse(200, orjson.dumps(linked_view(job)), headers)


async def output_response(gateway: Gateway, request: Request, job: Job) -> Response:
    """Return the response with a job's output alone: JSON, or the bytes of its only tensor. Raises Refused."""
    form = _choose_form(request.header(b"accept"))
    if job.state != State.SUCCEEDED:
        ends = f"it is {job.state.value}" + (": see its error" if job.is_final else "")
        raise Refused("no_output", f"job {job.id} has no output: {ends}", job=job.id)
    share, pieces = await gateway.outputs.open(request.tenant, job, request.evict)
    size = job.output_bytes or len(job.output or b"")
    if form == JSON:
        return StreamedResponse(200, pieces, size, share)
    first = await anext(pieces)
    match = _BASE64_TENSOR.match(first)
    datatype, shape = (match[1].decode(), match[2].decode()) if match else ("", "")
    raw_bytes = DATATYPES[datatype][0] * prod(map(int, filter(None, shape.split(",")))) if datatype in DATATYPES else 0
    text_bytes = (raw_bytes + 2) // 3 * 4
    if match is None or match.end() + text_bytes + len(_BASE64_END) != size:
        share.resize(0)
        message = (
            f"the output of job {job.id} is not a single tensor in base64: accept application/json, or submit the job "
            'with "parameters": {"encoding": "base64"} to a model with one output'
        )
        raise Refused("not_acceptable", message, allowed=[JSON])
    tensor = ((b"jitney-datatype", match[1]), (b"jitney-shape", match[2]))
    decoded = _decode(first[match.end() :], pieces, text_bytes)
    return StreamedResponse(200, decoded, raw_bytes, share, tensor, RAW.encode())


async def _decode(first: bytes, pieces: AsyncIterator[bytes], text_bytes: int) -> AsyncIterator[bytes]:
    """Yield the bytes of a base64 text of this length, which may be followed by more."""
    rest, left = b"", text_bytes
    async for piece in enclose(first, pieces):
        text = rest + piece[:left]
        left -= min(left, len(piece))
        whole = len(text) // 4 * 4
        rest = text[whole:]
        if whole:
            yield b64decode(text[:whole])


def _choose_form(accept: str) -> str:
    """Return the first of JSON and RAW that an Accept header names; raises Refused."""
    kinds = [part.partition(";")[0].strip().lower() for part in accept.split(",")] if accept else ["*/*"]
    for kind in kinds:
        if kind in _ANY or kind == JSON:
            return JSON
        if kind == RAW:
            return RAW
    raise Refused("not_acceptable", f"an output is {JSON} or {RAW}, not {accept[:100]}", allowed=[JSON, RAW])
