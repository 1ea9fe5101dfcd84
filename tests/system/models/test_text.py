"""Models for text over HTTP, in batches, in bulk runs and offline: exact answers, and errors on their job alone."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs.contract.input_fields import MAX_INPUT_TEXT_BYTES
from tests.support import bulk, models
from tests.support.model_files import text
from tests.support.model_files.text import TABLE, ids_of
from tests.support.service import Service
from tests.support.sockets import connect

LONG = 10_000_000  # bytes of a text that is too long
PAIR = {"query": "red", "documents": ["blue", "green green"]}
SCORES = [(1 + 4 + 2) * 100 + 6 + 2, (1 + 4 + 2) * 100 + 5 + 5 + 2]
# A task of one's own that takes text, with a model that doubles 4 numbers.
LENGTHS = """
import numpy as np
from jitney import Task


class Lengths(Task):
    kinds = frozenset({"text"})

    def preprocess(self, kind, data, parameters):
        return {"x": np.array([len(data), len(data.decode()), 0, 0], np.float32)}

    def postprocess(self, outputs, parameters):
        return {name: array.tolist() for name, array in outputs.items()}
"""


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    text.encoder(folder, toml='task = "text-embedding"\nmax_wait_ms = 20\nmax_rows = 4\n[text]\nnormalize = false')
    text.encoder(folder, "wide", toml='task = "text-embedding"\nmax_rows = 1000\n[text]\nnormalize = false')
    text.classifier(folder)
    text.tagger(folder)
    text.ranker(folder)
    own = models.doubling(folder, "own", 'task = "lengths.py:Lengths"')
    (own / "lengths.py").write_text(LENGTHS)
    return folder


@pytest.fixture(scope="module")
def service(models_dir: Path) -> Iterator[Service]:
    with Service(models_dir) as started:
        yield started


def submit(service: Service, model: str, job_input: Any, **fields: Any) -> dict[str, Any]:
    """The job, or the problem, that a synchronous submit answers."""
    job = {"model": model, "input": job_input, **fields}
    body: dict[str, Any] = service.http.post("/v1/jobs", json=job, headers={"prefer": "wait=10"}).json()
    return body


def test_the_rows_of_a_job_are_preprocessed_once_for_all(service: Service) -> None:
    """Rows went to several threads in fours, and those that began second ran without arrays."""
    texts = [("red", "green", "blue blue")[at % 3] for at in range(300)]
    job = submit(service, "wide", {"texts": texts})
    assert job["status"] == "succeeded", job["error"]
    assert job["output"]["rows"] == [embedding(*text.split()) for text in texts]


def embedding(*words: str) -> dict[str, Any]:
    vector = (TABLE[ids_of(*words)].mean(axis=0) * 2).tolist()
    return {
        "embedding": pytest.approx(vector, rel=1e-6, abs=1e-6),
        "dimensions": 4,
        "tokens": len(words) + 2,
        "truncated": False,
    }


def test_each_task_answers(service: Service) -> None:
    assert submit(service, "encoder", {"text": "red green"})["output"] == embedding("red", "green")
    rows = submit(service, "encoder", {"texts": ["red", "Anna likes green Oslo"]})["output"]
    assert rows == {"rows": [embedding("red"), embedding("Anna", "likes", "green", "Oslo")]}
    best = submit(service, "colors", {"text": "blue blue"}, parameters={"top_k": 1})["output"]["predictions"]
    assert best == [{"label": "blue", "index": 2, "probability": 0.5}]
    (entity,) = submit(service, "names", {"text": "red Anna Smith"})["output"]["entities"]
    assert entity == {"label": "PER", "start": 4, "end": 14, "score": 0.75, "text": "Anna Smith"}
    assert [row["score"] for row in submit(service, "ranker", PAIR)["output"]["rows"]] == SCORES


def test_token_ids_take_the_place_of_texts(service: Service) -> None:
    assert submit(service, "encoder", {"tokens": ids_of("red", "green")})["output"] == embedding("red", "green")
    rows = submit(service, "encoder", {"tokens": [ids_of("red"), ids_of("Oslo", "red")]})["output"]
    assert rows == {"rows": [embedding("red"), embedding("Oslo", "red")]}
    best = submit(service, "colors", {"tokens": ids_of("blue", "blue")}, parameters={"top_k": 1})["output"]
    assert best["predictions"] == [{"label": "blue", "index": 2, "probability": 0.5}]
    jobs = [{"model": "encoder", "input": {"tokens": ids}} for ids in ([[4], [5, 11]], [4, 11], ids_of("red"))]
    answered = service.http.post("/v1/jobs", json=jobs, headers={"prefer": "wait=10"}).json()["jobs"]
    message = "token id 11 is none of the model's; allowed: 0 to 10, the ids of this model's tokenizer"
    assert [job["error"] and (job["error"]["message"], job["error"].get("row")) for job in answered] == [
        (message, 1),
        (message, None),
        None,
    ]
    assert answered[2]["output"] == embedding("red")


def test_a_raw_body_is_a_text(service: Service) -> None:
    headers = {"content-type": "text/plain; charset=utf-8", "prefer": "wait=10"}
    answered = service.http.post("/v1/jobs?model=names", content="é Oslo".encode(), headers=headers).json()
    assert answered["output"]["entities"][0]["start"] == 2
    problem = service.http.post("/v1/jobs?model=names", content=b"caf\xe9", headers=headers).json()
    assert (problem["status"], problem["detail"]) == (
        422,
        "the body is not UTF-8 text: unexpected end of data at byte 3",
    )


def test_a_form_may_have_a_text(service: Service) -> None:
    files = {"text": ("page.txt", b"green green red")}
    answer = service.http.post("/predict", files=files, data={"model": "colors"}).json()
    assert answer["predictions"][0] == {"label": "green", "probability": 0.4}
    job = service.http.post("/v1/jobs", data={"text": "red", "model": "encoder"}, files={"lane": (None, "bulk")}).json()
    assert service.final(job["id"])["output"] == embedding("red")


@pytest.mark.parametrize("path", ["/predict", "/v1/jobs"])
@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"caf\xe9", (400, "malformed_request", "form field 'text' is not UTF-8; other charsets are not supported")),
        (b"a" * LONG, (413, "body_too_large", "form field 'text' is larger than the limit of 1048576 bytes")),
    ],
)
def test_a_form_with_a_bad_text(service: Service, path: str, content: bytes, expected: tuple[int, str, str]) -> None:
    files = {"text": ("page.txt", content)}
    refused = service.http.post(path, files=files, data={"model": "colors"})
    assert (refused.status_code, refused.json()["code"], refused.json()["detail"]) == expected


def test_predict_takes_forms_alone(service: Service) -> None:
    headers = {"content-type": "text/plain"}
    refused = service.http.post("/predict", content=b"red", headers=headers)
    assert (refused.status_code, refused.json()["allowed"]) == (415, ["multipart/form-data"])


def test_a_long_text_is_refused_before_it_is_received(service: Service) -> None:
    """The head alone is sent: it declares 10 MB."""
    head = (
        f"POST /v1/jobs?model=encoder HTTP/1.1\r\nHost: a\r\nContent-Type: text/plain\r\nContent-Length: {LONG}\r\n\r\n"
    )
    with connect(int(service.url.rpartition(":")[2])) as connection:
        connection.sendall(head.encode())
        answer = connection.recv(1 << 16)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"the request body is larger than the limit of 1048576 bytes" in answer
    packed = gzip.compress(b"a" * LONG)
    headers = {"content-type": "text/plain", "content-encoding": "gzip"}
    refused = service.http.post("/v1/jobs?model=encoder", content=packed, headers=headers)
    assert (refused.status_code, refused.json()["limit_bytes"]) == (413, MAX_INPUT_TEXT_BYTES)
    whole = service.http.post(
        "/v1/jobs?model=wide", content=b"a" * MAX_INPUT_TEXT_BYTES, headers={"content-type": "text/plain"}
    )
    assert service.final(whole.json()["id"])["status"] == "succeeded"


def test_limits_of_one_job(service: Service) -> None:
    """Each is an error of its job alone; 4,000 texts and 4,000 lists of ids for a model of 1,000 rows."""
    jobs: list[Any] = [
        {"text": "a" * LONG},
        {"texts": ["red"] * 4000},
        {"tokens": [[4]] * 4000},
        {"texts": ["red", "a" * (MAX_INPUT_TEXT_BYTES + 1)]},
        {"text": "red"},
    ]
    body = [{"model": "wide", "input": each} for each in jobs]
    answered = service.http.post("/v1/jobs", json=body, headers={"prefer": "wait=10"}).json()["jobs"]
    rows = "a job for model wide may have at most 1000 rows, and this one has 4000: send several jobs"
    found = [(error["status"], error["message"]) for error in (job["error"] for job in answered[:-1])]
    assert found == [
        (413, 'field "input.text" has 10000000 characters: a text may have at most 1048576 bytes in UTF-8'),
        (422, rows),
        (422, rows),
        (413, '"input.texts"[1] has 1048577 characters: a text may have at most 1048576 bytes in UTF-8'),
    ]
    assert [job["error"].get("limit") for job in answered[1:3]] == [1000, 1000]
    assert answered[-1]["output"] == embedding("red")


def test_a_task_of_ones_own_takes_text(service: Service) -> None:
    assert submit(service, "own", {"text": "é!"})["output"] == {"y": [6.0, 4.0, 0.0, 0.0]}
    assert submit(service, "own", {"texts": ["a"]})["status"] == 422


def test_a_bad_text_fails_its_own_job_alone(service: Service) -> None:
    jobs: list[Any] = [{"text": "red " * (at % 9 + 1)} for at in range(40)]
    jobs[3], jobs[7] = {"text": "a" * (MAX_INPUT_TEXT_BYTES + 1)}, {"text": None}
    jobs[11], jobs[12] = {"texts": ["red"] * 5}, {"texts": ["red", "green"]}
    body = [{"model": "encoder", "input": each} for each in jobs]
    body[15]["parameters"] = {"dimensions": 9}
    answered = service.http.post("/v1/jobs", json=body, headers={"prefer": "wait=10"}).json()["jobs"]
    errors = {at: job["error"] for at, job in enumerate(answered) if job.get("error")}
    assert {at: (error["code"], error["message"]) for at, error in errors.items()} == {
        3: (
            "body_too_large",
            'field "input.text" has 1048577 characters: a text may have at most 1048576 bytes in UTF-8',
        ),
        7: ("invalid_request", 'field "input.text" must be text, not null'),
        11: (
            "invalid_request",
            "a job for model encoder may have at most 4 rows, and this one has 5: send several jobs",
        ),
        15: ("invalid_request", "parameter 'dimensions' is 9; allowed: a whole number from 1 to 4"),
    }
    assert answered[12]["output"] == {"rows": [embedding("red"), embedding("green")]}
    good = [at for at in range(40) if at not in errors and at != 12]
    assert all(answered[at]["output"] == embedding(*["red"] * (at % 9 + 1)) for at in good)
    assert max(answered[at]["batch_size"] for at in good) > 4


@pytest.mark.parametrize(
    ("model", "job_input", "message"),
    [
        ("encoder", PAIR, "model encoder does not accept 'query'"),
        ("names", {"tokens": [4]}, "model names does not accept 'tokens'"),
        ("ranker", {"text": "red"}, "model ranker does not accept text"),
        ("encoder", {"image": "AAAA"}, "model encoder does not accept an image"),
        ("encoder", {"query": "red"}, 'field "input" must be an object with one of the allowed fields'),
    ],
)
def test_inputs_that_the_model_does_not_take(service: Service, model: str, job_input: Any, message: str) -> None:
    problem = submit(service, model, job_input)
    assert (problem["status"], message in problem["detail"]) == (422, True), problem


def test_the_same_key_with_another_text_is_another_request(service: Service) -> None:
    def post(content: str) -> tuple[int, Any]:
        job = {"model": "encoder", "input": {"text": content}}
        headers = {"idempotency-key": "text-1", "prefer": "wait=10"}
        answered = service.http.post("/v1/jobs", json=job, headers=headers)
        return answered.status_code, answered.json().get("code")

    assert [post("red"), post("red"), post("green")] == [(200, None), (200, None), (422, "idempotency_mismatch")]


@pytest.mark.parametrize(
    "case",
    [
        ("encoder", [{"text": "red " * (at % 12 + 1)} for at in range(150)], {"text": 5}),
        ("encoder", [{"texts": ["red", f"green {'blue ' * (at % 5)}"]} for at in range(60)], {"texts": []}),
        ("encoder", [{"tokens": [1, *[4 + at % 5] * (at % 7), 2]} for at in range(60)], {"tokens": [3, 11]}),
        ("encoder", [{"tokens": [[1, 4], [5, at % 9]]} for at in range(20)], {"tokens": [3, -1]}),
        ("ranker", [PAIR] * 30, {"query": "red", "documents": "blue"}),
    ],
)
def test_bulk_runs_offline_and_by_the_service_agree(
    service: Service, models_dir: Path, tmp_path: Path, case: tuple[str, list[Any], Any]
) -> None:
    model, inputs, bad = case
    inputs = [*inputs[:3], bad, *inputs[3:]]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"input": each}) + "\n" for each in inputs))
    args = (tmp_path / "in.jsonl", "-o")
    assert bulk.run(*args, tmp_path / "l.jsonl", "--local", models_dir / model).code == 1
    assert bulk.run(*args, tmp_path / "s.jsonl", "--url", service.url, "--model", model).code == 1
    local, remote = (bulk.read_complete_rows(tmp_path / name, len(inputs)) for name in ("l.jsonl", "s.jsonl"))
    assert [row["output"] for row in local] == [row["output"] for row in remote]
    assert [at for at, row in enumerate(local) if row["error"]] == [3]
    assert local[3]["error"]["message"] == remote[3]["error"]["message"]
    if model == "ranker":
        assert [row["score"] for row in local[0]["output"]["rows"]] == SCORES
