"""`make fuzz`: a coverage-guided fuzzer over all that reads what others wrote: requests, keys, records, notices.

Each may refuse, in its own terms; anything else that is raised is a fault. Needs atheris, which the make target
installs. Exit code 77: a fault was found; its input is kept and shown.
"""

import asyncio
import contextlib
import logging
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

import atheris

with atheris.instrument_imports(include=["api", "jobs", "multipart", "python_multipart", "starlette.formparsers"]):
    from api import many
    from api.callers import _is_here, _key_of
    from api.deadletters import _place, read_time
    from api.drafts import read_draft
    from api.hot import _prefer_wait, _wait_seconds
    from api.receiving import Request, read_query
    from api.settings import GatewaySettings
    from jobs import codec, events, keyring, tenants, tensors
    from jobs.admission import admit, check_key
    from jobs.catalogue import Catalogue
    from jobs.drafts import Draft
    from jobs.errors import JitneyError
    from jobs.registry import Announced

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


class _Known(Catalogue):
    """A catalogue that has looked once."""

    def __init__(self) -> None:
        super().__init__(None, "m")  # type: ignore[arg-type] # it never asks
        self.announced, self._looked = Announced([CARD], []), True


CATALOGUE: Final = _Known()
GUARD: Final = GatewaySettings().guard()
WRITER: Final = codec.Writer()


def request(data: bytes) -> None:
    """Read a whole request, up to the job that is made of it."""
    given = atheris.FuzzedDataProvider(data)
    kind = TYPES[given.ConsumeIntInRange(0, len(TYPES) - 1)]
    if kind.startswith(b"multipart") and given.ConsumeBool():
        kind = b"multipart/form-data" + given.ConsumeBytes(40)
    query = given.ConsumeBytes(given.ConsumeIntInRange(0, 60)) if given.ConsumeBool() else b""
    body = given.ConsumeBytes(given.remaining_bytes())
    headers = [(b"content-type", kind), (b"authorization", body[:50]), (b"host", body[:30])]
    scope = {"path": "/v1/jobs", "query_string": query, "headers": headers}
    asked = Request(scope)
    _key_of(asked)
    _is_here(asked.header(b"host"))
    if many.is_many(asked, body):
        for draft in many.read_drafts(asked, body, 20).read():
            if not isinstance(draft, JitneyError):
                taken(draft)
    else:
        taken(LOOP.run_until_complete(read_draft(asked, body)))


def taken(draft: Draft) -> None:
    """Make a job of a draft, and its words for the queue; a tensor job is read back as a worker does."""
    with contextlib.suppress(JitneyError):
        job = admit(draft, CATALOGUE, GUARD, tenant="t", idempotency_key="k", shards=3, max_deadline_ms=1000)
        WRITER.submission(job, "", "")
        if job.kind == "tensors":
            assert {name: one.data for name, one in tensors.unpack(job.input).items()}


def heads(data: bytes) -> None:
    """Read what stands in heads: queries, keys, preferences, cursors, times."""
    text = data.decode("latin-1")
    readers: tuple[Callable[[str], object], ...] = (
        *(check_key, _prefer_wait, keyring.id_of, _place, keyring.digest_of),
        *(lambda text: read_time("since", text), lambda text: _wait_seconds(text, 60)),
        events._PLACE.fullmatch,
        lambda text: read_query(text.encode("latin-1"), ("model", "lane")),
    )
    for read in readers:
        with contextlib.suppress(JitneyError):
            read(text)


def records(data: bytes) -> None:
    """Read what lies in the queue, where others may have written."""
    given = atheris.FuzzedDataProvider(data)
    values = [given.ConsumeBytes(given.ConsumeIntInRange(0, 12)) or None for _ in codec.READ_FIELDS]
    if given.ConsumeBool():
        known = [b"1", b"running", b"m", b"1", b"interactive", b"t", b"5", b"1"]
        values = [mine or theirs for mine, theirs in zip([*known, *[None] * 7], values, strict=True)]
    codec.read_job("00" + "0" * 32, values)
    rest = given.ConsumeBytes(given.remaining_bytes())
    keyring._key(rest)
    deviations = lambda text: tenants.read_deviations(text.decode("latin-1"))  # noqa: E731 - one line says it
    for read in (codec.read_notice, codec.read_handed, tensors.unpack, deviations):
        with contextlib.suppress(ValueError, JitneyError):
            read(rest)


TARGETS: Final = (request, request, heads, records)


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
    *(b"\3" + text for text in (b'[["00",1,"queued"]]', b'{"a":{"weight":3}}', tensors.pack({}))),
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
