"""Writes the errors of each operation from their codes, and shares those that several operations have.

An error is described by the response that the service would send for it.
"""

from collections import defaultdict
from http import HTTPStatus
from typing import Any, Final

import orjson

from api.asgi.responses import error_response
from api.openapi.content import ContentWriter
from api.openapi.operations import HEADERS, Operation, header_refs
from api.openapi.schemas.bodies import Body
from api.openapi.schemas.errors import OpenAIError, PredictProblem, Problem
from api.openapi.schemas.inference import InferenceError
from jobs.contract.errors import CODES, JitneyError, RetryLater

# Codes of errors that any operation may answer: all, those that need a key, those that take a body.
ANY: Final = ("malformed_request", "request_timeout", "head_too_large", "internal_error", "too_many_connections")
PRIVATE: Final = ("unauthorized", "forbidden", "invalid_request", "rate_limited", "store_unavailable")
WITH_BODY: Final = ("body_too_large", "unsupported_media_type", "queue_full")
_RETRY_LATER: Final = frozenset({HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE})
_Key = tuple[str, int, tuple[str, ...]]  # the name of the schema, the status, the codes


class ErrorResponses:
    """Adds the errors of operations, one by one; then `share` moves equal ones to one place."""

    def __init__(self, content: ContentWriter) -> None:
        self._content = content
        self._uses: dict[_Key, list[dict[str, Any]]] = defaultdict(list)  # the answers by status that have it

    def add(self, path: str, answers: dict[str, Any], operation: Operation, more_headers: tuple[str, ...]) -> None:
        """Add the errors of an operation to its answers by status. `more_headers`: empty for a public operation."""
        codes = {*ANY, *operation.errors, *(PRIVATE if more_headers else ()), *(WITH_BODY if operation.body else ())}
        statuses = {code: error_response(_error(code), path).status for code in CODES if code in codes}
        for status in sorted(set(statuses.values())):
            of_status = tuple(code for code, own in statuses.items() if own == status)
            schema, response = self._response(path, of_status, more_headers)
            if (own := answers.get(str(status))) is not None:  # as that of /readyz
                own["content"] |= response["content"]
                continue
            answers[str(status)] = response
            if more_headers:
                self._uses[schema, status, of_status].append(answers)
        for code in sorted(answers):  # the order of a reader
            answers[code] = answers.pop(code)

    def share(self) -> dict[str, Any]:
        """Replace the errors that several operations have by references; return those errors by name."""
        shared: dict[str, Any] = {}
        for (schema, status, codes), uses in self._uses.items():
            if len(uses) == 1:
                continue
            name = HTTPStatus(status).phrase if len(codes) > 2 else "_or_".join(codes)
            name = "".join(word.capitalize() for word in name.replace(" ", "_").split("_"))
            name += "" if schema == Problem.__name__ else f"As{schema}"
            if name in shared:
                name += str(sum(known.startswith(name) for known in shared) + 1)
            shared[name] = uses[0][str(status)]
            for answers in uses:
                answers[str(status)] = {"$ref": f"#/components/responses/{name}"}
        return shared

    def _response(self, path: str, codes: tuple[str, ...], more_headers: tuple[str, ...]) -> tuple[str, dict[str, Any]]:
        """Return the name of the schema of an error, and its response."""
        error = _error(codes[0])
        sent = error_response(error, path)
        example = orjson.loads(sent.body)
        schema = _schema(example)
        names = {name.lower(): name for name in HEADERS}
        headers = (*(names[name.decode()] for name, _ in sent.headers), *more_headers)
        response: dict[str, Any] = {
            "description": "\n".join(f"- `{code}`: {CODES[code][1]}" for code in codes),
            "content": self._content.write({sent.content_type.decode(): schema}, example),
        }
        return schema.__name__, {**response, **({"headers": header_refs(headers)} if headers else {})}


def _schema(example: dict[str, Any]) -> type[Body]:
    """Return the schema of an error from an example."""
    if "error" in example:
        return InferenceError if isinstance(example["error"], str) else OpenAIError
    return PredictProblem if "success" in example else Problem


def _error(code: str) -> JitneyError:
    status, meaning = CODES[code]
    return RetryLater(code, meaning, retry_after_s=5) if status in _RETRY_LATER else JitneyError(code, meaning)
