"""Routes of the pages and the OpenAPI document: `/`, `/ops`, `/docs` with Swagger UI, their files, `/openapi.json`."""

import asyncio
from importlib.resources import files
from pathlib import Path
from typing import Final

import orjson
from fastapi import APIRouter, FastAPI, Response
from fastapi.responses import FileResponse

from api.asgi.fastapi_adapter import to_fastapi_response
from api.asgi.responses import HttpResponse
from api.auth.access_control import DOCS_FILES, DOCS_PATH, OPS_FILES, OPS_PATH

PATH: Final = "/openapi.json"
_PAGES: Final = Path(__file__).parents[1] / "page"
_SWAGGER_UI: Final = Path(str(files("fastapi_swagger.resources")))  # the release of Swagger UI that this package brings
_NOTHING_ELSE: Final = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
_DEMO_POLICY: Final = (
    f"{_NOTHING_ELSE}; connect-src 'self'; img-src 'self' blob: data:; media-src blob:; "
    "style-src 'unsafe-inline'; script-src 'unsafe-inline'"
)
# Swagger UI writes style attributes, and has its icons as data.
_DOCS_POLICY: Final = (
    f"{_NOTHING_ELSE}; connect-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; script-src 'self'"
)
# Inputs of dead letters are shown from memory: images and audio as blobs.
_OPS_POLICY: Final = (
    f"{_NOTHING_ELSE}; connect-src 'self'; img-src 'self' blob: data:; media-src blob:; "
    "style-src 'self'; script-src 'self'"
)


def _write_document(app: FastAPI) -> bytes:
    # A gateway starts without the types of all bodies: their import takes half as long as all its others.
    from api.openapi.document import build_document  # noqa: PLC0415

    return orjson.dumps(build_document(app.routes))


def router(app: FastAPI) -> APIRouter:
    routes = APIRouter(include_in_schema=False)
    document: asyncio.Task[bytes] | None = None

    @routes.get(PATH)
    async def read_openapi() -> Response:
        nonlocal document
        # Built once, beside the requests that are served meanwhile; again if that failed.
        if document is None or (document.done() and document.exception()):
            document = asyncio.create_task(asyncio.to_thread(_write_document, app))
        return to_fastapi_response(HttpResponse(200, await asyncio.shield(document)))

    @routes.get("/")
    async def read_demo_page() -> FileResponse:
        return _page("index.html", _DEMO_POLICY)

    @routes.get(DOCS_PATH)
    async def read_docs_page() -> FileResponse:
        return _page("docs.html", _DOCS_POLICY)

    @routes.get(OPS_PATH)
    async def read_ops_page() -> FileResponse:
        return _page("ops.html", _OPS_POLICY)

    for name in DOCS_FILES:
        _add_file(routes, DOCS_PATH, (_SWAGGER_UI if name.startswith("swagger-ui") else _PAGES) / name)
    for name in OPS_FILES:
        _add_file(routes, OPS_PATH, _PAGES / "ops" / name)
    return routes


def _page(name: str, policy: str) -> FileResponse:
    headers = {"content-security-policy": policy, "referrer-policy": "no-referrer", "x-content-type-options": "nosniff"}
    return FileResponse(_PAGES / name, media_type="text/html", headers=headers)


def _add_file(routes: APIRouter, page: str, path: Path) -> None:
    """Add the route of a file of a page. Large files are cached; small ones are always those of this release."""
    headers = {
        "cache-control": "max-age=3600" if page == DOCS_PATH else "no-cache",
        "x-content-type-options": "nosniff",
    }
    media_type = "text/javascript" if path.suffix == ".js" else None

    @routes.get(f"{page}/{path.name}")
    async def read_file() -> FileResponse:
        return FileResponse(path, media_type=media_type, headers=headers)
