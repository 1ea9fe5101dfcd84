"""Parses a multipart/form-data body incrementally, and passes each part's data to a callback.

Names and text are UTF-8 (RFC 7578). A charset, a Content-Transfer-Encoding and a `filename*` are ignored, so that a
caller cannot choose a codec.
"""

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from jobs.contract.errors import Refused

MULTIPART: Final = "multipart/form-data"
_CALLBACKS: Final = ("part_begin", "part_data", "part_end", "header_field", "header_value", "header_end")


class FormPart(NamedTuple):
    """The headers of one part of a form; `file_name` is None for a text field."""

    name: str
    file_name: str | None


Sink = Callable[[bytes], None]


class MultipartForm:
    """An incremental parser of one form. `begin` receives each part's head and returns the sink of its data."""

    def __init__(self, content_type: str, fields: Sequence[str], begin: Callable[[FormPart], Sink]) -> None:
        """Create a parser; raises Refused for another content type, or one without a boundary."""
        kind, options = parse_options_header(content_type)
        if kind.decode("latin-1") != MULTIPART:
            message = f"content type {content_type[:80]!r} is not supported here: send a multipart form"
            raise Refused("unsupported_media_type", message, allowed=[MULTIPART])
        boundary = options.get(b"boundary")
        if not boundary:
            raise Refused("malformed_request", "the multipart body cannot be read: its content type has no boundary")
        self._fields, self._begin = fields, begin
        self.seen: set[str] = set()  # names of the fields so far
        self._sink: Sink = _discard
        self._header, self._value, self._disposition = b"", b"", b""
        self.is_complete = False  # the closing boundary was read
        self.is_in_part = False
        callbacks = {f"on_{name}": getattr(self, f"_on_{name}") for name in (*_CALLBACKS, "headers_finished", "end")}
        try:
            self._parser = MultipartParser(boundary, callbacks)  # type: ignore[arg-type]
        except FormParserError as error:
            raise _malformed_form(error) from error

    def write(self, data: bytes) -> None:
        """Parse more of the body; raises Refused if it is malformed, or a field is unknown or repeated."""
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise _malformed_form(error) from error

    def _on_part_begin(self) -> None:
        self.is_in_part, self._disposition = True, b""

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header = self._value = b""

    def _on_headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        name, file_name = options.get(b"name", b"").decode(errors="replace"), options.get(b"filename")
        if name not in self._fields:
            raise Refused("invalid_request", f"unknown form field {name[:80]!r}", allowed=list(self._fields))
        if name in self.seen:
            raise Refused("invalid_request", f"form field {name!r} appears twice", param=name)
        self.seen.add(name)
        self._sink = self._begin(FormPart(name, None if file_name is None else file_name.decode(errors="replace")))

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        self._sink(data[start:end])

    def _on_part_end(self) -> None:
        self.is_in_part, self._sink = False, _discard

    def _on_end(self) -> None:
        self.is_complete = True


class TextField:
    """A sink that collects the value of a text field, up to a limit."""

    def __init__(self, name: str, limit_bytes: int) -> None:
        self._name, self._limit_bytes = name, limit_bytes
        self._data = bytearray()

    def __call__(self, data: bytes) -> None:
        """Add data; raises Refused above the limit."""
        self._data += data
        if len(self._data) > self._limit_bytes:
            message = f"form field {self._name!r} is larger than the limit of {self._limit_bytes} bytes"
            raise Refused("body_too_large", message, limit_bytes=self._limit_bytes, param=self._name)

    def read(self) -> str:
        """Return the text; raises Refused if it is not UTF-8."""
        try:
            return self._data.decode()
        except UnicodeDecodeError as error:
            message = f"form field {self._name!r} is not UTF-8; other charsets are not supported"
            raise Refused("malformed_request", message) from error


def _discard(_: bytes) -> None:
    """Ignore data outside of all parts."""


def _malformed_form(error: FormParserError) -> Refused:
    return Refused("malformed_request", f"the multipart body cannot be read: {str(error)[:200]}")
