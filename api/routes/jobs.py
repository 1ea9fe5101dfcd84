"""FastAPI routes to cancel and erase a job, and of health, metrics, and `/predict`."""

from typing import Annotated, Final

from fastapi import APIRouter, Query, Response
from fastapi import Request as HttpRequest

from api.asgi.fastapi_adapter import json_response, to_fastapi_response
from api.asgi.request import Request
from api.asgi.responses import HttpResponse, catch_errors
from api.auth.audit import log_change, log_change_of_other
from api.gateway.gateway import Gateway
from api.metrics import render, render_gateway
from api.metrics.exposition import CONTENT_TYPE
from api.routes import health, predict
from api.routes.list_queries import RequestedTenant
from jobs.contract.errors import Refused
from jobs.contract.job_view import job_view
from jobs.store.job_erasure import erase_job

_BOOLEANS: Final = {"true": True, "false": False}


Purge = Annotated[
    str,
    Query(json_schema_extra={"enum": list(_BOOLEANS)}, description="`true`: purge a job that has ended"),
]


def router(gateway: Gateway) -> APIRouter:
    routes = APIRouter()

    @routes.delete("/v1/jobs/{job_id}", tags=["jobs"], summary="Cancel a job, or purge one that has ended")
    async def cancel_job(http: HttpRequest, tenant: RequestedTenant, job_id: str, purge: Purge = "") -> Response:
        """Cancel the job: it never runs, or its result is dropped. A job that is final gets 409.

        With `purge=true`, delete what is kept of a job that has ended: record, output, dead letter, deliveries, events.
        """
        Request(http.scope).query("purge", "tenant")
        if purge not in ("", *_BOOLEANS):
            raise Refused("invalid_request", "purge must be true or false", allowed=list(_BOOLEANS))
        if not _BOOLEANS.get(purge):
            job = await gateway.cancel(tenant, job_id)
            log_change_of_other(http, job.tenant, "canceled job %s", job_id)
            return json_response(job_view(job))
        await erase_job(gateway.store, gateway.check_job_id(job_id), tenant)
        log_change(http, "purged job %s", job_id)
        return json_response({"purged": job_id})

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
        """Return 200 if the gateway accepts jobs, and 503 if Redis does not answer or the gateway shuts down.

        It needs no API key.
        """
        return to_fastapi_response(await health.check_ready(gateway))

    @routes.get("/readyz/models/{name}", tags=["health"], summary="Check that a live worker serves a model")
    async def check_model_readiness(name: str) -> Response:
        """Return 200 if a live worker takes new jobs of the model, else 503. It needs no API key."""
        return to_fastapi_response(await health.served(gateway, name))

    @routes.get("/metrics", tags=["health"], summary="Prometheus metrics of the whole queue")
    async def read_metrics() -> Response:
        """Return the metrics of all gateways and workers. It needs a key with the role admin or metrics."""
        return to_fastapi_response(HttpResponse(200, await render.render(gateway), (), CONTENT_TYPE))

    @routes.get("/metrics/process", tags=["health"], summary="Prometheus metrics of this gateway")
    async def read_process_metrics() -> Response:
        """Return the metrics of the gateway that is asked: requests, memory, event loop.

        Of several processes that share a port it returns the sums. It needs a key with the role admin or metrics.
        """
        body = render_gateway.render(gateway.process_counters.read())
        return to_fastapi_response(HttpResponse(200, body, (), CONTENT_TYPE))

    return routes
