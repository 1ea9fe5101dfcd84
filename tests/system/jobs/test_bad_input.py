"""Invalid requests get a 4xx that names the limit and what is allowed; never a 5xx, never a hang."""

import base64
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.support import models
from tests.support.odd_images import expected_answers
from tests.support.service import DIGITS, Service

PNG = b"\x89PNG\r\n\x1a\n"
MULTIPART = "multipart/form-data; boundary=x"
TENSOR = {"datatype": "FP32", "shape": [4], "data": [1, 2, 3, 4]}


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Serve digits (an image model) and double (a tensor model); bodies up to 1 MB."""
    models_dir = tmp_path_factory.mktemp("models")
    models.doubling(models_dir)
    (models_dir / "digits").symlink_to(Path(__file__).parents[3] / "models" / "digits")
    with Service(models_dir, {"JITNEY_MAX_BODY_BYTES": "1000000"}) as service:
        yield service


def image(data: bytes) -> str:
    return base64.b64encode(data).decode()


def job(**fields: Any) -> dict[str, Any]:
    return {"model": "digits", "input": {"image": image(DIGITS[0].read_bytes())}, **fields}


def tensor(**fields: Any) -> dict[str, Any]:
    given = {name: value for name, value in {**TENSOR, **fields}.items() if value is not None}
    return {"model": "double", "input": {"tensors": {"x": given}}}


def nested(depth: int) -> list[Any]:
    return [nested(depth - 1)] if depth else []


BAD_JSON: dict[str, tuple[Any, int, str, str]] = {
    "unknown model": (job(model="nope"), 404, "model_not_found", "digits"),
    "a model that is no name": (job(model=["digits"]), 422, "invalid_request", "model"),
    "no model named of two": ({"input": job()["input"]}, 422, "model_required", "double"),
    "no input": ({"model": "digits"}, 422, "invalid_request", "tensors"),
    "an unknown field": (job(imput=1), 422, "invalid_request", "deadline_ms"),
    "an unknown input": (job(input={"video": ""}), 422, "invalid_request", "image"),
    "not base64": (job(input={"image": "###"}), 400, "malformed_request", "base64"),
    "an empty image": (job(input={"image": ""}), 422, "invalid_image", "0 bytes"),
    "text as an image": (job(input={"image": image(b"hello")}), 415, "unsupported_media_type", "JPEG"),
    "an unknown lane": (job(lane="fast"), 422, "invalid_request", "bulk"),
    "no deadline": (job(deadline_ms=0), 422, "invalid_request", "at least 1"),
    "a deadline of text": (job(deadline_ms="5"), 422, "invalid_request", "whole number"),
    "a deadline in a year": (job(deadline_ms=10**11), 422, "invalid_request", "86400000"),
    "metadata of numbers": (job(metadata={"a": 1}), 422, "invalid_request", "strings"),
    "too much metadata": (job(metadata={str(n): "" for n in range(17)}), 422, "invalid_request", "16"),
    "parameters that are no object": (job(parameters=[1]), 422, "invalid_request", "parameters"),
    "parameters of 100 kB": (job(parameters={"a": "x" * 100_000}), 422, "invalid_request", "65536"),
    "parameters nested 500 deep": (job(parameters={"a": nested(500)}), 422, "invalid_request", "parameters"),
    "a word": ("job", 422, "invalid_request", "object"),
    "an array of what is no job": ([[job()]], 422, "invalid_request", "object"),
    "tensors for an image model": ({**tensor(), "model": "digits"}, 422, "invalid_input", "image"),
    "an image for a tensor model": (job(model="double"), 422, "invalid_input", "tensors"),
    "another tensor": ({"model": "double", "input": {"tensors": {"z": TENSOR}}}, 422, "invalid_input", "'x'"),
    "a wrong datatype": (tensor(datatype="INT8"), 422, "invalid_input", "FP32"),
    "a wrong shape": (tensor(shape=[5]), 422, "invalid_input", "[4]"),
    "a shape below zero": (tensor(shape=[-4]), 422, "invalid_request", "whole numbers from 0"),
    "too few numbers": (tensor(data=[1]), 422, "invalid_input", "4 values"),
    "words as numbers": (tensor(data=["a", "b", "c", "d"]), 422, "invalid_input", "FP32"),
    "neither data nor b64": (tensor(data=None), 422, "invalid_request", "b64"),
    "b64 of a wrong size": (tensor(data=None, b64="AAAA"), 422, "invalid_input", "16 bytes"),
    "b64 that is none": (tensor(data=None, b64="#"), 400, "malformed_request", "b64"),
}


@pytest.mark.parametrize("case", BAD_JSON)
def test_bad_json_is_refused_with_what_is_allowed(two: Service, case: str) -> None:
    body, status, code, says = BAD_JSON[case]
    assert_problem(two.http.post("/v1/jobs", json=body), status, code, says)


def part(name: str) -> bytes:
    return b'--x\r\nContent-Disposition: form-data; name="' + name.encode() + b'"\r\n\r\n1\r\n'


BODIES: dict[str, tuple[str, bytes, int, str, str]] = {
    "broken JSON": ("application/json", b'{"model":', 400, "malformed_request", "JSON"),
    "no JSON at all": ("application/json", b"", 400, "malformed_request", "JSON"),
    "NaN": ("application/json", b'{"input": NaN}', 400, "malformed_request", "JSON"),
    "deep JSON": ("application/json", b"[" * 100_000, 422, "invalid_request", "254 levels"),
    "curl's own content type": ("application/x-www-form-urlencoded", PNG, 415, "unsupported_media_type", "image/*"),
    "0 bytes": ("image/png", b"", 422, "invalid_request", "empty"),
    "no image": ("image/png", b"GIF", 415, "unsupported_media_type", "GIF"),
    "too large": ("image/png", PNG + b"0" * 1_000_000, 413, "body_too_large", "1000000"),
    "a form without an end": (
        MULTIPART,
        b'--x\r\nContent-Disposition: form-data; name="image"',
        422,
        "invalid_request",
        "image",
    ),
    "a form without a boundary": ("multipart/form-data", b"--x--", 400, "malformed_request", "multipart"),
    "a form of junk": (MULTIPART, b"\xff\x00junk", 400, "malformed_request", "multipart"),
    "a form with an unknown field": (MULTIPART, part("picture") + b"--x--", 422, "invalid_request", "image"),
    "a form with a field twice": (MULTIPART, part("image") * 100 + b"--x--", 422, "invalid_request", "twice"),
    "an odd size for a tensor": ("application/octet-stream", b"123", 422, "model_required", "double"),
}


@pytest.mark.parametrize("case", BODIES)
def test_bad_bodies_are_refused_with_what_is_allowed(two: Service, case: str) -> None:
    content_type, body, status, code, says = BODIES[case]
    query = {"model": "digits"} if body == b"GIF" else {}
    answer = two.http.post("/v1/jobs", content=body, params=query, headers={"content-type": content_type})
    assert_problem(answer, status, code, says)


REQUESTS: dict[str, tuple[str, str, dict[str, str], int, str, str]] = {
    "an unknown job": ("GET", "/v1/jobs/00" + "0" * 32, {}, 404, "job_not_found", "3600 s"),
    "a job id that is none": ("GET", "/v1/jobs/..%2f..", {}, 404, "route_not_found", "jobs"),
    "a job id of another shard": ("GET", "/v1/jobs/98" + "0" * 32, {}, 404, "job_not_found", "no job"),
    "a job id too long": ("GET", "/v1/jobs/" + "0" * 5000, {}, 404, "job_not_found", "no job"),
    "waiting for an unknown job": ("GET", "/v1/jobs/00" + "0" * 32 + "?wait=5", {}, 404, "job_not_found", "no job"),
    "canceling an unknown job": ("DELETE", "/v1/jobs/00" + "0" * 32, {}, 404, "job_not_found", "no job"),
    "a wait below zero": ("GET", "/v1/jobs/00" + "0" * 32 + "?wait=-1", {}, 422, "invalid_request", "cut to 58 s"),
    "a wait that is none": ("GET", "/v1/jobs/00" + "0" * 32 + "?wait=soon", {}, 422, "invalid_request", "seconds"),
    "an unknown query": ("GET", "/v1/jobs/00" + "0" * 32 + "?wiat=1", {}, 422, "invalid_request", "wait"),
    "a preference below zero": ("POST", "/v1/jobs", {"prefer": "wait=-1"}, 422, "invalid_request", "0 or more"),
    "a page of a million": ("GET", "/v1/jobs?limit=1000000", {}, 422, "invalid_request", "100"),
    "an unknown query of a list": ("GET", "/v1/jobs?state=queued", {}, 422, "invalid_request", "cursor"),
    "a cursor that is none": ("GET", "/v1/jobs?cursor=x", {}, 422, "invalid_request", "next_cursor"),
    "no such path": ("GET", "/v3/jobs", {}, 404, "route_not_found", "/v3/jobs"),
    "no such method": ("PUT", "/v1/jobs", {}, 405, "method_not_allowed", "PUT"),
    "predict by GET": ("GET", "/predict", {}, 405, "method_not_allowed", "GET"),
    "predict without a form": (
        "POST",
        "/predict",
        {"content-type": "image/png"},
        415,
        "unsupported_media_type",
        "multipart",
    ),
    "a key with spaces": (
        "POST",
        "/v1/jobs?model=double",
        {"idempotency-key": "a b", "content-type": "application/octet-stream"},
        422,
        "invalid_request",
        "spaces",
    ),
}


@pytest.mark.parametrize("case", REQUESTS)
def test_bad_requests_are_refused_with_what_is_allowed(two: Service, case: str) -> None:
    method, path, headers, status, code, says = REQUESTS[case]
    body = struct.pack("<4f", 1, 2, 3, 4) if "octet-stream" in str(headers) else b""
    answer = two.http.request(method, path, headers=headers, content=body)
    assert_problem(answer, status, code, says)
    if path == "/predict" and method == "POST":
        assert answer.json()["success"] is False


def test_an_error_found_by_decoding_fails_that_job_alone(two: Service) -> None:
    good, cut = DIGITS[0].read_bytes(), DIGITS[0].read_bytes()[:-200]
    ids = [two.submit(data, model="digits").json()["id"] for data in (good, cut, good)]
    jobs = [two.final(job_id) for job_id in ids]
    assert [job["status"] for job in jobs] == ["succeeded", "failed", "succeeded"]
    assert (jobs[1]["error"]["code"], jobs[1]["error"]["status"]) == ("invalid_image", 422)
    assert jobs[1]["output"] is None
    answer = two.http.post("/predict", files={"image": cut}, data={"model": "digits"})
    assert_problem(answer, 422, "invalid_image", "damaged or truncated")
    assert answer.json()["success"] is False


def test_invalid_model_parameters_fail_that_job_alone(two: Service) -> None:
    for parameters in ({"top_k": 0}, {"top_k": "x"}, {"beam": 3}):
        answer = two.http.post("/v1/jobs", json=job(parameters=parameters), headers={"prefer": "wait=10"}).json()
        assert (answer["status"], answer["error"]["code"]) == ("failed", "invalid_request")
        assert "top_k" in answer["error"]["message"]


def test_odd_images_get_exactly_the_expected_answers(two: Service, shared_data: Path) -> None:
    expected = expected_answers(shared_data)
    wrong = {}
    for name, entry in expected.items():
        data = (shared_data / "odd" / name).read_bytes()
        answer = two.http.post("/predict", files={"image": (name, data)}, data={"model": "digits"})
        code = answer.json().get("code")
        if (answer.status_code, code) != (entry["expect"], entry.get("code")):
            wrong[name] = (answer.status_code, code, entry)
    assert not wrong


def assert_problem(answer: httpx2.Response, status: int, code: str, says: str) -> None:
    """All refusals have one shape and contain the helpful fact."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert (body["status"], body["code"]) == (status, code)
    assert {"type", "title", "detail"} <= set(body)
    assert says in json.dumps(body), body
    assert "Traceback" not in answer.text
