"""FastAPI routes to list and cancel jobs, and of health, metrics, and `/predict`."""

from typing import Annotated

from fastapi import APIRouter, Query, Response
from fastapi import Request as HttpRequest

from api.asgi.fastapi_adapter import Tenant, json_response, to_fastapi_response
from api.asgi.request import Request
from api.asgi.responses import HttpResponse, catch_errors
from api.gateway.gateway import Gateway
from api.metrics import render, render_process
from api.metrics.exposition import CONTENT_TYPE
from api.routes import health, predict
from api.routes.list_queries import Limit
from jobs.contract.errors import Refused
from jobs.contract.job_view import job_view, listed_view

FAR_FUTURE_US = 1 << 60

TimeCursor = Annotated[str, Query(max_length=18, description="`next_cursor` of an earlier response")]  # in us


def router(gateway: Gateway) -> APIRouter:
    routes = APIRouter()

    @routes.get("/v1/jobs", tags=["jobs"], summary="List own jobs, newest first, without their outputs")
    async def list_jobs(http: HttpRequest, tenant: Tenant, limit: Limit = 20, cursor: TimeCursor = "") -> Response:
        """Answer the newest jobs. A page may be short, even empty: the last one has no `next_cursor`."""
        Request(http.scope).query("limit", "cursor")
        if cursor and not (cursor.isascii() and cursor.isdigit()):
            raise Refused("invalid_request", "cursor must be the `next_cursor` of an earlier response")
        jobs, before_us = await gateway.store.newest(tenant, int(cursor or FAR_FUTURE_US), limit)
        page = {"jobs": [listed_view(job) for job in jobs], "next_cursor": str(before_us) if before_us else None}
        return json_response(page)

    @routes.delete("/v1/jobs/{job_id}", tags=["jobs"], summary="Cancel a queued or running job")
    async def cancel_job(tenant: Tenant, job_id: str) -> Response:
        """Cancel the job: it never runs, or its result is dropped. A job that is final gets 409."""
        return json_response(job_view(await gateway.cancel(tenant, job_id)))

    @routes.post(predict.PATH, tags=["jobs"], summary="Classify an image and wait for the result")
    async def predict_image(http: HttpRequest) -> Response:
        """Submit the image of a form and wait, with the request and the answer of the classic Flask tutorial.

        A caller that disconnects cancels the job, unless the request has an Idempotency-Key.
        """
        response = predict.predict(gateway, Request(http.scope), http.receive)
        return to_fastapi_response(await catch_errors(response, predict.PATH))

    @routes.get("/healthz", tags=["health"], summary="Check that the process and its event loop run")
    async def check_health() -> dict[str, str]:
        """Answer at once. Nothing else is checked. It needs no API key."""
        return {"status": "ok"}

    @routes.get("/readyz", tags=["health"], summary="Check that the gateway accepts jobs and Redis answers")
    async def check_readiness() -> Response:
        """Answer 200 if the gateway accepts jobs, and 503 if Redis does not answer or the gateway shuts down.

        It needs no API key.
        """
        return to_fastapi_response(await health.check_ready(gateway))

    @routes.get("/readyz/models/{name}", tags=["health"], summary="Check that a live worker serves a model")
    async def check_model_readiness(name: str) -> Response:
        """Answer 200 if a live worker takes new jobs of the model, else 503. It needs no API key."""
        return to_fastapi_response(await health.served(gateway, name))

    @routes.get("/metrics", tags=["health"], summary="Prometheus metrics of the whole queue")
    async def read_metrics() -> Response:
        """Answer the metrics of all gateways and workers. It needs a key with the role admin or metrics."""
        return to_fastapi_response(HttpResponse(200, await render.render(gateway), (), CONTENT_TYPE))

    @routes.get("/metrics/process", tags=["health"], summary="Prometheus metrics of this gateway")
    async def read_process_metrics() -> Response:
        """Answer the metrics of the gateway that is asked: requests, memory, event loop.

        Of several processes that share a port it answers the sums. It needs a key with the role admin or metrics.
        """
        body = render_process.render(gateway.process_counters.read())
        return to_fastapi_response(HttpResponse(200, body, (), CONTENT_TYPE))

    return routes
