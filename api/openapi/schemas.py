"""The schemas of the OpenAPI document: jobs, dead letters, webhooks, OpenAI's files and batches, embeddings, rerank."""

from collections.abc import Iterable, Sequence
from typing import Any, Final, get_args

from jobs.bulk.input_lines import URLS
from jobs.bulk.records import TIMES, Status
from jobs.contract.errors import CODES
from jobs.contract.job import LANES
from jobs.contract.job_request import MAX_METADATA
from jobs.contract.lifecycle import State
from jobs.contract.webhook_request import MAX_HEADERS, MAX_VALUE_CHARS, WEBHOOK_EVENTS
from jobs.webhooks.delivery_log import STATES

Schema = dict[str, Any]

TEXT: Final = {"type": "string"}
BINARY: Final = {"type": "string", "format": "binary"}
OBJECT: Final = {"type": "object"}
_BOOLEAN: Final = {"type": "boolean"}
_INTEGER: Final = {"type": "integer"}
_COUNT: Final = {"type": "integer", "minimum": 0}
_MAYBE_TEXT: Final = {"type": ["string", "null"]}
_MAYBE_INTEGER: Final = {"type": ["integer", "null"]}
_MAYBE_NUMBER: Final = {"type": ["number", "null"]}
_MAYBE_OBJECT: Final = {"type": ["object", "null"]}
_TIME: Final = {"type": "string", "format": "date-time"}
_MAYBE_TIME: Final = {"type": ["string", "null"], "format": "date-time"}
_MAYBE_SECONDS: Final = {"type": ["integer", "null"], "description": "seconds since 1970"}


def ref(name: str) -> Schema:
    """Return a reference to one of `SCHEMAS`."""
    return {"$ref": f"#/components/schemas/{name}"}


def object_of(properties: Schema, required: Sequence[str] = (), **more: Any) -> Schema:
    """Return the schema of an object; `more` holds further keywords."""
    return {"type": "object", **({"required": list(required)} if required else {}), **more, "properties": properties}


def _array(items: Schema, **more: Any) -> Schema:
    return {"type": "array", "items": items, **more}


def _enum(values: Iterable[str]) -> Schema:
    return {"type": "string", "enum": list(values)}


def _described(schema: Schema, description: str) -> Schema:
    return {**schema, "description": description}


def _same(schema: Schema, *names: str) -> Schema:
    """Return properties that have the same schema."""
    return dict.fromkeys(names, schema)


# Jobs and dead letters

_CODE: Final = _enum(sorted(CODES))
PROBLEM: Final = object_of(
    {**_same(TEXT, "type", "title", "detail"), "status": _INTEGER, "code": _CODE, "allowed": _array(TEXT)},
    ("type", "title", "status", "code", "detail"),
)
_JOB_REQUIRED: Final = ("id", "model", "version", "status", "created_at", "urls")
_TIMINGS: Final = object_of(_same(_MAYBE_NUMBER, "queue", "decode", "batch", "infer", "total"))
_LISTED_JOB: Final = {
    **_same(TEXT, "id", "model", "version"),
    "status": _enum([state.value for state in State]),
    "lane": _enum(LANES),
    "created_at": _TIME,
    **_same(_MAYBE_TIME, "started_at", "finished_at"),
    "attempts": _INTEGER,
    "error": _MAYBE_OBJECT,
    "timings": _described(_TIMINGS, "ms per stage"),
    **_same(_MAYBE_INTEGER, "batch_size", "position"),
    "eta_ms": _MAYBE_NUMBER,
    **_same(OBJECT, "metadata", "urls"),
}
_JOB: Final = {**_LISTED_JOB, "output": _MAYBE_OBJECT}
_DEAD_LETTER: Final = {
    **_JOB,
    **_same(TEXT, "tenant", "kind"),
    "parameters": OBJECT,
    **_same(_INTEGER, "input_bytes", "kills", "losses", "retries"),
    "replayed_as": _MAYBE_TEXT,
}
_IDS: Final = _array({"type": "integer", "minimum": 0})
_TOKENS: Final = {"anyOf": [_IDS, _array(_IDS)]}
_INPUT: Final = {
    **_same(_described(TEXT, "base64, or a data: URL"), "image", "audio"),
    "tensors": _described(OBJECT, "name → {datatype, shape, data | b64}"),
    "bytes": _described(TEXT, "base64, or a data: URL; as a body of application/octet-stream"),
    "text": _described(TEXT, "for models of the tasks for text"),
    "texts": _described(_array(TEXT), "several texts, each a row"),
    "tokens": _described(_TOKENS, "token ids in place of a text, or a list of such lists, each a row"),
    "query": _described(TEXT, "beside `documents`; for models of the task `text-ranking`"),
    "documents": _described(_array(TEXT), "texts to rank by the query, each a row"),
    "features": _described(OBJECT, "column → value; for models of the task `tabular`"),
    "row": _described(_array({}), "one value for each column"),
    "rows": _described(_array({}), "several rows, each a list of values or an object of named values"),
    "json": _described({}, "any JSON value, for a custom task that takes it"),
}
_JOB_REQUEST: Final = {
    "model": TEXT,
    "input": object_of(_INPUT),
    "parameters": OBJECT,
    "lane": _enum(LANES),
    "deadline_ms": {"type": "integer", "minimum": 1},
    "metadata": {"type": "object", "additionalProperties": TEXT, "maxProperties": MAX_METADATA},
    "webhook": ref("Webhook"),
    "rows": {
        "type": "integer",
        "minimum": 1,
        "description": "number of rows, the first dimension of all tensors; for models of the task `tensor`",
    },
}
_ENTRY_ERROR: Final = object_of({"code": _CODE, "message": TEXT, "status": _INTEGER}, ("code", "message", "status"))
_ENTRY: Final = object_of({"error": _ENTRY_ERROR}, ("error",))
_JOBS_PAGE: Final = _array(ref("ListedJob"), description="a page may be short or empty although `next_cursor` is set")

# Webhooks

_URL: Final = {"type": "string", "format": "uri", "description": "https://host/path; public addresses only"}
_HEADERS: Final = {
    "type": "object",
    "maxProperties": MAX_HEADERS,
    "additionalProperties": {"type": "string", "minLength": 1, "maxLength": MAX_VALUE_CHARS},
    "description": "sent to the receiver, for example Authorization; never returned",
}
_WEBHOOK: Final = {"url": _URL, "events": _array(_enum(WEBHOOK_EVENTS)), "headers": _HEADERS}
_ATTEMPT: Final = {
    "at": _MAYBE_TIME,
    "ms": _MAYBE_NUMBER,
    "status": _MAYBE_INTEGER,
    "error": _MAYBE_TEXT,
    "location": _described(_MAYBE_TEXT, "target of a redirect, which is not followed"),
}
_DELIVERY: Final = {
    "id": _described(TEXT, "the webhook-id, the same for all attempts"),
    **_same(TEXT, "job", "url", "endpoint"),
    "type": _enum(WEBHOOK_EVENTS),
    "state": _enum(STATES),
    **_same(_MAYBE_TIME, "created_at", "ended_at", "next_attempt_at"),
    "tries": _INTEGER,
    "attempts": _array(object_of(_ATTEMPT)),
    "urls": OBJECT,
}
_ENDPOINT: Final = {
    **_same(TEXT, "id", "origin"),
    **_same(_INTEGER, "waiting", "under_way", "failures"),
    "slow": _BOOLEAN,
    **_same(_MAYBE_TIME, "failing_since", "paused_until", "last_success_at"),
    "urls": OBJECT,
}
_SECRET: Final = {"key": TEXT, "previous": _described(_MAYBE_TEXT, "signs until it expires")}

# OpenAI's files and batches, embeddings, and rerank

_METADATA: Final = {"type": "object", "additionalProperties": TEXT, "maxProperties": 16}
_EXPIRY: Final = object_of({"anchor": {"const": "created_at"}, "seconds": _INTEGER})
_FILE: Final = {
    **_same(TEXT, "id", "filename"),
    "object": {"const": "file"},
    "bytes": _COUNT,
    "created_at": _INTEGER,
    "expires_at": _MAYBE_SECONDS,
    "purpose": _enum(["batch", "batch_output"]),
    "status": {"const": "processed"},
    "status_details": _MAYBE_TEXT,
}
_REASON: Final = {**_same(TEXT, "code", "message"), "param": _MAYBE_TEXT, "line": _MAYBE_INTEGER}
_BATCH: Final = {
    **_same(TEXT, "id", "endpoint", "input_file_id", "completion_window", "retry_of"),
    "object": {"const": "batch"},
    **_same(_MAYBE_TEXT, "model", "output_file_id", "error_file_id"),
    "errors": {"type": ["object", "null"], "properties": {"data": _array(object_of(_REASON))}},
    "status": _enum(get_args(Status)),
    "created_at": _INTEGER,
    **_same(_MAYBE_SECONDS, "expires_at", *(f"{status}_at" for status in TIMES)),
    "request_counts": object_of(_same(_COUNT, "total", "completed", "failed")),
    "usage": _MAYBE_OBJECT,
    "metadata": _METADATA,
    "stalled": _described(TEXT, "why the batch cannot make progress at present"),
}
_BATCH_REQUEST: Final = {
    "input_file_id": TEXT,
    "endpoint": _enum(URLS),
    "completion_window": _described(TEXT, "a duration such as 24h, 90m or 600s"),
    "metadata": _METADATA,
    "output_expires_after": _EXPIRY,
    "webhook": {"type": "string", "format": "uri"},
    "retry_of": _described(TEXT, "id of a batch whose failed lines to run again"),
}
_USAGE: Final = _described(OBJECT, "numbers of tokens")
_EMBEDDINGS_REQUEST: Final = {
    "model": TEXT,
    "input": {"anyOf": [TEXT, _array(TEXT), _IDS, _array(_IDS)]},
    "encoding_format": _enum(["float", "base64"]),
    "prompt_name": {"type": "string", "description": "the prompt of the model that is put before each text"},
    "dimensions": {"type": "integer", "minimum": 1},
    "user": _described(TEXT, "ignored"),
}
_EMBEDDING: Final = object_of(
    {"object": {"const": "embedding"}, "index": _INTEGER, "embedding": {"anyOf": [_array({"type": "number"}), TEXT]}}
)
_EMBEDDINGS: Final = {"object": {"const": "list"}, "data": _array(_EMBEDDING), "model": TEXT, "usage": _USAGE}
_RERANK_REQUEST: Final = {
    "model": TEXT,
    "query": TEXT,
    "documents": _array({"anyOf": [TEXT, object_of({"text": TEXT}, ("text",))]}),
    "top_n": {"type": "integer", "minimum": 1},
    "return_documents": _BOOLEAN,
}
_RANKED: Final = {"index": _INTEGER, "relevance_score": {"type": "number"}, "document": OBJECT}
_RERANK: Final = {"model": TEXT, "results": _array(object_of(_RANKED, ("index", "relevance_score"))), "usage": _USAGE}
_OPENAI_ERROR: Final = object_of(
    {**_same(TEXT, "message", "type", "code"), "param": _MAYBE_TEXT}, ("message", "type", "param", "code")
)


def _openai_list(name: str) -> Schema:
    properties = {"object": {"const": "list"}, "data": _array(ref(name)), "has_more": _BOOLEAN}
    return object_of({**properties, **_same(_MAYBE_TEXT, "first_id", "last_id")}, ("data", "has_more"))


def _list_of(name: str, items: Schema) -> Schema:
    return object_of({name: items, "next_cursor": _MAYBE_TEXT})


SCHEMAS: Final = {
    "Job": object_of(_JOB, _JOB_REQUIRED),
    "ListedJob": object_of(_LISTED_JOB, _JOB_REQUIRED, description="a job without its output; read the job to get it"),
    "JobList": _list_of("jobs", _JOBS_PAGE),
    "JobsTaken": object_of({"jobs": _array({"anyOf": [ref("Job"), _ENTRY]})}, ("jobs",)),
    "DeadLetter": object_of(_DEAD_LETTER, _JOB_REQUIRED),
    "DeadLetterList": _list_of("deadletters", _array(ref("DeadLetter"))),
    "Problem": PROBLEM,
    "JobRequest": object_of(_JOB_REQUEST, ("input",), additionalProperties=False),
    "Webhook": {"anyOf": [_URL, object_of(_WEBHOOK, ("url",), additionalProperties=False)]},
    "Delivery": object_of(
        _DELIVERY, ("id", "job", "type", "url", "endpoint", "state", "created_at", "tries", "attempts", "urls")
    ),
    "DeliveryList": _list_of("deliveries", _array(ref("Delivery"))),
    "EndpointList": object_of({"endpoints": _array(ref("Endpoint"))}),
    "Endpoint": object_of(_ENDPOINT, ("id", "origin", "waiting", "under_way", "slow", "failures")),
    "WebhookSecret": object_of(_SECRET, ("key",)),
    "File": object_of(_FILE, ("id", "object", "bytes", "created_at", "filename", "purpose", "status")),
    "FileList": _openai_list("File"),
    "Batch": object_of(
        _BATCH, ("id", "object", "endpoint", "input_file_id", "completion_window", "status", "created_at")
    ),
    "BatchList": _openai_list("Batch"),
    "BatchRequest": object_of(_BATCH_REQUEST, additionalProperties=False),
    "EmbeddingsRequest": object_of(_EMBEDDINGS_REQUEST, ("input",), additionalProperties=False),
    "Embeddings": object_of(_EMBEDDINGS, ("object", "data", "model", "usage")),
    "RerankRequest": object_of(_RERANK_REQUEST, ("query", "documents"), additionalProperties=False),
    "Rerank": object_of(_RERANK, ("model", "results")),
    "OpenAIError": object_of({"error": _OPENAI_ERROR}, ("error",)),
}
