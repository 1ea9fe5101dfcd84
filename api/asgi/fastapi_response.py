"""Turns a response of the gateway into the response object that FastAPI routes return."""

from fastapi import Response

from api.asgi.responses import SECURITY_HEADERS, HttpResponse


def to_fastapi_response(answer: HttpResponse) -> Response:
    """Give an answer in FastAPI's form."""
    response = Response(answer.body, answer.status, media_type=answer.content_type.decode())
    for name, value in (*SECURITY_HEADERS, *answer.headers):
        response.headers[name.decode()] = value.decode()
    return response
