"""A coverage-guided fuzzer for all parsers: requests, keys, records, notifications.

Each may refuse, in its own terms; anything else that is raised is a fault. Needs atheris, which the make target
installs. Exit code 77: a fault was found; its input is kept and shown.
"""

import asyncio
import contextlib
import itertools
import logging
import sys
import tempfile
import zlib
from collections.abc import Callable
from itertools import zip_longest
from pathlib import Path
from typing import Any, Final

import atheris
import httptools

with atheris.instrument_imports(include=["api", "jobs", "python_multipart"]):
    from api.asgi.gzip_body import STEP_BYTES, GzipReceiver
    from api.asgi.request import Request, read_query
    from api.asgi.request_boundaries import RequestSplitter
    from api.auth import job_tokens
    from api.auth.authentication import _is_local_host, _read_key
    from api.routes.hot_jobs import _prefer_wait, _wait_seconds
    from api.routes.list_queries import read_cursor, read_time
    from api.settings import GatewaySettings
    from api.submission import multi_job
    from api.submission.parsing import read_job_request
    from jobs.contract import tensors
    from jobs.contract.errors import JitneyError
    from jobs.contract.ids import JOB_ID
    from jobs.contract.job_request import JobRequest
    from jobs.models.catalog import ModelCatalog
    from jobs.models.worker_registry import ClusterState
    from jobs.store import codec, events
    from jobs.store.admission import admit, check_idempotency_key
    from jobs.tenants import api_keys, limits

X: Final = {"name": "x", "datatype": "FP32", "shape": [-1, 4]}
PLACES: Final = {"kinds": ["image", "tensors", "raw"], "inputs": [X], "raw_bytes": 16}
CARD: Final = {"name": "m", "version": "1", "deadline_ms": None, "seen": 0.0, **PLACES}
TYPES: Final = (
    b"application/json",
    b"application/x-ndjson",
    b"multipart/form-data; boundary=x",
    b"image/png",
    b"",
    b"text/\xff",
)
LOOP: Final = asyncio.new_event_loop()


class _Known(ModelCatalog):
    """A catalogue that was refreshed once."""

    def __init__(self) -> None:
        super().__init__(None, "m")  # type: ignore[arg-type] # it never asks
        self.announced, self._looked = ClusterState([CARD], []), True


CATALOGUE: Final = _Known()
GUARD: Final = GatewaySettings().address_policy()
WRITER: Final = codec.SubmissionEncoder()


def request(data: bytes) -> None:
    """Read a whole request, up to the job that is made of it."""
    given = atheris.FuzzedDataProvider(data)
    kind = TYPES[given.ConsumeIntInRange(0, len(TYPES) - 1)]
    if kind.startswith(b"multipart") and given.ConsumeBool():
        kind = b"multipart/form-data" + given.ConsumeBytes(40)
    query = given.ConsumeBytes(given.ConsumeIntInRange(0, 60)) if given.ConsumeBool() else b""
    body = given.ConsumeBytes(given.remaining_bytes())
    headers = [(b"content-type", kind), (b"authorization", body[:50]), (b"host", body[:30])]
    scope = {"path": "/v1/jobs", "method": "POST", "query_string": query, "headers": headers}
    asked = Request(scope)
    _read_key(asked)
    _is_local_host(asked.header(b"host"))
    if multi_job.is_many(asked, body):
        for draft in multi_job.read_job_requests(asked, body, 20).read():
            if not isinstance(draft, JitneyError):
                taken(draft)
    else:
        taken(LOOP.run_until_complete(read_job_request(asked, body)))


def taken(draft: JobRequest) -> None:
    """Encode a job request for the queue; decode a tensor job as a worker does."""
    with contextlib.suppress(JitneyError):
        job = admit(draft, CATALOGUE, GUARD, tenant="t", idempotency_key="k", shards=3, max_deadline_ms=1000)
        WRITER.submissions([job], lambda _: "", ())
        if job.kind == "tensors":
            assert {name: one.data for name, one in tensors.unpack_tensors(bytes(job.input)).items()}


def read_token(text: str) -> None:
    """Read the token of a request; no input has a valid signature."""
    query = b"token=" + text.encode("latin-1")
    scope = {"path": f"/v1/jobs/{text[:40]}", "method": "GET", "query_string": query, "headers": []}
    token = job_tokens.take_token(Request(scope))
    assert token is None or not token.is_signed_with(api_keys.hash_key("jk"))


def heads(data: bytes) -> None:
    """Read header and query values: queries, keys, preferences, cursors, times."""
    text = data.decode("latin-1")
    readers: tuple[Callable[[str], object], ...] = (
        *(check_idempotency_key, _prefer_wait, api_keys.parse_key_id, api_keys.hash_key),
        lambda text: read_cursor(text, "-", JOB_ID),
        *(lambda text: read_time("since", text), lambda text: _wait_seconds(text, 60)),
        events._LOG_POSITION.fullmatch,
        lambda text: read_query(text.encode("latin-1"), ("model", "lane")),
        read_token,
    )
    for read in readers:
        with contextlib.suppress(JitneyError):
            read(text)


def records(data: bytes) -> None:
    """Read data from the queue that others may have written."""
    given = atheris.FuzzedDataProvider(data)
    values = [given.ConsumeBytes(given.ConsumeIntInRange(0, 12)) or None for _ in codec.READ_FIELDS]
    if given.ConsumeBool():
        known = [b"1", b"running", b"m", b"1", b"interactive", b"t", b"5", b"1"]
        values = [mine or theirs for mine, theirs in zip_longest(known, values)]
    codec.read_job("00" + "0" * 32, values)
    rest = given.ConsumeBytes(given.remaining_bytes())
    api_keys._parse_key(rest)
    overrides = lambda text: limits.read_overrides(text.decode("latin-1"))  # noqa: E731 - one line says it
    for read in (codec.read_notification, codec.read_handoff, tensors.unpack_tensors, overrides):
        with contextlib.suppress(ValueError, JitneyError):
            read(rest)


class _Cuts:
    """Feeds llhttp as api/asgi/protocol.py does, and checks that it stops between two requests."""

    def __init__(self) -> None:
        self.framing, self.parser = RequestSplitter(), httptools.HttpRequestParser(self)
        self.length = self.begun = self.ended = 0

    def on_message_begin(self) -> None:
        self.begun, self.length = self.begun + 1, 0

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"content-length":
            self.length = int(value)

    def on_headers_complete(self) -> None:
        self.framing.expect_body(self.length)

    def on_message_complete(self) -> None:
        self.ended += 1

    def feed(self, data: bytes) -> None:
        start = 0
        while start < len(data):
            end, ended = self.framing.next_boundary(data, start), self.ended
            assert start < end <= len(data)
            self.parser.feed_data(data[start:end])
            assert self.begun - ended <= 1
            start = end


def wire(data: bytes) -> None:
    """Parse the bytes of a connection in chunks of odd sizes, and decompress them."""
    given = atheris.FuzzedDataProvider(data)
    sizes = [given.ConsumeIntInRange(1, 40) for _ in range(4)]
    rest = given.ConsumeBytes(given.remaining_bytes())
    cuts, pieces, turns = _Cuts(), list[bytes](), itertools.cycle(sizes)
    while rest:
        size = next(turns)
        pieces.append(rest[:size])
        rest = rest[size:]
    with contextlib.suppress(httptools.HttpParserError, httptools.HttpParserUpgrade):
        for piece in pieces:
            cuts.feed(piece)
    LOOP.run_until_complete(unpack(pieces))


async def unpack(pieces: list[bytes]) -> None:
    """Decompress a body in chunks; the result equals that of zlib."""
    messages = iter([*pieces, b""])
    count = len(pieces) + 1

    async def receive() -> Any:
        nonlocal count
        count -= 1
        return {"type": "http.request", "body": next(messages), "more_body": count > 0}

    unpacking, unpacked, more = GzipReceiver(receive), b"", True
    while more:
        message = await unpacking()
        assert len(message["body"]) <= STEP_BYTES
        unpacked, more = unpacked + message["body"], message["more_body"]
    packed, whole = b"".join(pieces), b""
    while packed:
        member = zlib.decompressobj(16 + zlib.MAX_WBITS)
        whole += member.decompress(packed)
        assert member.eof
        packed = member.unused_data
    assert unpacked == whole


TARGETS: Final = (request, request, heads, records, wire)


def one(data: bytes) -> None:
    """Give an input to one of the readers."""
    if data:
        with contextlib.suppress(JitneyError):
            TARGETS[data[0] % len(TARGETS)](data[1:])


TENSOR: Final = b'{"model":"m","input":{"tensors":{"x":{"datatype":"FP32","shape":[1,4],"data":[1,2,3,4]}}}}'
IMAGE: Final = b'{"model":"m","input":{"image":"iVBORw0KGgo="},"metadata":{"a":"b"},"lane":"bulk","deadline_ms":9}'
FORM: Final = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n\x89PNG\r\n\x1a\n\r\n--x--\r\n'
# A target, the bytes, and from behind: the type, whether the boundary is another, whether a query comes.
SEEDS: Final = (
    *(b"\0%s\0\0" % one for one in (TENSOR, IMAGE, b"[%s,%s]" % (TENSOR, IMAGE))),
    *(b"\0%s\n%s\0\1" % (IMAGE, TENSOR), b"\0%s\0\0\2" % FORM, b"\0\x89PNG\r\n\x1a\n\0\3"),
    *(b"\2wait=5, respond-async; q=1", b"\2jk_%s_%s" % (b"a" * 16, b"B" * 43), b"\0022026-01-01T00:00:00Z"),
    *(
        b"\4" + text + b"\5\x11\3\x20"
        for text in (b"GET / HTTP/1.1\r\n\r\n" * 2, b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc")
    ),
    b"\4POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n\r\n\n\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n\3\7\1\x09",
    b"\4" + zlib.compress(b"a" * 99, wbits=16 + zlib.MAX_WBITS) * 2 + b"\x1e\x1e\x1e\x1e",
    *(b"\3" + text for text in (b'[["00",1,"queued"]]', b'{"a":{"weight":3}}', tensors.pack_tensors({}))),
)


def main() -> None:
    """Fuzz until told to stop; libFuzzer takes the command line from here."""
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix="jit") as folder:
        for number, seed in enumerate(SEEDS):
            (Path(folder) / str(number)).write_bytes(seed)
        atheris.Setup([*sys.argv, folder], one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
