"""Serves `POST /v2/models/{model}[/versions/{version}]/infer` of the Open Inference Protocol without FastAPI."""

import asyncio
import zlib
from typing import Final, NamedTuple

from api.asgi.gzip_body import DEFLATE, GZIP
from api.asgi.request import Request, cache_short
from api.asgi.responses import HttpResponse, Receive
from api.asgi.single_write import call_on_disconnect
from api.gateway.gateway import Gateway
from api.open_inference import http_messages
from api.open_inference.http_messages import ParsedRequest
from api.open_inference.inference import PendingInference, longest_wait_ms
from api.open_inference.model_tensors import model_tensors_of
from api.submission.submit import admit_single
from jobs.contract.errors import Refused
from jobs.contract.job_request import JobRequest

PREFIX: Final = "/v2"
MODELS: Final = f"{PREFIX}/models/"
_INFER: Final = "/infer"
MIN_COMPRESSED_BYTES: Final = 1024  # of an answer; smaller ones are sent as they are
COMPRESS_STEP_BYTES: Final = 64 << 10  # compressed before other tasks run: about 2 ms
_NONE: Final = JobRequest()
_WINDOWS: Final = {"gzip": GZIP, "deflate": DEFLATE}


class InferPath(NamedTuple):
    """The model and the version that a path names; version "": none."""

    model: str
    version: str

    @property
    def route(self) -> str:
        """The template of the path, for metrics."""
        return f"{MODELS}{{model}}{'/versions/{version}' if self.version else ''}{_INFER}"


@cache_short(256)
def read_path(path: str) -> InferPath | None:
    """Return what the path of an inference names; None for other paths."""
    if not (path.startswith(MODELS) and path.endswith(_INFER)):
        return None
    parts = path[len(MODELS) : -len(_INFER)].split("/")
    if len(parts) == 1 and parts[0]:
        return InferPath(parts[0], "")
    return InferPath(parts[0], parts[2]) if len(parts) == 3 and parts[1] == "versions" and all(parts) else None


async def infer(gateway: Gateway, http: Request, receive: Receive, target: InferPath) -> HttpResponse:
    """Run the tensors of a request and answer those of the model, once the job is done. Raises JitneyError.

    A caller that disconnects cancels the job, unless the request has an Idempotency-Key.
    """
    if http.method != "POST":
        raise Refused("method_not_allowed", f"{http.method} {http.path[:200]}: Method Not Allowed; allowed: POST")
    pending, read = await _submit(gateway, http, receive, target)
    if gateway.settings.disconnect_cancels and not http.header(b"idempotency-key"):
        call_on_disconnect(receive, pending.end)
    response = await pending.response(http.evict)
    answer = http_messages.write_raw_response(response, read) or await http_messages.write_response(response, read)
    accepted = http.headers.get(b"accept-encoding")
    return await _compress(answer, accepted) if accepted and len(answer.body) >= MIN_COMPRESSED_BYTES else answer


async def _submit(
    gateway: Gateway, http: Request, receive: Receive, target: InferPath
) -> tuple[PendingInference, ParsedRequest]:
    """Receive a request and submit its job. Its tensors are not kept. Raises JitneyError."""
    settings, key = gateway.settings, http.header(b"idempotency-key")
    share = gateway.reserve_body(http, key)
    try:
        body = await http.body(receive, share, settings.max_body_bytes)
        http.query()
        card = gateway.catalog.find(target.model, target.version)
        wait_s = settings.max_wait_s
        most_ms = longest_wait_ms(gateway, card, key, wait_s)
        read, raw = http_messages.read_request(http, body, card, target.version, most_ms)
        job = admit_single(gateway, http.tenant, read.job_request, key, raw)
        pending = PendingInference(gateway, job, model_tensors_of(card), read.request, share, wait_s=wait_s)
    except BaseException:
        share.release()
        raise
    return pending, read if raw is not None else read._replace(job_request=_NONE)


@cache_short(64)
def _choose_encoding(accept: bytes) -> str:
    """Return the first encoding of an Accept-Encoding header that is known and not refused; "" for none."""
    for part in accept.decode("latin-1").lower().split(","):
        name, _, weight = (text.strip() for text in part.partition(";"))
        if name in _WINDOWS and weight.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000"):
            return name
    return ""


async def _compress(answer: HttpResponse, accept: bytes) -> HttpResponse:
    """Return the answer in an encoding that the caller accepts."""
    encoding = _choose_encoding(accept)
    if not encoding:
        return answer
    packer, parts = zlib.compressobj(1, zlib.DEFLATED, _WINDOWS[encoding]), list[bytes]()
    for first in range(0, len(answer.body), COMPRESS_STEP_BYTES):
        if first:
            await asyncio.sleep(0)
        parts.append(packer.compress(answer.body[first : first + COMPRESS_STEP_BYTES]))
    header = (b"content-encoding", encoding.encode())
    return answer._replace(body=b"".join((*parts, packer.flush())), headers=(*answer.headers, header))
