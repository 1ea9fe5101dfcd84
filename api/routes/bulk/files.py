"""Routes of files (OpenAI's Files API): upload, list, read, download, delete; its list pages and expiry, shared."""

from collections.abc import AsyncIterator
from pathlib import PurePath
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Query, Response
from fastapi import Request as HttpRequest
from fastapi.responses import StreamingResponse

from api.asgi.fastapi_adapter import Tenant, json_response
from api.asgi.request import Request
from api.asgi.responses import SECURITY_HEADERS
from api.gateway.gateway import Gateway
from api.routes.bulk.upload import FileUpload
from api.routes.list_queries import After
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
    routes, store, storage = APIRouter(tags=["files"]), gateway.store, gateway.storage

    @routes.post(PATH, summary="Upload a file of lines for a batch")
    async def upload_file(http: HttpRequest) -> Response:
        """Store a file of JSON lines, for a batch to run. It is kept for a limited time."""
        request = Request(http.scope)
        request.query()
        form = FileUpload(request, gateway.bulk.bulk_file_bytes)
        file_id = files.new_file_id(choose_shard(store.settings.shards, request.tenant, ""))
        # Registered before the first byte, so that a sweep removes the content if this process dies.
        longest_s = gateway.bulk.bulk_file_bytes / gateway.bulk.bulk_upload_rate  # at the minimum rate
        await files.register_upload(store, file_id, gateway.settings.body_timeout_s + longest_s)
        try:
            with gateway.bodies.hold(request.tenant, request.evict) as share:
                blocks = form.blocks(http.receive, share, storage.buffer_bytes)
                size = await storage.write(files.content_key(file_id), blocks)
            expires_ms = await store.connection.now_ms() + 1000 * _expiry_s(gateway, form)
            name = PurePath(form.file_name).name[:MAX_NAME_CHARS] or "file"
            file = File(file_id, request.tenant, name, _purpose(form), size, 0, expires_ms)
            await files.add_file(store, gateway.bulk, file)
        except StoreUnavailable:  # the record may exist: a sweep removes the content if not
            raise
        except Exception:
            await files.discard_upload(store, storage, file_id)
            raise
        return json_response(file_view(await files.get_file(store, request.tenant, file_id)))

    @routes.get(PATH, summary="List own files")
    async def list_files(
        http: HttpRequest,
        limit: Annotated[int, Query(ge=1, le=10_000, description="entries of a page")] = 100,
        after: After = "",
        order: Annotated[Literal["asc", "desc"], Query(description="by the time of creation")] = "desc",
        purpose: Annotated[str, Query(description="only files of this purpose")] = "",
    ) -> Response:
        """Return the files that were uploaded, and those that batches wrote."""
        request, is_asc = Request(http.scope), order == "asc"
        request.query("limit", "after", "order", "purpose")
        found, more = await files.list_files(store, request.tenant, after, limit, purpose=purpose, oldest_first=is_asc)
        return json_response(page_view([file_view(file) for file in found], has_more=more))

    @routes.get(f"{PATH}/{{file_id}}", summary="Read the record of a file")
    async def read_file(tenant: Tenant, file_id: str) -> Response:
        """Return size, name, purpose and expiry of the file."""
        return json_response(file_view(await files.get_file(store, tenant, file_id)))

    @routes.get(f"{PATH}/{{file_id}}/content", summary="Download a file, or the results so far")
    async def download_file(tenant: Tenant, file_id: str) -> Response:
        """Return the lines of the file. The output of a running batch has the results so far."""
        file = await files.get_file(store, tenant, file_id)
        blocks = files.read_content(store, storage, file)
        first = await anext(blocks, b"")  # fails here with an error, before the response has begun
        headers = {name.decode(): value.decode() for name, value in SECURITY_HEADERS}
        headers["content-disposition"] = f'attachment; filename="{_safe_file_name(file.name)}"'
        return StreamingResponse(_prepend(first, blocks), media_type=JSONL, headers=headers)

    @routes.delete(f"{PATH}/{{file_id}}", summary="Delete a file")
    async def delete_file(tenant: Tenant, file_id: str) -> Response:
        """Remove the file. A file that an open batch reads or writes gets 409."""
        await files.delete_file(store, storage, tenant, file_id)
        return json_response({"id": file_id, "object": "file", "deleted": True})

    return routes


def file_view(file: File) -> dict[str, Any]:
    """Return OpenAI's JSON object of a file."""
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
    """Return OpenAI's JSON object of a page. Without `has_more` its clients would request pages for ever."""
    first, last = (views[0]["id"], views[-1]["id"]) if views else (None, None)
    return {"object": "list", "data": views, "first_id": first, "last_id": last, "has_more": has_more}


def read_expiry_s(value: Any, max_s: int, field: str) -> int:
    """Parse an expiry `{anchor: "created_at", seconds}` to seconds, at most `max_s`; raises Refused."""
    seconds = value.get("seconds") if isinstance(value, dict) else None
    if not isinstance(value, dict) or value.get("anchor") != "created_at" or type(seconds) is not int or seconds < 1:
        message = f'{field} must be an object with anchor "created_at" and seconds'
        raise Refused("invalid_request", message, param=field)
    return min(seconds, max_s)


def _expiry_s(gateway: Gateway, form: FileUpload) -> int:
    anchor, seconds = (form.fields.get(f"expires_after[{name}]") for name in ("anchor", "seconds"))
    if anchor is None and seconds is None:
        return gateway.bulk.bulk_ttl_s
    is_number = seconds is not None and seconds.isascii() and seconds.isdigit() and len(seconds) <= MAX_DIGITS
    expiry = {"anchor": anchor, "seconds": int(seconds or 0) if is_number else None}
    return read_expiry_s(expiry, gateway.bulk.bulk_ttl_s, "expires_after")


def _purpose(form: FileUpload) -> str:
    purpose = form.fields.get("purpose", "")
    if purpose not in PURPOSES:
        message = f"purpose must be batch, not {purpose[:80]!r}" if purpose else "the form has no field purpose"
        raise Refused("invalid_request", message, allowed=list(PURPOSES), param="purpose")
    return purpose


def _safe_file_name(name: str) -> str:
    return "".join(char if char.isascii() and (char.isalnum() or char in "-_. ") else "_" for char in name)


async def _prepend(first: bytes, blocks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for block in blocks:
        yield block
