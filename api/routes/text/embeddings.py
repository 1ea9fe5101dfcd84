"""Serves `POST /v1/embeddings` in OpenAI's format: vectors of texts, by a model of the task `text-embedding`."""

from typing import Any, Final

import orjson
from fastapi import APIRouter, Response
from fastapi import Request as HttpRequest

from api.asgi.fastapi_adapter import to_fastapi_response
from api.asgi.request import Request
from api.asgi.responses import HttpResponse, Receive, catch_errors
from api.gateway.gateway import Gateway
from api.routes.text.texts_in_jobs import answer_texts, check_texts, read_fields
from jobs.contract.errors import Refused

PATH: Final = "/v1/embeddings"
FIELDS: Final = ("model", "input", "encoding_format", "dimensions", "user")


def router(gateway: Gateway) -> APIRouter:
    routes = APIRouter(tags=["text"])

    @routes.post(PATH, summary="Vectors of texts, in OpenAI's format")
    async def post(http: HttpRequest) -> Response:
        response = create_embeddings(gateway, Request(http.scope), http.receive)
        return to_fastapi_response(await catch_errors(response, PATH))

    return routes


async def create_embeddings(gateway: Gateway, request: Request, receive: Receive) -> HttpResponse:
    """Answer the vectors of one text or of a list, in order, with the number of tokens as `usage`."""
    fields = await read_fields(gateway, request, receive, FIELDS)
    given = fields.get("input")
    if isinstance(given, list) and given and not isinstance(given[0], str):
        raise Refused("invalid_request", 'field "input" must be text or a list of texts: token ids are not accepted')
    texts = check_texts("input", [given] if isinstance(given, str) else given)
    encoding = fields.get("encoding_format", "float")
    if encoding not in ("float", "base64"):
        message = 'field "encoding_format" must be one of the allowed values'
        raise Refused("invalid_request", message, allowed=["float", "base64"])
    parameters: dict[str, Any] = {} if encoding == "float" else {"encoding": encoding}
    if fields.get("dimensions") is not None:
        parameters["dimensions"] = fields["dimensions"]
    model = fields.get("model", "")
    answers = await answer_texts(
        gateway, request, model, texts, to_input=lambda part: {"texts": part}, parameters=parameters
    )
    if "embedding" not in answers[0]:
        raise Refused("invalid_request", f"model {model} is no model of the task text-embedding")
    data = [
        {"object": "embedding", "index": index, "embedding": answer["embedding"]}
        for index, answer in enumerate(answers)
    ]
    tokens = sum(answer.get("tokens", 0) for answer in answers)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return HttpResponse(200, orjson.dumps({"object": "list", "data": data, "model": model, "usage": usage}))
