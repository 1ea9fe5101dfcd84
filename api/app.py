"""Creates the ASGI app of a gateway: FastAPI with all routers and error responses, wrapped by the hot routes."""

import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from api.asgi.cors import CorsMiddleware
from api.asgi.fastapi_adapter import operation_id, to_fastapi_response
from api.asgi.responses import INTERNAL_ERROR, App, error_response
from api.gateway.gateway import Gateway
from api.routes import (
    dead_letters,
    docs,
    events,
    job_lists,
    job_query,
    job_token,
    models,
    open_inference,
    ops,
    queues,
    tenants,
    webhooks,
    workers,
)
from api.routes.bulk import batches, files
from api.routes.hot_jobs import JOBS_PATH, HotRoutes
from api.routes.jobs import router
from api.routes.text import embeddings, rerank
from jobs.contract.errors import JitneyError, Refused

_STATUS_CODES = {404: "route_not_found", 405: "method_not_allowed"}


def create_app(gateway: Gateway) -> App:
    """Create the ASGI app of one gateway. Its lifespan starts and stops the gateway's background loops."""

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        await gateway.start()
        # Loaded modules are never freed. Collecting over them would add tens of ms to the tail latency.
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 50, 100)
        yield
        await gateway.stop()

    # No redirects to add or remove a slash: their target would come from the caller's Host header.
    app = FastAPI(lifespan=lifespan, openapi_url=None, redirect_slashes=False, generate_unique_id_function=operation_id)
    app.include_router(router(gateway))
    app.include_router(job_query.router(gateway))
    app.include_router(job_token.router(gateway))
    app.include_router(job_lists.router(gateway))
    app.include_router(queues.router(gateway))
    app.include_router(workers.router(gateway))
    app.include_router(tenants.router(gateway))
    app.include_router(ops.router(gateway))
    app.include_router(models.router(gateway))
    app.include_router(dead_letters.router(gateway))
    app.include_router(webhooks.router(gateway))
    app.include_router(events.router(gateway))
    app.include_router(files.router(gateway))
    app.include_router(batches.router(gateway))
    app.include_router(embeddings.router(gateway))
    app.include_router(rerank.router(gateway))
    app.include_router(open_inference.router(gateway))
    app.include_router(docs.router(app))

    @app.exception_handler(JitneyError)
    async def jitney_error(request: Request, error: JitneyError) -> Response:
        return to_fastapi_response(error_response(error, request.scope["path"]))

    @app.exception_handler(RequestValidationError)
    async def validation_error(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        refusal = Refused("invalid_request", f"{field}: {first['msg']}")
        return to_fastapi_response(error_response(refusal, request.scope["path"]))

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        path, allow = request.scope["path"], (error.headers or {}).get("Allow", "")
        code = _STATUS_CODES.get(error.status_code, "malformed_request")
        if path == JOBS_PATH:  # FastAPI does not know the methods of the hot routes
            allow = "GET, POST"
        if "GET" in allow.split(", "):
            allow = allow.replace("GET", "GET, HEAD")
        message, headers = f"{request.method} {path[:200]}: {error.detail}", [(b"allow", allow.encode())]
        if not allow:
            return to_fastapi_response(error_response(Refused(code, message), path))
        return to_fastapi_response(error_response(Refused(code, f"{message}; allowed: {allow}"), path, headers))

    @app.exception_handler(Exception)
    async def internal_error(request: Request, _error: Exception) -> Response:
        # Starlette logs the error once this response is sent.
        return to_fastapi_response(error_response(JitneyError("internal_error", INTERNAL_ERROR), request.scope["path"]))

    routes = HotRoutes(app, gateway)
    return CorsMiddleware(routes, gateway.cors) if gateway.cors.origins else routes
