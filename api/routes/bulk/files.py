"""The routes of files: upload, list, look at, download, delete. OpenAI's objects, so that its clients work."""

from collections.abc import AsyncIterator
from pathlib import PurePath
from typing import Annotated, Any, Final, Literal

import orjson
from fastapi import APIRouter, Query, Response
from fastapi import Request as HttpRequest
from fastapi.responses import StreamingResponse

from api.asgi.fastapi_response import to_fastapi_response
from api.asgi.request import Request
from api.asgi.responses import SECURITY_HEADERS, HttpResponse
from api.gateway.gateway import Gateway
from api.routes.bulk.upload import FileUpload
from jobs.bulk import files
from jobs.bulk.files import File
from jobs.contract.errors import Refused, StoreUnavailable
from jobs.contract.ids import choose_shard

PATH: Final = "/v1/files"
PURPOSES: Final = ("batch",)
MAX_NAME_CHARS: Final = 255
MAX_DIGITS: Final = 15  # of a number of seconds
JSONL: Final = "application/jsonl"


def router(gateway: Gateway) -> APIRouter:
    """All routes of files."""
    routes, store, storage = APIRouter(tags=["files"]), gateway.store, gateway.storage

    @routes.post(PATH, summary="FileUpload a file of lines for a batch")
    async def upload(request: HttpRequest) -> Response:
        parsed_request = Request(request.scope)
        parsed_request.query()
        form = FileUpload(parsed_request, gateway.bulk.bulk_file_bytes)
        file_id = files.new_file_id(choose_shard(store.settings.shards, parsed_request.tenant, ""))
        # Before its first byte: whatever ends this process, the sweep finds the content of a file without a record.
        await files.register_upload(store, file_id, gateway.settings.body_timeout_s + _longest_s(gateway))
        try:
            with gateway.bodies.hold(parsed_request.tenant, parsed_request.evict) as share:
                blocks = form.blocks(request.receive, share, storage.buffer_bytes)
                size = await storage.write(files.content_key(file_id), blocks)
            expires_ms = await store.connection.now_ms() + 1000 * _kept_s(gateway, form)
            name = PurePath(form.file_name).name[:MAX_NAME_CHARS] or "file"
            file = File(file_id, parsed_request.tenant, name, _purpose(form), size, 0, expires_ms)
            await files.add_file(store, gateway.bulk, file)
        except StoreUnavailable:  # the record may have been written: the sweep knows
            raise
        except Exception:
            await files.discard_upload(store, storage, file_id)
            raise
        return _json(file_view(await files.get_file(store, parsed_request.tenant, file_id)))

    @routes.get(PATH, summary="List own files")
    async def list_files(
        request: HttpRequest,
        limit: Annotated[int, Query(ge=1, le=10_000)] = 100,
        after: str = "",
        order: Literal["asc", "desc"] = "desc",
        purpose: str = "",
    ) -> Response:
        parsed_request = Request(request.scope)
        parsed_request.query("limit", "after", "order", "purpose")
        oldest_first = order == "asc"
        found, more = await files.list_files(
            store, parsed_request.tenant, after, limit, purpose=purpose, oldest_first=oldest_first
        )
        return _json(page_view([file_view(file) for file in found], has_more=more))

    @routes.get(f"{PATH}/{{file_id}}", summary="Look at a file's record")
    async def read_file(request: HttpRequest, file_id: str) -> Response:
        return _json(file_view(await files.get_file(store, Request(request.scope).tenant, file_id)))

    @routes.get(f"{PATH}/{{file_id}}/content", summary="Download a file; of results whatever is there by now")
    async def download(request: HttpRequest, file_id: str) -> Response:
        file = await files.get_file(store, Request(request.scope).tenant, file_id)
        blocks = files.read_content(store, storage, file)
        first = await anext(blocks, b"")  # what can not be had at all is an error, not a broken download
        headers = {name.decode(): value.decode() for name, value in SECURITY_HEADERS}
        headers["content-disposition"] = f'attachment; filename="{_safe_file_name(file.name)}"'
        return StreamingResponse(_prepend(first, blocks), media_type=JSONL, headers=headers)

    @routes.delete(f"{PATH}/{{file_id}}", summary="Delete a file")
    async def delete_file(request: HttpRequest, file_id: str) -> Response:
        await files.delete_file(store, storage, Request(request.scope).tenant, file_id)
        return _json({"id": file_id, "object": "file", "deleted": True})

    return routes


def file_view(file: File) -> dict[str, Any]:
    """Show a file as OpenAI's object, ready for orjson."""
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.size_bytes,
        "created_at": file.created_ms // 1000,
        "expires_at": file.expires_ms // 1000,
        "filename": file.name,
        "purpose": file.purpose,
        "status": "processed",
        "status_details": None,
    }


def page_view(views: list[dict[str, Any]], *, has_more: bool) -> dict[str, Any]:
    """Show a page; without `has_more` clients of OpenAI's would ask for ever."""
    first, last = (views[0]["id"], views[-1]["id"]) if views else (None, None)
    return {"object": "list", "data": views, "first_id": first, "last_id": last, "has_more": has_more}


def read_expiry_s(given: Any, most_s: int, what: str) -> int:
    """Read how long something is to be kept: `{anchor: "created_at", seconds}`; raises Refused."""
    seconds = given.get("seconds") if isinstance(given, dict) else None
    if not isinstance(given, dict) or given.get("anchor") != "created_at" or type(seconds) is not int or seconds < 1:
        message = f'{what} must be an object of anchor, "created_at", and seconds'
        raise Refused("invalid_request", message, param=what)
    return min(seconds, most_s)


def _kept_s(gateway: Gateway, form: FileUpload) -> int:
    anchor, seconds = (form.fields.get(f"expires_after[{name}]") for name in ("anchor", "seconds"))
    if anchor is None and seconds is None:
        return gateway.bulk.bulk_ttl_s
    is_number = seconds is not None and seconds.isascii() and seconds.isdigit() and len(seconds) <= MAX_DIGITS
    given = {"anchor": anchor, "seconds": int(seconds or 0) if is_number else None}
    return read_expiry_s(given, gateway.bulk.bulk_ttl_s, "expires_after")


def _longest_s(gateway: Gateway) -> float:
    """Give how long an upload may take that brings as many bytes a second as it must."""
    return gateway.bulk.bulk_file_bytes / gateway.bulk.bulk_upload_rate


def _purpose(form: FileUpload) -> str:
    purpose = form.fields.get("purpose", "")
    if purpose not in PURPOSES:
        message = f"purpose must be batch, not {purpose[:80]!r}" if purpose else "the form has no field purpose"
        raise Refused("invalid_request", message, allowed=list(PURPOSES), param="purpose")
    return purpose


def _safe_file_name(name: str) -> str:
    return "".join(sign if sign.isascii() and (sign.isalnum() or sign in "-_. ") else "_" for sign in name)


async def _prepend(first: bytes, blocks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for block in blocks:
        yield block


def _json(body: dict[str, Any]) -> Response:
    return to_fastapi_response(HttpResponse(200, orjson.dumps(body)))
