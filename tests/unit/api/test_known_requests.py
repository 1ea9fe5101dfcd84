"""Requests that differ in their raw input only are admitted once, and each still gets a job of its own."""

from typing import Any

import pytest

from api.gateway.known_requests import MAX_KEPT, KnownRequests
from jobs.contract.job import Submission
from jobs.contract.job_request import JobRequest
from jobs.contract.request_context import REQUEST_CONTEXT, RequestContext

REQUEST = JobRequest(model="m", lane="bulk")
CARD: dict[str, Any] = {"name": "m", "version": "3", "inputs": [{"name": "x", "datatype": "FP32", "shape": [1]}]}
JOB = Submission("00a", "m", "3", "raw", b"1234", "acme", "bulk", 5000, b'{"encoding":"base64"}', b'{"order":"17"}')


@pytest.fixture
def known() -> KnownRequests:
    requests = KnownRequests(shards=1)
    requests.keep(CARD, "acme", REQUEST, JOB)
    return requests


def test_a_known_request_is_a_new_job_with_its_own_input(known: KnownRequests) -> None:
    first, second = (known.admit(CARD, "acme", REQUEST, raw) for raw in (b"abcd", memoryview(b"xefgh")[1:]))
    assert first is not None
    assert second is not None
    assert first == JOB._replace(id=first.id, input=b"abcd")
    assert second == JOB._replace(id=second.id, input=b"efgh")
    assert len({JOB.id, first.id, second.id}) == 3


@pytest.mark.parametrize(
    ("card", "tenant", "request_", "raw"),
    [
        ({**CARD}, "acme", REQUEST, b"abcd"),  # the model was refreshed, or another version is chosen
        (CARD, "other", REQUEST, b"abcd"),
        (CARD, "acme", JobRequest(model="m", lane="bulk"), b"abcd"),
        (CARD, "acme", REQUEST, b"abc"),
    ],
)
def test_another_request_is_not_known(
    known: KnownRequests, card: dict[str, Any], tenant: str, request_: JobRequest, raw: bytes
) -> None:
    assert known.admit(card, tenant, request_, raw) is None


@pytest.mark.parametrize(
    ("card", "job"),
    [
        (CARD, JOB._replace(kind="image")),
        (CARD, JOB._replace(webhook='{"url": "https://example.com"}')),
        ({**CARD, "inputs": [{"name": "x", "datatype": "BOOL", "shape": [4]}]}, JOB),  # its values are checked
    ],
)
def test_a_request_whose_input_is_looked_at_is_not_kept(card: dict[str, Any], job: Submission) -> None:
    requests = KnownRequests(shards=1)
    requests.keep(card, "acme", REQUEST, job)
    assert requests.admit(card, "acme", REQUEST, b"abcd") is None


def test_the_job_has_the_context_of_its_own_request(known: KnownRequests) -> None:
    context = RequestContext("r-7", "")
    token = REQUEST_CONTEXT.set(context)
    try:
        job = known.admit(CARD, "acme", REQUEST, b"abcd")
    finally:
        REQUEST_CONTEXT.reset(token)
    assert job is not None
    assert job.request_context == context
    again = known.admit(CARD, "acme", REQUEST, b"abcd")
    assert again is not None
    assert again.request_context is None


def test_few_requests_are_kept(known: KnownRequests) -> None:
    others = [JobRequest(model=str(number)) for number in range(MAX_KEPT)]
    for other in others:
        known.keep(CARD, "acme", other, JOB)
    assert known.admit(CARD, "acme", REQUEST, b"abcd") is None
    assert known.admit(CARD, "acme", others[-1], b"abcd") is not None
