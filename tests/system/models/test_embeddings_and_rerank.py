"""Embeddings by OpenAI's client, and rerank: the answers of the text tasks in the formats of these APIs."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.support import models
from tests.support.bulks import QUICK, client, start_batch, wait_for_end
from tests.support.model_files import text
from tests.support.model_files.text import TABLE, ids_of
from tests.support.service import Service
from tests.support.waiting import wait_until

REFUSED = openai.UnprocessableEntityError
WORDS = ("red", "green", "blue", "Anna")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("models")
    text.encoder(folder, toml='task = "text-embedding"\nmax_rows = 4\n[text]\nnormalize = false')
    text.encoder(folder, "wide", toml='task = "text-embedding"\nmax_rows = 1000\n[text]\nnormalize = false')
    text.ranker(folder)
    models.doubling(folder)
    with Service(folder, {**QUICK, "JITNEY_OUTPUT_CHUNK_BYTES": "32768"}) as started:
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
        ({"model": "encoder", "input": []}, REFUSED, "a text, a list of token ids, or a list of either"),
        ({"model": "encoder", "input": [1.5]}, REFUSED, "a text, a list of token ids, or a list of either"),
        ({"model": "encoder", "input": ["red", [4]]}, REFUSED, "a list of one text or more"),
        ({"model": "encoder", "input": [[4], "red"]}, REFUSED, "\\[1\\] must be a list of token ids, not 'red'"),
        ({"model": "encoder", "input": [[4], []]}, REFUSED, "\\[1\\] must have at least one token id"),
        ({"model": "encoder", "input": [4, -1]}, REFUSED, "a token id is a whole number from 0, not -1"),
        ({"model": "encoder", "input": [4, 11]}, REFUSED, "token id 11 is none of the model's; allowed: 0 to 10"),
        ({"model": "encoder", "input": [[4]] * 2049}, REFUSED, "2049 lists of token ids, and the limit is 2048"),
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


def test_openais_client_sends_token_ids(service: Service) -> None:
    """LangChain sends lists of lists."""
    with client(service.url) as ai:
        one = ai.embeddings.create(model="encoder", input=ids_of("red", "green"))
        assert (len(one.data), one.data[0].embedding, one.usage.prompt_tokens) == (1, vector("red", "green"), 4)
        many = ai.embeddings.create(model="encoder", input=[ids_of(WORDS[at % 4]) for at in range(30)])
        assert [each.embedding for each in many.data] == [vector(WORDS[at % 4]) for at in range(30)]
        assert (many.usage.prompt_tokens, many.usage.total_tokens) == (90, 90)
        short = ai.embeddings.create(model="encoder", input=[ids_of("red")], encoding_format="float", dimensions=2)
        assert len(short.data[0].embedding) == 2


@pytest.mark.parametrize(
    ("good", "bad", "status"), [("red", "x" * (2 << 20), 413), ([4, 5], [4, -5], 422), ([4, 5], [4, 11], 422)]
)
def test_a_text_that_fails_is_named_by_its_index(service: Service, good: Any, bad: Any, status: int) -> None:
    answer = service.http.post("/v1/embeddings", json={"model": "encoder", "input": [*[good] * 6, bad]})
    assert (answer.status_code, answer.json()["error"]["row"]) == (status, 6), answer.text


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


def line(custom_id: str, **body: Any) -> str:
    request = {"custom_id": custom_id, "method": "POST", "url": "/v1/embeddings", "body": {"model": "encoder", **body}}
    return json.dumps(request)


def test_a_batch_of_embeddings(service: Service) -> None:
    """Lines with one text, with several, with an output in chunks, and two that fail; as OpenAI's client reads them."""
    lines = [line(f"one-{at}", input=WORDS[at % 4]) for at in range(200)]
    lines += [
        line("several", input=[*WORDS]),
        line("chunked", input=[WORDS[at % 4] for at in range(600)], model="wide"),
        line("short", input="red", dimensions=2),
        line("tokens", input=[ids_of("red"), ids_of("Anna", "red")]),
    ]
    lines += [line("bad", input=[1, 11]), line("negative", input=[-1]), line("many", input=["red"] * 5)]
    with client(service.url) as ai:
        batch = wait_for_end(ai, start_batch(ai, lines, endpoint="/v1/embeddings"))
        assert (batch.endpoint, batch.status) == ("/v1/embeddings", "completed")
        counts = batch.request_counts
        assert counts is not None
        assert (counts.total, counts.completed, counts.failed) == (207, 204, 3), ai.files.content(
            str(batch.error_file_id)
        ).text
        done, failed = (
            {row["custom_id"]: row for row in map(json.loads, ai.files.content(str(file)).text.splitlines())}
            for file in (batch.output_file_id, batch.error_file_id)
        )
    for at in range(200):
        body = done[f"one-{at}"]["response"]["body"]
        assert (body["object"], body["data"][0]["embedding"]) == ("list", vector(WORDS[at % 4]))
        assert (body["model"], body["usage"]) == ("encoder", {"prompt_tokens": 3, "total_tokens": 3})
    vectors = [each["embedding"] for each in done["several"]["response"]["body"]["data"]]
    assert vectors == [vector(word) for word in WORDS]
    vectors = [each["embedding"] for each in done["chunked"]["response"]["body"]["data"]]
    assert vectors == [vector(WORDS[at % 4]) for at in range(600)]
    assert len(done["short"]["response"]["body"]["data"][0]["embedding"]) == 2
    body = done["tokens"]["response"]["body"]
    assert [each["embedding"] for each in body["data"]] == [vector("red"), vector("Anna", "red")]
    assert body["usage"] == {"prompt_tokens": 7, "total_tokens": 7}
    assert "token id 11 is none of the model's" in failed["bad"]["error"]["message"]
    assert "a token id is a whole number from 0, not -1" in failed["negative"]["error"]["message"]
    assert "at most 4 rows" in failed["many"]["error"]["message"]


def test_lines_of_another_endpoint_are_refused(service: Service) -> None:
    with client(service.url) as ai:
        batch = wait_for_end(ai, start_batch(ai, [line("a", input="red")], endpoint="/v1/jobs"))
    assert batch.status == "failed"
    assert batch.errors is not None
    assert batch.errors.data is not None
    assert batch.errors.data[0].message == "url must be /v1/jobs, the batch's endpoint"


def test_a_request_that_fits_in_part_is_refused_as_a_whole(tmp_path: Path) -> None:
    """Two jobs of four rows, where six may be open; the gateway forgets the one that was accepted."""
    text.encoder(tmp_path, toml='task = "text-embedding"\nmax_rows = 4\n[text]\nnormalize = false')
    with Service(tmp_path, {"JITNEY_MAX_JOBS": "6"}) as service:
        refused = service.http.post("/v1/embeddings", json={"model": "encoder", "input": ["red"] * 8})
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "queue_full"), refused.text

        def is_answered() -> bool:
            answer = service.http.post("/v1/embeddings", json={"model": "encoder", "input": ["red"] * 4})
            return answer.status_code == 200

        wait_until(is_answered, "the job that was accepted has ended")
