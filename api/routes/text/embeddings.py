"""Serves `POST /v1/embeddings` in OpenAI's format: vectors of texts, by a model of the task `text-embedding`."""

import orjson
from fastapi import APIRouter, Response
from fastapi import Request as HttpRequest

from api.asgi.fastapi_adapter import to_fastapi_response
from api.asgi.request import Request
from api.asgi.responses import HttpResponse, Receive, catch_errors
from api.gateway.gateway import Gateway
from api.routes.text.answer_texts import answer_texts, read_fields
from jobs.contract.embeddings import EMBEDDINGS_URL, FIELDS, embeddings_view, read_embedding_request
from jobs.contract.errors import Refused


def router(gateway: Gateway) -> APIRouter:
    routes = APIRouter(tags=["text"])

    @routes.post(EMBEDDINGS_URL, summary="Embed texts, in OpenAI's format", operation_id="createEmbeddings")
    async def post(http: HttpRequest) -> Response:
        """Return the vector of each text, by a model of the task `text-embedding`, in the order of the texts."""
        response = create_embeddings(gateway, Request(http.scope), http.receive)
        return to_fastapi_response(await catch_errors(response, EMBEDDINGS_URL))

    return routes


async def create_embeddings(gateway: Gateway, request: Request, receive: Receive) -> HttpResponse:
    """Return the vectors of one text or of a list, in order, with the number of tokens as `usage`.

    A text may be a list of token ids.
    """
    job = read_embedding_request(await read_fields(gateway, request, receive, FIELDS))
    model, ((name, texts),) = job["model"], job["input"].items()
    answers = await answer_texts(
        gateway, request, model, texts, to_input=lambda part: {name: part}, parameters=job["parameters"]
    )
    try:
        return HttpResponse(200, orjson.dumps(embeddings_view(model, answers)))
    except KeyError as error:
        message = f"model {model} is of another task; allowed: text-embedding"
        raise Refused("invalid_request", message) from error
