"""Reads a request of OpenAI's embeddings API as the fields of a job, and builds its response from the job's output."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from jobs.contract.errors import Refused

EMBEDDINGS_URL: Final = "/v1/embeddings"
MAX_TEXTS: Final = 2048  # of one request, as OpenAI has it
FIELDS: Final = ("model", "input", "encoding_format", "dimensions", "prompt_name", "user")
ENCODINGS: Final = ("float", "base64")


def read_embedding_request(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields `model`, `input` (with `texts` or `tokens`) and `parameters` of a job. Raises Refused.

    `tokens` is a list of lists of ids, which are not checked.
    """
    if unknown := [name for name in fields if name not in FIELDS]:
        raise Refused("invalid_request", f"unknown field {unknown[0][:80]!r}", allowed=list(FIELDS))
    job_input = _read_input(fields.get("input"))
    encoding, dimensions = fields.get("encoding_format", "float"), fields.get("dimensions")
    if encoding not in ENCODINGS:
        message = 'field "encoding_format" must be one of the allowed values'
        raise Refused("invalid_request", message, allowed=list(ENCODINGS))
    parameters = {} if encoding == "float" else {"encoding": encoding}
    if dimensions is not None:
        parameters["dimensions"] = dimensions
    if (prompt := fields.get("prompt_name")) is not None:
        parameters["prompt"] = prompt
    return {"model": fields.get("model", ""), "input": job_input, "parameters": parameters}


def _read_input(given: Any) -> dict[str, Any]:
    """Return the input of a job: of a text or a list of texts, of token ids or a list of lists of them."""
    if isinstance(given, str):
        return {"texts": [given]}
    if not isinstance(given, list) or not given or not isinstance(given[0], str | int | list):
        raise Refused("invalid_request", 'field "input" must be a text, a list of token ids, or a list of either')
    if isinstance(given[0], str):
        return {"texts": check_texts("input", given)}
    rows = given if isinstance(given[0], list) else [given]
    _check_count("input", rows, "lists of token ids")
    return {"tokens": rows}


def check_texts(name: str, texts: Any) -> Sequence[str]:
    """Return a list of texts. `name` names it in messages. Raises Refused."""
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise Refused("invalid_request", f'field "{name}" must be a list of one text or more')
    _check_count(name, texts, "texts")
    return texts


def _check_count(name: str, rows: Sequence[Any], what: str) -> None:
    if len(rows) > MAX_TEXTS:
        message = f'field "{name}" has {len(rows)} {what}, and the limit is {MAX_TEXTS}: split it into several requests'
        raise Refused("invalid_request", message, limit=MAX_TEXTS)


def embeddings_view(model: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return OpenAI's response for the rows of the task `text-embedding`. Raises KeyError for rows of another task."""
    data = [{"object": "embedding", "index": index, "embedding": row["embedding"]} for index, row in enumerate(rows)]
    tokens = sum(row["tokens"] for row in rows)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": model, "usage": usage}
