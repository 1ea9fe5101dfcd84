"""The OpenAPI document is valid and complete, and says of requests what their parsers do."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import jsonschema
import openapi_spec_validator
import pytest

from api.auth.access_control import PUBLIC_PATHS, PUBLIC_PREFIX
from api.gateway.plan_changes import VERBS
from api.openapi.document import TAGS
from api.openapi.operations import OPERATIONS
from api.openapi.schemas import bulk, jobs, texts, webhooks
from api.openapi.schemas.bodies import Body
from api.openapi.schemas.model_versions import NoFields, ShareRequest, VersionRequest
from api.routes import job_query
from api.routes.bulk import batches, upload
from api.routes.text import rerank
from api.submission import parsing
from jobs.bulk.records import TIMES
from jobs.contract import embeddings, webhook_request
from jobs.contract.address_policy import AddressPolicy
from jobs.contract.errors import Refused
from jobs.contract.input_fields import INPUT_FIELDS
from jobs.contract.job_request import JSON_FIELDS, MAX_METADATA, read_json_fields
from tests.support.documented import document

IMAGE = {"image": "aGVsbG8="}
URL = "https://receiver.example/hook"


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """The path, the method and the entry of each operation."""
    for path, methods in document()["paths"].items():
        for method, entry in methods.items():
            yield path, method, entry


def fields_of(schema: type[Body]) -> set[str]:
    return {field.alias or name for name, field in schema.model_fields.items()}


def test_the_document_is_valid() -> None:
    openapi_spec_validator.validate(document())


def test_every_operation_is_described() -> None:
    entries = [entry for _, _, entry in operations()]
    assert {entry["operationId"] for entry in entries} == set(OPERATIONS)
    assert len(entries) == len(OPERATIONS)
    for path, method, entry in operations():
        what = f"{method} {path}"
        assert re.fullmatch(r"[a-z]+([A-Z][a-z]+)+", entry["operationId"]), what
        assert entry["summary"], what
        assert not entry["summary"].endswith("."), what
        assert entry["description"].rstrip().endswith("."), what
        assert len(entry["tags"]) == 1, what
        assert set(entry["tags"]) <= set(TAGS), what
        assert all(parameter["description"] for parameter in entry.get("parameters", [])), what
        is_public = path in PUBLIC_PATHS or path.startswith(PUBLIC_PREFIX)
        assert (entry.get("security") == []) == is_public, what
        assert ("401" in entry["responses"]) != is_public, what


def test_every_json_body_has_an_example_that_fits() -> None:
    for path, method, entry in operations():
        answers = [answer for answer in entry["responses"].values() if "$ref" not in answer]
        for answer in [entry.get("requestBody", {}), *answers, *document()["components"]["responses"].values()]:
            for media_type, content in answer.get("content", {}).items():
                if content["schema"] and ("json" in media_type or "form" in media_type):
                    examples = content["schema"].get("examples", [content.get("example")])
                    assert None not in examples or content["schema"] == {}, f"{method} {path} {media_type}"
                    if "example" in content:
                        check(content["schema"], content["example"])


def check(schema: dict[str, Any], value: Any) -> None:
    """Raise ValidationError if a value does not fit a schema of the document."""
    jsonschema.validate(value, {**schema, "components": document()["components"]})


def test_the_fields_of_requests_are_those_that_their_parsers_take() -> None:
    assert fields_of(jobs.JobRequest) == set(JSON_FIELDS)
    assert fields_of(jobs.JobInput) == set(INPUT_FIELDS)
    assert fields_of(jobs.JobQuery) == set(job_query.FIELDS)
    assert fields_of(jobs.JobForm) == set(parsing.FORM_FIELDS)
    assert fields_of(webhooks.WebhookReceiver) == set(webhook_request.FIELDS)
    assert fields_of(texts.EmbeddingsRequest) == set(embeddings.FIELDS)
    assert fields_of(texts.RerankRequest) == set(rerank.FIELDS)
    assert fields_of(bulk.BatchRequest) == set(batches.FIELDS)
    assert fields_of(bulk.FileForm) == set(upload.FIELDS)
    assert {f"{status}_at" for status in TIMES} < fields_of(bulk.Batch)
    submit = document()["paths"]["/v1/jobs"]["post"]
    assert {each["name"] for each in submit["parameters"] if each["in"] == "query"} == set(parsing.QUERY_FIELDS)
    assert set(submit["requestBody"]["content"]) == set(parsing.CONTENT_TYPES)
    for name, verb in VERBS.items():
        body = (OPERATIONS[f"{name}Model"].body or {})["application/json"]
        assert fields_of(body) == set(verb.fields)
        assert body in {VersionRequest, ShareRequest, NoFields}


def accepts(parse: Callable[[Any], object], value: Any) -> bool:
    try:
        parse(value)
    except Refused:
        return False
    return True


def fits(name: str, value: Any) -> bool:
    try:
        check({"$ref": f"#/components/schemas/{name}"}, value)
    except jsonschema.ValidationError:
        return False
    return True


def job(**fields: Any) -> dict[str, Any]:
    return {"input": IMAGE, **fields}


@pytest.mark.parametrize(
    "fields",
    [
        *(
            {"input": {name: value}}
            for name, value in [("text", "t"), ("texts", ["t"]), ("bytes", "AA=="), ("json", 1)]
        ),
        {"input": {"query": "q", "documents": ["d"]}},
        {"input": {"features": {"a": 1}}},
        {"input": {"row": [1]}},
        {"input": {"rows": [[1], {"a": 1}]}},
        {"input": {"tensors": {"x": {"datatype": "FP32", "shape": [1], "data": [1]}}}, "rows": 1},
        job(model="m", parameters={"top_k": 1}, lane="bulk", deadline_ms=1, metadata={"a": "b"}),
        job(metadata={str(number): "" for number in range(MAX_METADATA)}),
    ],
)
def test_a_job_that_the_parser_accepts_fits(fields: dict[str, Any]) -> None:
    assert accepts(read_json_fields, fields)
    assert fits("JobRequest", fields)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"input": {}},
        {"input": "text"},
        {"input": None},
        {"input": {"image": None}},
        {"input": {"image": 1}},
        {"input": {"picture": "AA=="}},
        {"input": {"text": 1}},
        {"input": {"text": "x" * (1 << 20) + "x"}},
        {"input": {"texts": []}},
        {"input": {"texts": "t"}},
        {"input": {"rows": []}},
        {"input": {"tensors": []}},
        {"input": {"query": 1, "documents": ["d"]}},
        job(model=None),
        job(model=1),
        job(parameters=None),
        job(parameters=[]),
        job(lane="fast"),
        job(lane=None),
        job(deadline_ms=0),
        job(deadline_ms="5"),
        job(deadline_ms=1.5),
        job(rows=0),
        job(metadata={"a": 1}),
        job(metadata={str(number): "" for number in range(MAX_METADATA + 1)}),
        job(priority=1),
    ],
)
def test_a_job_that_the_parser_refuses_does_not_fit(fields: dict[str, Any]) -> None:
    assert not accepts(read_json_fields, fields)
    assert not fits("JobRequest", fields)


def read_webhook(webhook: Any) -> str:
    return webhook_request.read_webhook(webhook, AddressPolicy((), ("https",), (443,)))


@pytest.mark.parametrize(
    ("webhook", "is_valid"),
    [
        (URL, True),
        ({"url": URL}, True),
        ({"url": URL, "events": ["job.failed"], "headers": {"X-Team": "vision"}}, True),
        ({"url": URL, "events": list(webhook_request.WEBHOOK_EVENTS)}, True),
        ({"url": URL, "events": ["job.started"]}, False),
        ({"url": URL, "events": "job.failed"}, False),
        ({"url": URL, "secret": "s"}, False),
        ({"events": []}, False),
        (17, False),
        ({"url": URL, "headers": {"X": ""}}, False),
        ({"url": URL, "headers": {"X": "v" * (webhook_request.MAX_VALUE_CHARS + 1)}}, False),
        ({"url": URL, "headers": {"X" * (webhook_request.MAX_NAME_CHARS + 1): "v"}}, False),
        ({"url": URL, "headers": {f"X-{number}": "v" for number in range(webhook_request.MAX_HEADERS)}}, True),
        ({"url": URL, "headers": {f"X-{number}": "v" for number in range(webhook_request.MAX_HEADERS + 1)}}, False),
    ],
)
def test_a_webhook_fits_if_the_parser_accepts_it(webhook: Any, *, is_valid: bool) -> None:
    assert accepts(read_webhook, webhook) == is_valid
    assert fits("JobRequest", job(webhook=webhook)) == is_valid


@pytest.mark.parametrize(
    ("fields", "is_valid"),
    [
        ({"input": "t"}, True),
        ({"input": ["t", "u"], "model": "m", "encoding_format": "base64", "dimensions": 8, "user": "me"}, True),
        ({"input": ["t"] * embeddings.MAX_TEXTS}, True),
        ({"input": ["t"] * (embeddings.MAX_TEXTS + 1)}, False),
        ({"input": []}, False),
        ({"input": {"text": "t"}}, False),
        ({"model": "m"}, False),
        ({"input": "t", "encoding_format": "int8"}, False),
        ({"input": "t", "top_k": 1}, False),
    ],
)
def test_an_embeddings_request_fits_if_the_parser_accepts_it(fields: dict[str, Any], *, is_valid: bool) -> None:
    assert accepts(embeddings.read_embedding_request, fields) == is_valid
    assert fits("EmbeddingsRequest", fields) == is_valid


@pytest.mark.parametrize(
    ("window", "is_valid"), [("24h", True), ("90m", True), ("600s", True), ("0s", False), ("1d", False), (60, False)]
)
def test_a_window_fits_if_the_parser_accepts_it(window: Any, *, is_valid: bool) -> None:
    assert accepts(lambda value: batches._window(value, 1 << 40), window) == is_valid
    assert fits("BatchRequest", {"input_file_id": "file-1", "completion_window": window}) == is_valid


@pytest.mark.parametrize(
    ("metadata", "is_valid"),
    [
        ({"k" * batches.MAX_METADATA_KEY: "v" * batches.MAX_METADATA_VALUE}, True),
        ({"k" * (batches.MAX_METADATA_KEY + 1): "v"}, False),
        ({"k": "v" * (batches.MAX_METADATA_VALUE + 1)}, False),
        ({str(number): "" for number in range(batches.MAX_METADATA + 1)}, False),
        ({"k": 1}, False),
    ],
)
def test_metadata_of_a_batch_fits_if_the_parser_accepts_it(metadata: Any, *, is_valid: bool) -> None:
    assert accepts(batches._metadata, metadata) == is_valid
    assert fits("BatchRequest", {"input_file_id": "file-1", "metadata": metadata}) == is_valid
