"""FastAPI routes to list and cancel jobs, and of health, metrics, `/predict` and the demo page."""

from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Query, Response
from fastapi import Request as HttpRequest
from fastapi.responses import FileResponse

from api.asgi.fastapi_adapter import Tenant, json_response, to_fastapi_response
from api.asgi.request import Request
from api.asgi.responses import HttpResponse, catch_errors
from api.gateway.gateway import Gateway
from api.metrics import render
from api.routes import health, predict
from api.routes.list_queries import Limit
from jobs.contract.errors import Refused
from jobs.contract.job_view import job_view, listed_view

PAGE = Path(__file__).parents[1] / "page" / "index.html"
CONTENT_SECURITY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src 'self' blob: data:; "
    "media-src blob:; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
FAR_FUTURE_US = 1 << 60

TimeCursor = Annotated[str, Query(max_length=18)]  # in us


def router(gateway: Gateway) -> APIRouter:
    routes = APIRouter()

    @routes.get("/v1/jobs", tags=["jobs"], summary="List own jobs, newest first, without their outputs")
    async def list_jobs(http: HttpRequest, tenant: Tenant, limit: Limit = 20, cursor: TimeCursor = "") -> Response:
        Request(http.scope).query("limit", "cursor")
        if cursor and not (cursor.isascii() and cursor.isdigit()):
            raise Refused("invalid_request", "cursor must be the `next_cursor` of an earlier response")
        jobs, before_us = await gateway.store.newest(tenant, int(cursor or FAR_FUTURE_US), limit)
        page = {"jobs": [listed_view(job) for job in jobs], "next_cursor": str(before_us) if before_us else None}
        return json_response(page)

    @routes.delete("/v1/jobs/{job_id}", tags=["jobs"], summary="Cancel a queued or running job")
    async def cancel_job(tenant: Tenant, job_id: str) -> Response:
        return json_response(job_view(await gateway.cancel(tenant, job_id)))

    @routes.post("/predict", include_in_schema=False)
    async def classify(http: HttpRequest) -> Response:
        response = predict.predict(gateway, Request(http.scope), http.receive)
        return to_fastapi_response(await catch_errors(response, predict.PATH))

    @routes.get("/healthz", tags=["health"], summary="Check that the process and its event loop run")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @routes.get("/readyz", tags=["health"], summary="Check that the gateway accepts jobs and Redis answers")
    async def readyz() -> Response:
        return to_fastapi_response(await health.check_ready(gateway))

    @routes.get("/readyz/models/{name}", tags=["health"], summary="Check that a live worker serves a model")
    async def model_readyz(name: str) -> Response:
        return to_fastapi_response(await health.served(gateway, name))

    @routes.get("/metrics", tags=["health"], summary="Prometheus metrics of the whole queue")
    async def prometheus() -> Response:
        return to_fastapi_response(HttpResponse(200, await render.render(gateway), (), render.CONTENT_TYPE))

    @routes.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        headers = {"content-security-policy": CONTENT_SECURITY, "referrer-policy": "no-referrer"}
        return FileResponse(PAGE, media_type="text/html", headers={**headers, "x-content-type-options": "nosniff"})

    return routes
