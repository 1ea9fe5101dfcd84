"""Route that makes a read token for one job, for pages that must not have an API key."""

from typing import Final

from fastapi import APIRouter, Response
from fastapi import Request as HttpRequest

from api.asgi.fastapi_adapter import Tenant, json_response, receive_body
from api.auth.job_tokens import DEFAULT_TTL_S, MAX_TTL_S, QUERY_FIELD
from api.gateway.gateway import Gateway
from jobs.contract.errors import Refused
from jobs.contract.job_view import format_timestamp
from jobs.contract.json_reader import read_object

FIELDS: Final = ("ttl_s",)
MAX_BYTES: Final = 4096


def router(gateway: Gateway) -> APIRouter:
    routes = APIRouter(tags=["jobs"])

    @routes.post("/v1/jobs/{job_id}/token", summary="Make a token that reads this job alone")
    async def make_read_token(http: HttpRequest, tenant: Tenant, job_id: str) -> Response:
        """Return a token that reads the job, its events and its output, in the query as `token`, until it expires.

        It ends earlier if the API key of this request is revoked. The URLs in the answer have the token.
        """
        ttl_s = _read_ttl(await receive_body(http, gateway.bodies, MAX_BYTES))
        await gateway.read(tenant, job_id)
        token, expires_s = gateway.callers.write_token(http.scope["caller"], job_id, ttl_s)
        path, query = f"/v1/jobs/{job_id}", f"?{QUERY_FIELD.decode()}={token}"
        urls = {"self": path + query, "events": f"{path}/events{query}", "output": f"{path}/output{query}"}
        return json_response({"token": token, "expires_at": format_timestamp(expires_s * 1_000_000), "urls": urls})

    return routes


def _read_ttl(body: bytes) -> int:
    """Parse the body of the request, which may be empty; raises Refused."""
    fields = read_object(body, "the body") if body else {}
    if unknown := [name for name in fields if name not in FIELDS]:
        raise Refused("invalid_request", f"unknown field {unknown[0][:80]!r}", allowed=list(FIELDS))
    ttl_s = fields.get("ttl_s", DEFAULT_TTL_S)
    if type(ttl_s) is not int or not 1 <= ttl_s <= MAX_TTL_S:
        raise Refused(
            "invalid_request", f"ttl_s must be a whole number of seconds from 1 to {MAX_TTL_S}", param="ttl_s"
        )
    return ttl_s
