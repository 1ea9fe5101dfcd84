"""A file on its way in: the multipart body is taken apart as it comes, and its file goes on block by block."""

from collections.abc import AsyncIterator
from typing import Final, NamedTuple

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from api.answers import Receive
from api.receiving import Request
from jobs.errors import Refused
from jobs.json_reader import refuse_wide

BLOCK_BYTES: Final = 256 << 10
HELD_BYTES: Final = 2 << 20  # of an upload in memory: what has come and is not yet written
TEXT_BYTES: Final = 8 << 10
OVERHEAD_BYTES: Final = 64 << 10  # of a multipart body beside its file
HEAD_BYTES: Final = 4  # of a file, which tell its encoding
FIELDS: Final = ("file", "purpose", "expires_after[anchor]", "expires_after[seconds]")


class Part(NamedTuple):
    """The head of a part of the form."""

    name: str
    file_name: str | None


class Upload:
    """A form with one file. Give its blocks to storage; then the other fields are known."""

    def __init__(self, request: Request, limit_bytes: int) -> None:
        """Begin; raises Refused for what is no such form, or says that it is too large."""
        self._limit_bytes, self._size_bytes = limit_bytes, 0
        if request.content_length > limit_bytes + OVERHEAD_BYTES:
            raise self._too_large()
        kind, options = parse_options_header(request.header(b"content-type"))
        if kind != b"multipart/form-data" or not options.get(b"boundary"):
            message = "a file comes as a multipart form with the fields file and purpose"
            raise Refused("unsupported_media_type", message, allowed=["multipart/form-data"])
        self.fields: dict[str, str] = {}
        self.file_name = ""
        self._part, self._has_file, self._is_whole = Part("", None), False, False
        self._header, self._value, self._disposition = b"", b"", b""
        self._text, self._blocks = bytearray(), bytearray()
        self._is_looked_at = False  # whether the file's encoding was
        names = ("part_begin", "part_data", "part_end", "header_field", "header_value", "header_end")
        callbacks = {f"on_{name}": getattr(self, f"_on_{name}") for name in (*names, "headers_finished", "end")}
        try:
            self._parser = MultipartParser(options[b"boundary"], callbacks)  # type: ignore[arg-type]  # so they are named
        except FormParserError as error:
            raise Refused("malformed_request", f"the multipart body can not be read: {error}") from error

    async def blocks(self, receive: Receive) -> AsyncIterator[bytes]:
        """Give the file as it comes; raises Refused where the form is broken, incomplete or too large."""
        more, received = True, 0
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Refused("malformed_request", "the caller hung up before the file was complete")
            more, body = message.get("more_body", False), message.get("body", b"")
            received += len(body)
            if received > self._limit_bytes + OVERHEAD_BYTES:
                raise self._too_large()
            try:
                self._parser.write(body)
            except FormParserError as error:
                raise Refused("malformed_request", f"the multipart body can not be read: {error}") from error
            if self._blocks and (not more or len(self._blocks) >= BLOCK_BYTES):
                block, self._blocks = bytes(self._blocks), bytearray()
                yield block
        if not self._is_whole:
            raise Refused("malformed_request", "the multipart body ends before its last boundary")
        if not self._has_file:
            raise Refused(
                "invalid_request", "the form has no file field named file", allowed=list(FIELDS), param="file"
            )

    def _too_large(self) -> Refused:
        message = f"a file may have {self._limit_bytes} bytes"
        return Refused("body_too_large", message, limit_bytes=self._limit_bytes, param="file")

    def _on_part_begin(self) -> None:
        self._part, self._disposition, self._text = Part("", None), b"", bytearray()

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
        name = options.get(b"name", b"").decode(errors="replace")
        file_name = options.get(b"filename")
        if name not in FIELDS:
            raise Refused("invalid_request", f"unknown form field {name[:80]!r}", allowed=list(FIELDS))
        if name in self.fields or (name == "file" and self._has_file):
            raise Refused("invalid_request", f"form field {name!r} is given twice", param=name)
        self._part = Part(name, None if file_name is None else file_name.decode(errors="replace"))
        if name == "file":
            self._has_file, self.file_name = True, self._part.file_name or "file"

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._part.name == "file":
            self._size_bytes += end - start
            if self._size_bytes > self._limit_bytes:
                raise self._too_large()
            self._blocks += data[start:end]
            if not self._is_looked_at and len(self._blocks) >= HEAD_BYTES:
                self._is_looked_at = True
                refuse_wide(bytes(self._blocks[:HEAD_BYTES]), "the file")
            return
        self._text += data[start:end]
        if len(self._text) > TEXT_BYTES:
            raise Refused("body_too_large", f"a field of the form may have {TEXT_BYTES} bytes", limit_bytes=TEXT_BYTES)

    def _on_part_end(self) -> None:
        if self._part.name != "file":
            self.fields[self._part.name] = self._text.decode(errors="replace")

    def _on_end(self) -> None:
        self._is_whole = True
