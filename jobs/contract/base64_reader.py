"""Base64 decoder that accepts both alphabets, optional padding, line breaks, and data: URLs."""

from typing import Final
from urllib.parse import unquote

import pybase64

from jobs.contract.errors import Refused

_ALPHABET: Final = bytes.maketrans(b"-_", b"+/")  # RFC 4648: URL-safe to standard alphabet
_BREAKS: Final = b" \t\r\n\v\f"
_DATA_URL: Final = "data:"


def read_base64(text: str, what: str) -> bytes:
    """Decode base64. Raises Refused. The standard form is decoded without a copy."""
    try:
        return pybase64.b64decode(text, validate=True)
    except ValueError as error:
        decoded = _decode_other_forms(text)
        if decoded is None:
            raise Refused("malformed_request", f"{what} is not base64: {error}") from error
        return decoded


def read_base64_or_url(text: str, what: str) -> bytes:
    """Decode base64 or a base64 data: URL. Raises Refused."""
    if text[: len(_DATA_URL)].lower() != _DATA_URL:
        return read_base64(text, what)
    content = text.partition(",")[2]
    return read_base64(unquote(content) if "%" in content else content, what)


def _decode_other_forms(text: str) -> bytes | None:
    if not text.isascii():
        return None
    packed = text.encode().translate(_ALPHABET, _BREAKS)
    digits = packed.rstrip(b"=")
    padding = -len(digits) % 4
    if len(packed) - len(digits) not in (0, padding):
        return None
    try:
        return pybase64.b64decode(digits + b"=" * padding, validate=True)
    except ValueError:
        return None
