"""A job's life for a caller: wait, poll, list, cancel, keys, deadlines, several gateways at once."""

import re
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support import models
from tests.support.service import Service

BODY = struct.pack("<4f", 1, 2, 3, 4)
RAW = {"content-type": "application/octet-stream"}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Serve one quick and one slow tensor model."""
    models_dir = tmp_path_factory.mktemp("models")
    models.doubling(models_dir)
    models.slow(models_dir)
    with Service(models_dir) as service:
        yield service


def test_a_job_shows_all_documented_fields(mixed: Service) -> None:
    body = {
        "model": "double",
        "input": {"tensors": {"x": {"datatype": "FP32", "shape": [4], "data": [1, 2, 3, 4]}}},
        "metadata": {"who": "me"},
        "lane": "bulk",
    }
    job = mixed.http.post("/v1/jobs", json=body, headers={"prefer": "wait=10"}).json()
    assert list(job) == [
        *("id", "model", "version", "status", "lane", "created_at", "started_at", "finished_at", "attempts", "output"),
        *("error", "timings", "batch_size", "position", "eta_ms", "metadata", "urls"),
    ]
    assert (job["status"], job["attempts"], job["lane"], job["metadata"]) == ("succeeded", 1, "bulk", {"who": "me"})
    assert job["output"] == {"tensors": {"y": {"datatype": "FP32", "shape": [4], "data": [2, 4, 6, 8]}}}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", job["finished_at"])
    assert re.fullmatch(r"\d\d[0-9a-f]{32}", job["id"])
    times = job["timings"]
    assert 0 <= times["queue"] + times["decode"] + times["batch"] + times["infer"] <= times["total"]


def test_every_route_to_a_tensor_model_gives_the_same(mixed: Service) -> None:
    b64 = {"datatype": "FP32", "shape": [4], "b64": "AACAPwAAAEAAAEBAAACAQA=="}
    by_json = mixed.http.post(
        "/v1/jobs", json={"model": "double", "input": {"tensors": {"x": b64}}}, headers={"prefer": "wait=10"}
    )
    by_bytes = mixed.submit(BODY, RAW["content-type"], wait=10, model="double")
    assert by_json.json()["output"] == by_bytes.json()["output"]


def test_a_wait_that_times_out_returns_the_current_job(mixed: Service) -> None:
    for _ in range(40):
        mixed.submit(BODY, RAW["content-type"], model="slow")
    answer = mixed.submit(BODY, RAW["content-type"], wait=1, model="slow")
    assert (answer.status_code, answer.headers["preference-applied"]) == (202, "wait=1")
    job = mixed.http.get(answer.headers["location"]).json()
    assert job["status"] in {"queued", "running"}
    if job["status"] == "queued":
        assert job["position"] >= 1
    assert mixed.final(job["id"])["status"] == "succeeded"


def test_many_callers_can_wait_for_one_job(mixed: Service) -> None:
    job_id = mixed.submit(BODY, RAW["content-type"], model="slow").json()["id"]
    with ThreadPoolExecutor(8) as callers:
        answers = list(callers.map(lambda _: mixed.final(job_id), range(8)))
    assert all(answer == answers[0] for answer in answers)


def test_a_queued_job_can_be_canceled_and_a_final_one_not(mixed: Service) -> None:
    ids = [mixed.submit(BODY, RAW["content-type"], model="slow").json()["id"] for _ in range(40)]
    canceled = mixed.http.delete(f"/v1/jobs/{ids[-1]}")
    assert (canceled.status_code, canceled.json()["status"]) == (200, "canceled")
    again = mixed.http.delete(f"/v1/jobs/{ids[-1]}")
    assert (again.status_code, again.json()["code"]) == (409, "job_already_final")
    assert {mixed.final(job_id)["status"] for job_id in ids[:-1]} == {"succeeded"}


def test_jobs_are_listed_newest_first_page_by_page(mixed: Service) -> None:
    ids = [mixed.submit(BODY, RAW["content-type"], model="double").json()["id"] for _ in range(5)]
    listed, cursor = [], ""
    for _ in range(3):
        page = mixed.http.get("/v1/jobs", params={"limit": 2, "cursor": cursor} if cursor else {"limit": 2}).json()
        listed += [job["id"] for job in page["jobs"]]
        cursor = page["next_cursor"]
    assert listed[:5] == ids[::-1]


def test_the_same_key_gives_the_same_job(mixed: Service) -> None:
    def send(body: bytes, **headers: str) -> tuple[int, str, str | None]:
        answer = mixed.http.post(
            "/v1/jobs?model=double", content=body, headers={**RAW, "idempotency-key": "k1", **headers}
        )
        return answer.status_code, answer.json().get("id"), answer.headers.get("idempotent-replayed")

    with ThreadPoolExecutor(8) as callers:
        answers = list(callers.map(lambda _: send(BODY), range(16)))
    assert len({job_id for _, job_id, _ in answers}) == 1
    assert [replayed for *_, replayed in answers].count(None) == 1
    assert send(BODY, prefer="wait=10") == (200, answers[0][1], "true")
    other = mixed.http.post("/v1/jobs?model=double", content=BODY[::-1], headers={**RAW, "idempotency-key": "k1"})
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_mismatch")


def test_an_overdue_job_expires_and_says_so(mixed: Service) -> None:
    for _ in range(40):
        mixed.submit(BODY, RAW["content-type"], model="slow")
    job_id = mixed.submit(BODY, RAW["content-type"], model="slow", deadline_ms="100").json()["id"]
    job = mixed.final(job_id, 10)
    assert (job["status"], job["error"]["code"], job["error"]["status"]) == ("expired", "deadline_exceeded", 504)


def test_the_openapi_description_names_every_route(mixed: Service) -> None:
    paths = mixed.http.get("/openapi.json").json()["paths"]
    doors = {(path, method) for path, methods in paths.items() for method in methods}
    assert doors >= {
        *{("/v1/jobs", "post"), ("/v1/jobs", "get"), ("/v1/jobs/{job_id}", "get"), ("/v1/jobs/{job_id}", "delete")},
        *{("/predict", "post"), ("/v1/models", "get"), ("/healthz", "get"), ("/readyz", "get"), ("/metrics", "get")},
    }


def test_the_page_is_served_with_a_strict_policy(mixed: Service) -> None:
    page = mixed.http.get("/")
    assert page.status_code == 200
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "<canvas" in page.text
