"""Serves `POST /v1/rerank` in the format of Jina and Cohere: documents, ranked by how well they answer a query."""

from typing import Any, Final

import orjson
from fastapi import APIRouter, Response
from fastapi import Request as HttpRequest

from api.asgi.fastapi_adapter import to_fastapi_response
from api.asgi.request import Request
from api.asgi.responses import HttpResponse, Receive, catch_errors
from api.gateway.gateway import Gateway
from api.routes.text.answer_texts import answer_texts, read_fields
from jobs.contract.embeddings import check_texts
from jobs.contract.errors import Refused

PATH: Final = "/v1/rerank"
FIELDS: Final = ("model", "query", "documents", "top_n", "return_documents")


def router(gateway: Gateway) -> APIRouter:
    routes = APIRouter(tags=["text"])

    @routes.post(PATH, summary="Rank documents, in the format of Jina and Cohere", operation_id="rankDocuments")
    async def post(http: HttpRequest) -> Response:
        """Return how well each document answers the query, by a model of the task `text-ranking`, the best first."""
        response = rank_documents(gateway, Request(http.scope), http.receive)
        return to_fastapi_response(await catch_errors(response, PATH))

    return routes


async def rank_documents(gateway: Gateway, request: Request, receive: Receive) -> HttpResponse:
    """Return the index and the score of each document, or of the best `top_n`, best first."""
    fields = await read_fields(gateway, request, receive, FIELDS)
    query, top_n, model = fields.get("query"), fields.get("top_n"), fields.get("model", "")
    if not isinstance(query, str):
        raise Refused("invalid_request", 'field "query" must be text')
    if top_n is not None and (type(top_n) is not int or top_n < 1):
        raise Refused("invalid_request", 'field "top_n" must be a whole number, at least 1')
    documents = fields.get("documents")
    if isinstance(documents, list):  # an object holds its text in the field `text`
        documents = [each.get("text") if isinstance(each, dict) else each for each in documents]
    texts = check_texts("documents", documents)
    answers = await answer_texts(
        gateway, request, model, texts, to_input=lambda part: {"query": query, "documents": part}, parameters={}
    )
    best = sorted(range(len(texts)), key=lambda index: (-answers[index]["score"], index))[:top_n]
    results = [{"index": index, "relevance_score": answers[index]["score"]} for index in best]
    if fields.get("return_documents") is True:
        results = [{**result, "document": {"text": texts[result["index"]]}} for result in results]
    usage: dict[str, Any] = {"total_tokens": sum(answer.get("tokens", 0) for answer in answers)}
    return HttpResponse(200, orjson.dumps({"model": model, "results": results, "usage": usage}))
