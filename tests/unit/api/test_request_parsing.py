"""Multipart forms are read as UTF-8; the part named image is the image, with or without a file name.

The row: `charset=punycode` held a gateway's loop for up to 23 s, and unknown charsets were never forgotten.
"""

import asyncio
import encodings
import random
import time
from typing import Final

import pytest

from api.asgi.request import MAX_CACHED_BYTES, Request, _media_type, cache_short
from api.auth.authentication import _is_local_host
from api.auth.rate_limiter import PRUNE_THRESHOLD, RateLimiter
from api.gateway.retry_after import RetryAfterEstimator
from api.routes.hot_jobs import _prefer_wait
from api.submission.parsing import read_form, read_job_request
from jobs.contract.errors import Refused
from jobs.contract.job_request import JobRequest

PNG: Final = b"\x89PNG\r\n\x1a\n\xff\xfe\x00"
DISPOSITION: Final = 'Content-Disposition: form-data; name="%s"%s'


def part(name: str, value: bytes, more: str = "", headers: str = "") -> bytes:
    return b"--x\r\n" + (DISPOSITION % (name, more)).encode() + headers.encode() + b"\r\n\r\n" + value + b"\r\n"


def read(*parts: bytes, kind: str = "multipart/form-data; boundary=x", end: bytes = b"--x--\r\n") -> JobRequest:
    scope = {"path": "/predict", "method": "POST", "query_string": b"", "headers": [(b"content-type", kind.encode())]}
    return asyncio.run(read_form(Request(scope), b"".join(parts) + end))


IMAGE: Final = part("image", PNG, '; filename="x.png"')


@pytest.mark.parametrize(
    "charset", ["punycode", "idna", "rot13", "utf-16", "latin-1", "klingon", "zip", "unicode_escape"]
)
def test_the_charset_is_ignored(charset: str) -> None:
    kind = f"multipart/form-data; boundary=x; charset={charset}"
    metadata = part("metadata", '{"a":"é"}'.encode(), headers=f"\r\nContent-Type: text/plain; charset={charset}")
    draft = read(IMAGE, part("model", b"m"), metadata, kind=kind)
    assert (draft.model, draft.metadata, draft.image) == ("m", {"a": "é"}, PNG)


def test_a_slow_charset_does_not_slow_down_parsing() -> None:
    """64 kB of punycode cost 0.4 s, and a form may have several such fields."""
    kind = "multipart/form-data; boundary=x; charset=punycode"
    begun = time.process_time()
    with pytest.raises(Refused, match="unknown form field"):
        read(part("f-", b"b" * 65_000), kind=kind)
    with pytest.raises(Refused):
        read(IMAGE, *(part(name, b"b" * 65_000) for name in ("model", "metadata", "lane")), kind=kind)
    assert time.process_time() - begun < 0.5


def test_unknown_charsets_leave_nothing_behind() -> None:
    known = set(encodings._cache)
    for number in range(20):
        read(IMAGE, kind=f"multipart/form-data; boundary=x; charset=klingon-{number}")
        with pytest.raises(Refused):
            read(part("_charset_", f"klingon-{number}".encode()), IMAGE)
    assert set(encodings._cache) == known


@pytest.mark.parametrize("encoding", ["base64", "quoted-printable", "x-uuencode", "7bit"])
def test_the_transfer_encoding_of_a_part_is_ignored(encoding: str) -> None:
    """RFC 7578, 4.7: such a field is deprecated, and its value is ignored."""
    image = part("image", PNG, '; filename="x"', f"\r\nContent-Transfer-Encoding: {encoding}")
    assert read(image).image == PNG


@pytest.mark.parametrize(
    "more", ["; filename*=klingon''%41", "; filename*0*=utf-7''+AEE-; filename*999999999999*=b", "; name*=idna''model"]
)
def test_extended_parameters_are_ignored(more: str) -> None:
    assert read(part("image", PNG, more)).image == PNG


def test_text_that_is_not_utf_8_is_refused() -> None:
    with pytest.raises(Refused, match="'model' is not UTF-8") as refused:
        read(IMAGE, part("model", b"\xff\xfe"))
    assert refused.value.code == "malformed_request"


def test_an_image_without_a_file_name_is_the_image() -> None:
    """curl sends `-F 'image=<x.png'` like this; it used to be decoded as text."""
    large = PNG + random.Random(1).randbytes(200_000)
    assert read(part("image", large)).image == large
    scope = {
        "path": "/v1/jobs",
        "method": "POST",
        "query_string": b"",
        "headers": [(b"content-type", b"multipart/form-data; boundary=x")],
    }
    draft = asyncio.run(read_job_request(Request(scope), part("image", large) + b"--x--"))
    assert draft.image == large


@pytest.mark.parametrize(
    ("parts", "code", "says"),
    [
        ([part("model", b"m")], "invalid_request", "no field named image, audio or text: send one of them"),
        ([IMAGE, part("text", b"a")], "invalid_request", "the fields image and text: send one of them"),
        ([part("text", b"a" * ((1 << 20) + 1))], "body_too_large", "1048576"),
        ([part("text", b"caf\xe9")], "malformed_request", "not UTF-8"),
        ([part("text", b"a"), part("rows", b"2")], "invalid_request", "input.texts"),
        ([IMAGE, IMAGE], "invalid_request", "twice"),
        ([IMAGE, part("model", b"m", '; filename="x"')], "invalid_request", "must be text"),
        ([IMAGE, part("model", b"m" * 70_000)], "body_too_large", "65536"),
        ([IMAGE, part("picture", b"")], "invalid_request", "unknown form field"),
    ],
)
def test_an_unsuitable_form_is_refused(parts: list[bytes], code: str, says: str) -> None:
    with pytest.raises(Refused, match=says) as refused:
        read(*parts)
    assert refused.value.code == code


def test_half_a_form_is_refused() -> None:
    with pytest.raises(Refused, match="ends within a part"):
        read(IMAGE[:-4], end=b"")


def test_headers_of_quotes_and_semicolons_cost_no_more_than_their_length() -> None:
    begun = time.process_time()
    for junk in (";" * 60_000, '";' * 30_000, '="\\";' * 12_000):
        with pytest.raises(Refused):
            read(IMAGE, kind="multipart/form-data; a=" + junk)
    assert time.process_time() - begun < 1


# ---- what is kept of what callers send


def test_cached_headers_are_bounded_in_number_and_size() -> None:
    calls: list[str] = []

    @cache_short(4)
    def read_header(text: str) -> int:
        calls.append(text)
        return len(text)

    for text in ("a", "b", "a", "x" * (MAX_CACHED_BYTES + 1), "x" * (MAX_CACHED_BYTES + 1)):
        assert read_header(text) == len(text)
    assert calls == ["a", "b", "x" * (MAX_CACHED_BYTES + 1), "x" * (MAX_CACHED_BYTES + 1)]


def test_header_caches_keep_only_short_headers() -> None:
    for read_header in (_prefer_wait, _is_local_host):
        kept: dict[str, object] = read_header.__self__  # type: ignore[union-attr] # the cache is a dict
        for number in range(300):
            read_header("1" * 60_000 if number % 2 else f"1{number}")
            assert len(kept) <= 256
            assert all(len(text) <= MAX_CACHED_BYTES for text in kept)
    assert _media_type(b"Image/PNG; a=" + b"b" * 60_000) == "image/png"


def test_tenants_with_a_full_quota_are_forgotten() -> None:
    rates = RateLimiter(60)
    for number in range(3 * PRUNE_THRESHOLD):
        assert rates.take(f"t{number}", 10, now=float(number)).is_allowed
    assert len(rates._full_at) <= PRUNE_THRESHOLD + 1


def test_models_that_are_no_longer_counted_are_forgotten() -> None:
    pace = RetryAfterEstimator()
    for second in range(50):
        pace.observe({f"finished:m{second}:succeeded": 5, f"finished:m{second + 1}:succeeded": 9}, now=float(second))
    assert (len(pace._totals), len(pace._rates)) == (2, 1)


def read_text(body: bytes, query: bytes = b"model=m", kind: bytes = b"text/plain; charset=latin-1") -> JobRequest:
    scope = {"path": "/v1/jobs", "method": "POST", "query_string": query, "headers": [(b"content-type", kind)]}
    return asyncio.run(read_job_request(Request(scope), body))


@pytest.mark.parametrize("head", [b"", b"\xef\xbb\xbf"])
def test_a_text_is_a_raw_body(head: bytes) -> None:
    draft = read_text(head + "né\n".encode(), b'model=m&parameters={"top_k":1}')
    assert (draft.model, draft.text, draft.parameters) == ("m", "né\n".encode(), {"top_k": 1})
    assert (draft.image, draft.raw, draft.tensors, draft.fields) == (None, None, None, None)


@pytest.mark.parametrize(
    ("body", "query", "code", "says"),
    [
        (b"caf\xe9 noir", b"", "invalid_request", "the body is not UTF-8 text: invalid continuation byte at byte 3"),
        ("hé".encode("utf-16"), b"", "invalid_request", "the body is not UTF-8 text"),
        (b"a" * (1 << 20) + b"a", b"", "body_too_large", "the body has 1048577 bytes: a text may have at most 1048576"),
        (b"a", b"rows=2", "invalid_request", 'send several rows as "input.texts"'),
        (b"", b"", "invalid_request", "the body is empty"),
    ],
)
def test_a_text_that_is_refused(body: bytes, query: bytes, code: str, says: str) -> None:
    with pytest.raises(Refused) as refused:
        read_text(body, query)
    assert (refused.value.code, says in refused.value.message) == (code, True), refused.value.message


@pytest.mark.parametrize("more", ["", '; filename="page.txt"'])
@pytest.mark.parametrize("head", [b"", b"\xef\xbb\xbf"])
def test_a_form_may_have_a_text_in_place_of_an_image(more: str, head: bytes) -> None:
    draft = read(part("text", head + "né\n".encode() * 40_000, more), part("model", b"m"))
    assert (draft.model, draft.text, draft.image) == ("m", "né\n".encode() * 40_000, None)
