"""Parses JSON from callers and bulk files within bounds; describes a caller's value in error messages.

The caller of a function here limits the bytes. The bounds on the content are:

- encoding: UTF-8, with or without a byte order mark; UTF-16 and UTF-32 are detected and refused
- values: MAX_VALUES, counted before parsing, because small values take thirty times their bytes
- depth: MAX_DEPTH levels, so that every value can be written, compared and shown within recursion limits
- numbers: integers beyond 64 bits are read as doubles; numbers beyond a double are refused
"""

import codecs
from typing import Any, Final

import orjson

from jobs.contract.errors import Refused

MAX_VALUES: Final = 1_000_000
MAX_DEPTH: Final = 254  # limit of orjson's writer; Python's repr fails at about 1,000
BLANK: Final = b" \t\r\n\v\f" + codecs.BOM_UTF8  # bytes of a blank line
MAX_SHOWN_CHARS: Final = 80  # of a caller's text in a message
_TOO_DEEP: Final = "depth limit exceeded"  # orjson's message for more than 1,024 levels
_NESTED: Final = {dict, list}
_LITERALS: Final = {None: "null", True: "true", False: "false"}


def read_json(text: bytes | str, what: str) -> Any:
    """Parse JSON. Raises Refused. `what` names the text in messages, such as "the body"."""
    data = text.encode(errors="surrogatepass") if isinstance(text, str) else text
    if data[:3] == codecs.BOM_UTF8:
        data = data[3:]
    if len(data) > MAX_VALUES:
        values = data.count(b",") + data.count(b"[") + data.count(b"{")
        if values > MAX_VALUES:
            message = f"{what} may have {MAX_VALUES} JSON values, and has {values}: send tensors as b64 or raw"
            raise Refused("body_too_large", message, limit=MAX_VALUES)
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        if error.msg.startswith(_TOO_DEEP):
            raise _too_deep(what) from error
        if encoding := detect_wide_encoding(data):
            raise _not_utf8(what, encoding) from error
        raise Refused("malformed_request", f"{what} is not valid JSON: {error}") from error
    if _may_be_deep(data) and _is_deeper(value, MAX_DEPTH):
        raise _too_deep(what, value)
    return value


def read_object(text: bytes | str, what: str) -> dict[str, Any]:
    """Parse a JSON object. Raises Refused."""
    return require_object(read_json(text, what), what)


def require_object(value: Any, what: str) -> dict[str, Any]:
    """Return a value that must be an object. Raises Refused."""
    if not isinstance(value, dict):
        raise Refused("invalid_request", f"{what} must be a JSON object")
    return value


def describe_value(value: Any) -> str:
    """Describe a caller's value in a message: short, without walking through it."""
    if isinstance(value, str):
        return repr(value if len(value) <= MAX_SHOWN_CHARS else f"{value[:MAX_SHOWN_CHARS]}…")
    if value is None or isinstance(value, bool):
        return _LITERALS[value]
    if isinstance(value, float) or (isinstance(value, int) and -(1 << 64) < value < 1 << 64):
        return str(value)
    return {dict: "an object", list: "a list", int: "a number"}.get(type(value), f"a {type(value).__name__}")


def detect_wide_encoding(data: bytes) -> str:
    """Return "UTF-16" or "UTF-32" by byte order mark or zero bytes; "" for other text."""
    head = data[:4]
    if head in (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE) or head.count(b"\0") == 3:
        return "UTF-32"
    has_half_zero = len(head) > 1 and (head[0] == 0) != (head[1] == 0)
    return "UTF-16" if has_half_zero or head[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else ""


def reject_wide_encoding(data: bytes, what: str) -> None:
    """Raise Refused if a text's first bytes are UTF-16 or UTF-32."""
    if encoding := detect_wide_encoding(data):
        raise _not_utf8(what, encoding)


def _not_utf8(what: str, encoding: str) -> Refused:
    return Refused("malformed_request", f"{what} is {encoding} text: send it as UTF-8", allowed=["UTF-8"])


def _too_deep(what: str, value: Any = None) -> Refused:
    fields = value.items() if isinstance(value, dict) else ()
    where = next((f" in {describe_value(name)}" for name, child in fields if _is_deeper(child, MAX_DEPTH - 1)), "")
    message = f"{what} is nested too deep{where}: JSON may have {MAX_DEPTH} levels"
    return Refused("invalid_request", message, limit=MAX_DEPTH)


def _may_be_deep(data: bytes) -> bool:
    """Return True if there are enough brackets. `find` is far cheaper than `count` on texts with few of them."""
    return _has_at_least(data, b"[", MAX_DEPTH // 2) or _has_at_least(data, b"{", MAX_DEPTH // 2)


def _has_at_least(data: bytes, char: bytes, count: int) -> bool:
    at = -1
    for _ in range(count):
        at = data.find(char, at + 1)
        if at < 0:
            return False
    return True


def _is_deeper(value: Any, limit: int) -> bool:
    """Return True if a value has more levels than `limit`; walks level by level, without recursion."""
    level = [value] if type(value) in _NESTED else []
    for _ in range(limit):
        inner: list[Any] = []
        for parent in level:
            children = parent.values() if type(parent) is dict else parent
            if not _NESTED.isdisjoint(map(type, children)):
                inner += [child for child in children if type(child) in _NESTED]
        if not inner:
            return False
        level = inner
    return True
