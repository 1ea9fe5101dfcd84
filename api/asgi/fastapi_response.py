"""Makes the response objects that FastAPI routes return: from an `HttpResponse` of the gateway, or from a JSON view."""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from fastapi import Response

from api.asgi.responses import SECURITY_HEADERS, Header, HttpResponse


def to_fastapi_response(source: HttpResponse) -> Response:
    """Return FastAPI's form of a response, with the security headers."""
    response = Response(source.body, source.status, media_type=source.content_type.decode())
    for name, value in (*SECURITY_HEADERS, *source.headers):
        response.headers[name.decode()] = value.decode()
    return response


def json_response(view: Mapping[str, Any], status: int = 200, headers: Sequence[Header] = ()) -> Response:
    return to_fastapi_response(HttpResponse(status, orjson.dumps(view), headers))
