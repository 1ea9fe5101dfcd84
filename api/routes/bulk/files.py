"""The routes of files: upload, list, look at, download, delete. OpenAI's objects, so that its clients work."""

from collections.abc import AsyncIterator
from pathlib import PurePath
from typing import Annotated, Any, Final, Literal

import orjson
from fastapi import APIRouter, Query, Response
from fastapi import Request as HttpRequest
from fastapi.responses import StreamingResponse

from api.asgi.fastapi_response import respond
from api.asgi.request import Request
from api.asgi.responses import ALWAYS, Answer
from api.gateway.gateway import Gateway
from api.routes.bulk.upload import Upload
from jobs.bulk import files
from jobs.bulk.files import File
from jobs.contract.errors import Refused, StoreUnavailable
from jobs.contract.ids import choose_shard

PATH: Final = "/v1/files"
PURPOSES: Final = ("batch",)
MOST_NAME: Final = 255
MOST_DIGITS: Final = 15  # of a number of seconds
JSONL: Final = "application/jsonl"


def router(gateway: Gateway) -> APIRouter:
    """All routes of files."""
    routes, store, storage = APIRouter(tags=["files"]), gateway.store, gateway.storage

    @routes.post(PATH, summary="Upload a file of lines for a batch")
    async def upload(request: HttpRequest) -> Response:
        asked = Request(request.scope)
        asked.query()
        form = Upload(asked, gateway.bulk.bulk_file_bytes)
        file_id = files.new_id(choose_shard(store.settings.shards, asked.tenant, ""))
        # Before its first byte: whatever ends this process, the sweep finds the content of a file without a record.
        await files.announce(store, file_id, gateway.settings.receive_s + _longest_s(gateway))
        try:
            with gateway.bodies.hold(asked.tenant, asked.evict) as held:
                blocks = form.blocks(request.receive, held, storage.buffer_bytes)
                size = await storage.write(files.content_key(file_id), blocks)
            expires_ms = await store.connection.now_ms() + 1000 * _kept_s(gateway, form)
            name = PurePath(form.file_name).name[:MOST_NAME] or "file"
            file = File(file_id, asked.tenant, name, _purpose(form), size, 0, expires_ms)
            await files.put(store, gateway.bulk, file)
        except StoreUnavailable:  # the record may have been written: the sweep knows
            raise
        except Exception:
            await files.discard(store, storage, file_id)
            raise
        return _json(view(await files.find(store, asked.tenant, file_id)))

    @routes.get(PATH, summary="List own files")
    async def list_files(
        request: HttpRequest,
        limit: Annotated[int, Query(ge=1, le=10_000)] = 100,
        after: str = "",
        order: Literal["asc", "desc"] = "desc",
        purpose: str = "",
    ) -> Response:
        asked = Request(request.scope)
        asked.query("limit", "after", "order", "purpose")
        oldest_first = order == "asc"
        found, more = await files.page(store, asked.tenant, after, limit, purpose=purpose, oldest_first=oldest_first)
        return _json(listed([view(file) for file in found], has_more=more))

    @routes.get(f"{PATH}/{{file_id}}", summary="Look at a file's record")
    async def read_file(request: HttpRequest, file_id: str) -> Response:
        return _json(view(await files.find(store, Request(request.scope).tenant, file_id)))

    @routes.get(f"{PATH}/{{file_id}}/content", summary="Download a file; of results whatever is there by now")
    async def download(request: HttpRequest, file_id: str) -> Response:
        file = await files.find(store, Request(request.scope).tenant, file_id)
        blocks = files.content(store, storage, file)
        first = await anext(blocks, b"")  # what can not be had at all is an error, not a broken download
        headers = {name.decode(): value.decode() for name, value in ALWAYS}
        headers["content-disposition"] = f'attachment; filename="{_plain(file.name)}"'
        return StreamingResponse(_after(first, blocks), media_type=JSONL, headers=headers)

    @routes.delete(f"{PATH}/{{file_id}}", summary="Delete a file")
    async def delete_file(request: HttpRequest, file_id: str) -> Response:
        await files.drop(store, storage, Request(request.scope).tenant, file_id)
        return _json({"id": file_id, "object": "file", "deleted": True})

    return routes


def view(file: File) -> dict[str, Any]:
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


def listed(views: list[dict[str, Any]], *, has_more: bool) -> dict[str, Any]:
    """Show a page; without `has_more` clients of OpenAI's would ask for ever."""
    first, last = (views[0]["id"], views[-1]["id"]) if views else (None, None)
    return {"object": "list", "data": views, "first_id": first, "last_id": last, "has_more": has_more}


def expiry_s(given: Any, most_s: int, what: str) -> int:
    """Read how long something is to be kept: `{anchor: "created_at", seconds}`; raises Refused."""
    seconds = given.get("seconds") if isinstance(given, dict) else None
    if not isinstance(given, dict) or given.get("anchor") != "created_at" or type(seconds) is not int or seconds < 1:
        message = f'{what} must be an object of anchor, "created_at", and seconds'
        raise Refused("invalid_request", message, param=what)
    return min(seconds, most_s)


def _kept_s(gateway: Gateway, form: Upload) -> int:
    anchor, seconds = (form.fields.get(f"expires_after[{name}]") for name in ("anchor", "seconds"))
    if anchor is None and seconds is None:
        return gateway.bulk.bulk_ttl_s
    is_number = seconds is not None and seconds.isascii() and seconds.isdigit() and len(seconds) <= MOST_DIGITS
    given = {"anchor": anchor, "seconds": int(seconds or 0) if is_number else None}
    return expiry_s(given, gateway.bulk.bulk_ttl_s, "expires_after")


def _longest_s(gateway: Gateway) -> float:
    """Give how long an upload may take that brings as many bytes a second as it must."""
    return gateway.bulk.bulk_file_bytes / gateway.bulk.bulk_upload_rate


def _purpose(form: Upload) -> str:
    purpose = form.fields.get("purpose", "")
    if purpose not in PURPOSES:
        message = f"purpose must be batch, not {purpose[:80]!r}" if purpose else "the form has no field purpose"
        raise Refused("invalid_request", message, allowed=list(PURPOSES), param="purpose")
    return purpose


def _plain(name: str) -> str:
    return "".join(sign if sign.isascii() and (sign.isalnum() or sign in "-_. ") else "_" for sign in name)


async def _after(first: bytes, blocks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for block in blocks:
        yield block


def _json(body: dict[str, Any]) -> Response:
    return respond(Answer(200, orjson.dumps(body)))
