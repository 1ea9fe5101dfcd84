"""Splits a bulk job's input file into lines, parses and validates a line; `Bitmap` is a set of line numbers."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any, Final, NamedTuple

from jobs.contract.embeddings import EMBEDDINGS_URL, read_embedding_request
from jobs.contract.errors import Refused
from jobs.contract.json_reader import BLANK, read_json

FIELDS: Final = ("custom_id", "method", "url", "body")
JOBS_URL: Final = "/v1/jobs"
URLS: Final = (JOBS_URL, EMBEDDINGS_URL)  # the endpoints of a batch, which its lines name too
MAX_CUSTOM_ID: Final = 512


class Line(NamedTuple):
    """A line that is not blank. `number` counts all lines from 1; `end`: byte behind it; `data` None: too long."""

    number: int
    end: int
    data: bytes | None


class ParsedLine(NamedTuple):
    """The request in a line. Of an invalid line: its error, and its custom_id if that is readable."""

    custom_id: str | None
    body: Mapping[str, Any]
    error: Refused | None = None


class Bitmap:
    """A bit for each line of a file."""

    def __init__(self, data: bytes = b"") -> None:
        self._data = bytearray(data)

    def add(self, number: int) -> None:
        """Set a line's bit."""
        if number >> 3 >= len(self._data):
            self._data.extend(bytes(max(1024, (number >> 3) + 1 - len(self._data))))
        self._data[number >> 3] |= 0x80 >> (number & 7)

    def __contains__(self, number: int) -> bool:
        at = number >> 3
        return at < len(self._data) and bool(self._data[at] & (0x80 >> (number & 7)))

    def __bytes__(self) -> bytes:
        return bytes(self._data)


async def split_lines(
    blocks: AsyncGenerator[bytes], longest: int, number: int = 0, offset: int = 0
) -> AsyncGenerator[list[Line]]:
    """Yield the lines of each block, starting at line `number` and byte `offset`. Longer lines are not kept."""
    rest, dropped = b"", 0  # bytes of the incomplete line; their number, once they are too many
    async with aclosing(blocks):
        async for block in blocks:
            *complete, rest = (rest + block).split(b"\n")
            lines: list[Line] = []
            for data in complete:
                number, offset = number + 1, offset + dropped + len(data) + 1
                is_long, dropped = dropped + len(data) > longest, 0
                if is_long or data.strip(BLANK):
                    lines.append(Line(number, offset, None if is_long else data))
            if dropped or len(rest) > longest:
                rest, dropped = b"", dropped + len(rest)
            yield lines
    if dropped or rest.strip(BLANK):
        is_long = dropped + len(rest) > longest
        yield [Line(number + 1, offset + dropped + len(rest), None if is_long else rest)]


def read_line(line: Line, longest: int, url: str) -> ParsedLine:
    """Parse and validate a line. `url`: the endpoint of its batch. The parsed body is that of a job in any case."""
    if line.data is None:
        message = f"a line may have at most {longest} bytes"
        return ParsedLine(None, {}, Refused("body_too_large", message, limit_bytes=longest))
    custom_id: str | None = None
    try:
        fields = read_json(line.data, "the line")
        custom_id = _read_custom_id(fields)
        _check_fields(fields, url)
        body = fields["body"] if url == JOBS_URL else read_embedding_request(fields["body"])
    except Refused as error:
        return ParsedLine(custom_id, {}, error)
    return ParsedLine(custom_id, body)


def _read_custom_id(fields: Any) -> str:
    if not isinstance(fields, dict):
        raise Refused("malformed_request", "the line must be a JSON object", allowed=list(FIELDS))
    custom_id = fields.get("custom_id")
    if not isinstance(custom_id, str) or not 0 < len(custom_id) <= MAX_CUSTOM_ID:
        message = f"custom_id must be a string of 1 to {MAX_CUSTOM_ID} characters"
        raise Refused("invalid_request", message, param="custom_id")
    return custom_id


def _check_fields(fields: Mapping[str, Any], url: str) -> None:
    """Raise Refused for unknown fields, another method or URL, or no body of a job."""
    if unknown := [name for name in fields if name not in FIELDS]:
        message = f"unknown field {unknown[0][:80]!r} in the line"
        raise Refused("invalid_request", message, allowed=list(FIELDS), param=unknown[0][:80])
    if fields.get("method") != "POST":
        raise Refused("invalid_request", "method must be POST", allowed=["POST"], param="method")
    if fields.get("url") != url:
        raise Refused("invalid_request", f"url must be {url}, the batch's endpoint", allowed=[url], param="url")
    if not isinstance(fields.get("body"), dict):
        raise Refused("invalid_request", f"body must be an object, as for POST {url}", param="body")
    if "webhook" in fields["body"]:
        message = "a line cannot have a webhook: set one on the whole batch"
        raise Refused("invalid_request", message, param="body.webhook")
