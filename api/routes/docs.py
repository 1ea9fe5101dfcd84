"""Routes of the pages and the OpenAPI document: `/`, `/docs` with Swagger UI and its files, and `/openapi.json`."""

import asyncio
from importlib.resources import files
from pathlib import Path
from typing import Final

import orjson
from fastapi import APIRouter, FastAPI, Response
from fastapi.responses import FileResponse

from api.asgi.fastapi_adapter import to_fastapi_response
from api.asgi.responses import HttpResponse
from api.auth.access_control import DOCS_FILES, DOCS_PATH
from api.openapi.document import build_document

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


def router(app: FastAPI) -> APIRouter:
    routes = APIRouter(include_in_schema=False)
    document: asyncio.Task[bytes] | None = None

    @routes.get(PATH)
    async def read_openapi() -> Response:
        nonlocal document
        if document is None:  # built once, beside the requests that are served meanwhile
            document = asyncio.create_task(asyncio.to_thread(lambda: orjson.dumps(build_document(app.routes))))
        return to_fastapi_response(HttpResponse(200, await asyncio.shield(document)))

    @routes.get("/")
    async def read_demo_page() -> FileResponse:
        return _page("index.html", _DEMO_POLICY)

    @routes.get(DOCS_PATH)
    async def read_docs_page() -> FileResponse:
        return _page("docs.html", _DOCS_POLICY)

    for name in DOCS_FILES:
        _add_file(routes, (_SWAGGER_UI if name.startswith("swagger-ui") else _PAGES) / name)
    return routes


def _page(name: str, policy: str) -> FileResponse:
    headers = {"content-security-policy": policy, "referrer-policy": "no-referrer", "x-content-type-options": "nosniff"}
    return FileResponse(_PAGES / name, media_type="text/html", headers=headers)


def _add_file(routes: APIRouter, path: Path) -> None:
    @routes.get(f"{DOCS_PATH}/{path.name}")
    async def read_docs_file() -> FileResponse:
        headers = {"cache-control": "max-age=3600", "x-content-type-options": "nosniff"}
        return FileResponse(path, headers=headers)
