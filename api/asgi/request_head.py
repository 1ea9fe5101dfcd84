"""Checks the head of a request that llhttp has parsed: size, framing, HTTP version; builds its ASGI scope."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import httptools

from api.asgi.request import parse_url
from api.asgi.request_observer import REQUEST_ID
from jobs.contract.errors import Refused

MAX_HEADERS: Final = 100
MAX_LENGTH_DIGITS: Final = 19  # of a Content-Length, because llhttp counts in 64 bits
HTTP_VERSIONS: Final = ("1.1", "1.0")

Fields = Sequence[tuple[bytes, bytes]]


def check_size(url: bytes, headers: Fields, at_most: int, limit_bytes: int) -> None:
    """Raise Refused for a head that is too large. `at_most`: an upper bound of its size."""
    if len(headers) > MAX_HEADERS:
        raise too_large(limit_bytes)
    if at_most > limit_bytes < len(url) + sum(len(name) + len(value) for name, value in headers):
        raise too_large(limit_bytes)


def too_large(limit_bytes: int) -> Refused:
    """Return the error for a head above a limit of bytes, or with more than MAX_HEADERS fields."""
    message = f"the head of the request exceeds the limit of {limit_bytes} bytes or {MAX_HEADERS} header fields"
    return Refused("head_too_large", message, limit_bytes=limit_bytes, limit=MAX_HEADERS)


def declared_bytes(headers: Fields, fields: Mapping[bytes, bytes]) -> int:
    """Return the Content-Length, or 0 without one. Raises Refused for framing that llhttp accepts and we do not."""
    digits = fields.get(b"content-length", b"").strip()
    if b"transfer-encoding" in fields:
        codings = [value for name, value in headers if name == b"transfer-encoding"]
        if b"".join(codings).lower().strip() not in (b"", b"chunked"):
            message = "Transfer-Encoding must be chunked; send a compressed body with Content-Encoding"
            raise Refused("malformed_request", message)
    if digits and (len(digits) > MAX_LENGTH_DIGITS or not digits.isdigit()):
        message = f"Content-Length must be a number of at most {MAX_LENGTH_DIGITS} digits"
        raise Refused("malformed_request", message)
    return int(digits or b"0")


def build_scope(
    parser: httptools.HttpRequestParser, url: bytes, headers: Fields, fields: Mapping[bytes, bytes]
) -> dict[str, Any]:
    """Return the ASGI scope of a request, without what belongs to its connection. Raises Refused."""
    path, raw_path, query = parse_url(url)
    version, request_id = parser.get_http_version(), fields.get(b"x-request-id", b"")
    if version not in HTTP_VERSIONS:
        raise Refused("malformed_request", f"HTTP/{version} is not supported: send HTTP/1.1")
    return {
        "type": "http",
        "http_version": version,
        "method": parser.get_method().decode("ascii"),
        "path": path,
        "raw_path": raw_path,
        "query_string": query,
        "headers": headers,
        "header_map": fields,
        "request_id": request_id if request_id and REQUEST_ID.fullmatch(request_id) else b"",
    }


def encode_without_upgrade(parser: httptools.HttpRequestParser, url: bytes, headers: Fields) -> bytes:
    """Return the bytes of a head without its Upgrade field."""
    lines = [b"%s %s HTTP/%s" % (parser.get_method(), url, parser.get_http_version().encode())]
    lines += [b"%s: %s" % field for field in headers if field[0] != b"upgrade"]
    return b"\r\n".join([*lines, b"", b""])
