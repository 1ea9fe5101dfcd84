"""Converts an `HttpResponse` of the gateway to the response object that FastAPI routes return."""

from fastapi import Response

from api.asgi.responses import SECURITY_HEADERS, HttpResponse


def to_fastapi_response(source: HttpResponse) -> Response:
    """Return FastAPI's form of a response, with the security headers."""
    response = Response(source.body, source.status, media_type=source.content_type.decode())
    for name, value in (*SECURITY_HEADERS, *source.headers):
        response.headers[name.decode()] = value.decode()
    return response
