"""Embeddings by OpenAI's client, and rerank: the answers of the text tasks in the formats of these APIs."""

from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.support import models
from tests.support.bulks import client
from tests.support.model_files import text
from tests.support.model_files.text import TABLE, ids_of
from tests.support.service import Service

REFUSED = openai.UnprocessableEntityError
WORDS = ("red", "green", "blue", "Anna")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("models")
    text.encoder(folder, toml='task = "text-embedding"\nmax_rows = 4\n[text]\nnormalize = false')
    text.ranker(folder)
    models.doubling(folder)
    with Service(folder) as started:
        yield started


def vector(*words: str) -> Any:
    return pytest.approx((TABLE[ids_of(*words)].mean(axis=0) * 2).tolist(), rel=1e-6, abs=1e-6)


def test_openais_client_gets_vectors_of_one_text_and_of_many(service: Service) -> None:
    with client(service.url) as ai:
        check_vectors(ai)


def check_vectors(ai: openai.OpenAI) -> None:
    one = ai.embeddings.create(model="encoder", input="red green")  # the client asks for base64
    assert (one.object, one.model, one.data[0].index, one.data[0].embedding) == (
        "list",
        "encoder",
        0,
        vector("red", "green"),
    )
    assert (one.usage.prompt_tokens, one.usage.total_tokens) == (4, 4)
    many = ai.embeddings.create(model="encoder", input=[WORDS[at % 4] for at in range(30)], encoding_format="float")
    assert [each.index for each in many.data] == [*range(30)]
    assert [each.embedding for each in many.data] == [vector(WORDS[at % 4]) for at in range(30)]
    assert many.usage.prompt_tokens == 90
    short = ai.embeddings.create(model="encoder", input="red", dimensions=2)
    assert len(short.data[0].embedding) == 2


@pytest.mark.parametrize(
    ("fields", "kind", "message"),
    [
        ({"model": "nowhere", "input": "red"}, openai.NotFoundError, "nowhere"),
        ({"model": "double", "input": "red"}, REFUSED, "does not accept 'texts'"),
        ({"model": "encoder", "input": [[1, 2]]}, REFUSED, "token ids are not accepted"),
        ({"model": "encoder", "input": []}, REFUSED, "a list of one text or more"),
        ({"model": "encoder", "input": ["red"] * 2049}, REFUSED, "the limit is 2048"),
        (
            {"model": "encoder", "input": "red", "dimensions": 5},
            REFUSED,
            "a whole number from 1 to 4",
        ),
    ],
)
def test_errors_have_openais_format(
    service: Service, fields: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with client(service.url, max_retries=0) as ai, pytest.raises(kind, match=message):
        ai.embeddings.create(**fields)


def test_a_text_that_fails_is_named_by_its_index(service: Service) -> None:
    texts: list[Any] = ["red"] * 6 + ["x" * (2 << 20)]
    answer = service.http.post("/v1/embeddings", json={"model": "encoder", "input": texts})
    assert (answer.status_code, "error" in answer.json()) == (413, True), answer.text


def test_documents_are_ranked_by_their_scores(service: Service) -> None:
    documents: list[Any] = ["blue", {"text": "green green"}, "red", "red", "Anna", "likes"]
    body = {"model": "ranker", "query": "red", "documents": documents}
    answer = service.http.post("/v1/rerank", json=body).json()
    scores = {row["index"]: row["relevance_score"] for row in answer["results"]}
    assert scores.keys() == {*range(6)}
    assert [*scores.values()] == sorted(scores.values(), reverse=True)
    assert (scores[0], scores[1]) == ((1 + 4 + 2) * 100 + 6 + 2, (1 + 4 + 2) * 100 + 5 + 5 + 2)
    assert [row["index"] for row in answer["results"] if row["index"] in {2, 3}] == [
        2,
        3,
    ]  # equal scores keep their order
    best = service.http.post("/v1/rerank", json={**body, "top_n": 1, "return_documents": True}).json()["results"]
    assert (len(best), best[0]["index"]) == (1, answer["results"][0]["index"])
    assert best[0]["document"]["text"] in {"green green", "likes"}
    problem = service.http.post("/v1/rerank", json={**body, "top_n": 0})
    assert (problem.status_code, problem.json()["code"]) == (422, "invalid_request")
