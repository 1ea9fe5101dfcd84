"""Streams an uploaded file: parses the multipart body as it arrives and yields the file in blocks."""

from collections.abc import AsyncIterator
from typing import Final

from api.asgi.multipart import MULTIPART, FormPart, MultipartForm, Sink, TextField
from api.asgi.request import Request
from api.asgi.responses import Receive
from api.asgi.tenant_budgets import BudgetShare
from jobs.contract.errors import Refused
from jobs.contract.json_reader import reject_wide_encoding

BLOCK_BYTES: Final = 256 << 10
TEXT_BYTES: Final = 8 << 10
OVERHEAD_BYTES: Final = 64 << 10  # of a multipart body besides its file
HEAD_BYTES: Final = 4  # first bytes of a file, which show its encoding
FIELDS: Final = ("file", "purpose", "expires_after[anchor]", "expires_after[seconds]")


class FileUpload:
    """A form with one file. Consume `blocks` first; then `fields` holds the other fields."""

    def __init__(self, request: Request, limit_bytes: int) -> None:
        """Create the parser; raises Refused for another content type or a declared size above the limit."""
        self._limit_bytes, self._file_bytes = limit_bytes, 0
        if request.declared_bytes > limit_bytes + OVERHEAD_BYTES:
            raise self._too_large()
        if "boundary=" not in request.header(b"content-type"):
            message = "send a multipart form, with a boundary, of the fields file and purpose"
            raise Refused("unsupported_media_type", message, allowed=[MULTIPART])
        self._form = MultipartForm(request.header(b"content-type"), FIELDS, self._begin)
        self._request = request
        self._texts: dict[str, TextField] = {}
        self._blocks = bytearray()
        self.file_name = ""
        self._is_encoding_checked = False

    async def blocks(self, receive: Receive, share: BudgetShare, stored_bytes: int) -> AsyncIterator[bytes]:
        """Yield the file in blocks; raises Refused if the form is malformed, incomplete or too large.

        `share` counts the bytes in memory, including up to `stored_bytes` that the storage buffers. Raises QueueFull if
        the budget is used up.
        """
        receive, more, size_bytes, yielded_bytes = self._request.decompress(receive), True, 0, 0
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Refused("malformed_request", "the caller disconnected before the file was complete")
            more, data = message.get("more_body", False), message.get("body", b"")
            size_bytes += len(data)
            if size_bytes > self._limit_bytes + OVERHEAD_BYTES:
                raise self._too_large()
            share.resize(len(self._blocks) + len(data) + min(yielded_bytes, stored_bytes))
            self._form.write(data)
            if self._blocks and (not more or len(self._blocks) >= BLOCK_BYTES):
                block, self._blocks = bytes(self._blocks), bytearray()
                yielded_bytes += len(block)
                yield block
        if not self._form.is_complete:
            raise Refused("malformed_request", "the multipart body ends before its closing boundary")
        if "file" not in self._form.seen:
            problem = "the form has no file field named file"
            raise Refused("invalid_request", problem, allowed=list(FIELDS), param="file")

    @property
    def fields(self) -> dict[str, str]:
        """Return the text fields, once the file has been read; raises Refused if one is not UTF-8."""
        return {name: text.read() for name, text in self._texts.items()}

    def _too_large(self) -> Refused:
        message = f"the file is larger than the limit of {self._limit_bytes} bytes"
        return Refused("body_too_large", message, limit_bytes=self._limit_bytes, param="file")

    def _begin(self, part: FormPart) -> Sink:
        if part.name != "file":
            return self._texts.setdefault(part.name, TextField(part.name, TEXT_BYTES))
        self.file_name = part.file_name or "file"
        return self._write

    def _write(self, data: bytes) -> None:
        self._file_bytes += len(data)
        if self._file_bytes > self._limit_bytes:
            raise self._too_large()
        self._blocks += data
        if not self._is_encoding_checked and len(self._blocks) >= HEAD_BYTES:
            self._is_encoding_checked = True
            reject_wide_encoding(bytes(self._blocks[:HEAD_BYTES]), "the file")
