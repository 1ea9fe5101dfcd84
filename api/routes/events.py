"""Routes of server-sent event streams: of one job, or of all jobs of a tenant."""

from collections.abc import AsyncGenerator

from fastapi import APIRouter, Response
from fastapi import Request as HttpRequest
from fastapi.responses import StreamingResponse

from api.asgi.request import Request
from api.asgi.responses import SECURITY_HEADERS
from api.auth.authentication import Caller
from api.gateway.gateway import Gateway
from jobs.contract.errors import Refused
from jobs.store import events


def router(gateway: Gateway) -> APIRouter:
    routes = APIRouter(tags=["events"])
    streams, is_known = gateway.events, gateway.callers.is_known

    @routes.get("/v1/jobs/{job_id}/events", summary="Follow a job, by server-sent events")
    async def follow_job(http: HttpRequest, job_id: str) -> Response:
        """Send an event for each state of the job, from the first on; the newest one has the whole job.

        The stream ends after the final state.
        """
        caller, last = _read_request(http)
        if last and not (last.isascii() and last.isdigit() and len(last) < 10):
            raise Refused("invalid_request", "Last-Event-ID must be the id of an event of this job")
        await gateway.read(caller.tenant, job_id)
        streams.check_stream_limit(caller.tenant)
        job, changes = await events.follow_job(gateway.store, job_id, gateway.id)
        if job is not None and job.is_final and int(last or 0) >= len(changes):
            return Response(status_code=204)  # 204 stops a browser from reconnecting after the end
        return stream_response(streams.stream_job(caller, job_id, int(last or 0), is_known, Request(http.scope).evict))

    @routes.get("/v1/events", summary="Follow all own jobs, by server-sent events")
    async def follow_jobs(http: HttpRequest) -> Response:
        """Send an event for each state that any job of the tenant enters from now on. The stream has no end.

        With `Last-Event-ID` it goes on behind that event. If some events are no longer kept, the first one is `lost`.
        """
        caller, last = _read_request(http)
        if last and not events.is_log_position(gateway.store, last):
            raise Refused("invalid_request", "Last-Event-ID must be the id of an earlier event")
        streams.check_stream_limit(caller.tenant)
        return stream_response(streams.stream_tenant(caller, last, is_known))

    return routes


def _read_request(http: HttpRequest) -> tuple[Caller, str]:
    """Return the caller and the value of Last-Event-ID."""
    request = Request(http.scope)
    request.query()
    return http.scope["caller"], request.header(b"last-event-id")


def stream_response(events_body: AsyncGenerator[bytes]) -> Response:
    """Return FastAPI's form of a stream, with a header that disables buffering in proxies."""
    headers = {name.decode(): value.decode() for name, value in SECURITY_HEADERS} | {"x-accel-buffering": "no"}
    return StreamingResponse(events_body, media_type="text/event-stream", headers=headers)
