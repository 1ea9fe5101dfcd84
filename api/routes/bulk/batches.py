"""Routes of bulk jobs (batches in OpenAI's API): create one over a file, read, list, cancel."""

import re
from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Final

import orjson
from fastapi import APIRouter, Response
from fastapi import Request as HttpRequest

from api.asgi.fastapi_adapter import json_response, receive_body
from api.asgi.request import Request
from api.auth.audit import log_change_of_other
from api.gateway.gateway import Gateway
from api.routes.bulk.files import page_view, read_expiry_s
from api.routes.list_queries import After, Limit, NamedTenant
from jobs.bulk import records
from jobs.bulk.input_lines import JOBS_URL, URLS
from jobs.bulk.records import BulkRequest, bulk_view
from jobs.contract import webhook_request
from jobs.contract.errors import Refused
from jobs.contract.json_reader import read_object
from jobs.store.admission import check_idempotency_key

PATH: Final = "/v1/batches"
MAX_BYTES: Final = 64 << 10
_OPTIONS: Final = ("completion_window", "metadata", "output_expires_after", "webhook")
FIELDS: Final = ("input_file_id", "endpoint", "retry_of", *_OPTIONS)
WINDOW: Final = re.compile(r"([1-9][0-9]{0,6})([smh])")
UNITS_MS: Final = {"s": 1000, "m": 60_000, "h": 3_600_000}
MAX_METADATA: Final = 16
MAX_METADATA_KEY, MAX_METADATA_VALUE = 64, 512


def router(gateway: Gateway) -> APIRouter:
    routes, store = APIRouter(tags=["batches"]), gateway.store

    @routes.post(PATH, summary="Run the lines of a file as one batch")
    async def create_batch(http: HttpRequest) -> Response:
        """Run each line of a file as a job of the lane `bulk`, and write the results to a file.

        With `retry_of`, run the lines of an earlier batch again that failed.
        """
        request = Request(http.scope)
        request.query()
        fields = read_object(await receive_body(http, gateway.bodies, MAX_BYTES), "the body")
        bulk_request = await _read(gateway, request, fields)
        now_ms = await store.connection.now_ms()  # the window ends by the server's clock
        bulk = await records.create_bulk(store, gateway.bulk, request.tenant, bulk_request, now_ms)
        return json_response(bulk_view(bulk))

    @routes.get(PATH, summary="List own batches, newest first")
    async def list_batches(http: HttpRequest, tenant: NamedTenant, limit: Limit = 20, after: After = "") -> Response:
        """Return the batches that are kept. `after` is the id of the last one of the page before."""
        Request(http.scope).query("limit", "after", "tenant")
        found, more = await records.list_bulks(store, tenant, after, limit)
        return json_response(page_view([bulk_view(bulk) for bulk in found], has_more=more))

    @routes.get(f"{PATH}/{{batch_id}}", summary="Read a batch")
    async def read_batch(tenant: NamedTenant, batch_id: str) -> Response:
        """Return the status of the batch, its counts, and the ids of its files."""
        return json_response(bulk_view(await records.get_bulk(store, tenant, batch_id)))

    @routes.post(f"{PATH}/{{batch_id}}/cancel", summary="Cancel a batch and keep its finished lines")
    async def cancel_batch(http: HttpRequest, tenant: NamedTenant, batch_id: str) -> Response:
        """Stop the batch. Lines that are done stay in its output file."""
        bulk = await records.cancel_bulk(store, tenant, batch_id)
        log_change_of_other(http, tenant, "canceled %s", batch_id)
        return json_response(bulk_view(bulk))

    return routes


async def _read(gateway: Gateway, request: Request, fields: Mapping[str, Any]) -> BulkRequest:
    """Validate the fields of a new bulk job; raises Refused."""
    if unknown := [name for name in fields if name not in FIELDS]:
        name = unknown[0][:80]
        raise Refused("invalid_request", f"unknown field {name!r}", allowed=list(FIELDS), param=name)
    endpoint = fields.get("endpoint", JOBS_URL)
    if endpoint not in URLS:
        raise Refused("invalid_request", f"endpoint must be {' or '.join(URLS)}", allowed=[*URLS], param="endpoint")
    file, retry_of = await _source(gateway, request.tenant, fields)
    window, window_ms = _window(fields.get("completion_window", "24h"), gateway.settings.max_deadline_ms)
    metadata = _metadata(fields.get("metadata"))
    encoded, webhook = orjson.dumps(metadata), _webhook(gateway, fields.get("webhook", metadata.get("webhook")))
    expiry, max_s = fields.get("output_expires_after"), gateway.bulk.bulk_ttl_s
    kept_s = 0 if expiry is None else read_expiry_s(expiry, max_s, "output_expires_after")
    key, digest, is_retry = _key(request, fields)
    return BulkRequest(file, endpoint, window, window_ms, encoded, webhook, retry_of, key, is_retry, kept_s, digest)


async def _source(gateway: Gateway, tenant: str, fields: Mapping[str, Any]) -> tuple[str, str]:
    """Return the input file, and the bulk job whose failed lines to retry, if any; raises Refused."""
    file, retry_of = fields.get("input_file_id"), fields.get("retry_of")
    if retry_of is None:
        if not isinstance(file, str):
            raise Refused("invalid_request", "input_file_id must be the id of a file", param="input_file_id")
        return file, ""
    if not isinstance(retry_of, str):
        raise Refused("invalid_request", "retry_of must be the id of a batch", param="retry_of")
    before = await records.get_bulk(gateway.store, tenant, retry_of)
    if not before.is_final or before.status == "failed" or before.ended < before.total:
        message = f"{retry_of} is {before.status}: only a batch whose lines have all ended can be retried"
        raise Refused("invalid_request", message, param="retry_of")
    if not before.failed:
        raise Refused("invalid_request", f"no line of {retry_of} failed", param="retry_of")
    if fields.get("endpoint", JOBS_URL) != before.endpoint:
        message = f"endpoint must be {before.endpoint}, as in {retry_of}"
        raise Refused("invalid_request", message, param="endpoint")
    if file not in (None, before.file):
        message = f"input_file_id must be {before.file}, as in {retry_of}, or absent"
        raise Refused("invalid_request", message, param="input_file_id")
    return before.file, before.id


def _window(value: Any, max_ms: int) -> tuple[str, int]:
    matched = WINDOW.fullmatch(value) if isinstance(value, str) else None
    window_ms = int(matched[1]) * UNITS_MS[matched[2]] if matched else 0
    if not 0 < window_ms <= max_ms:
        message = f"completion_window must be a duration such as 24h, 90m or 600s, at most {max_ms // 1000}s"
        raise Refused("invalid_request", message, param="completion_window")
    return value, window_ms


def _metadata(value: Any) -> dict[str, str]:
    metadata = {} if value is None else value
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise Refused("invalid_request", "metadata must be an object of strings", param="metadata")
    is_long = any(len(k) > MAX_METADATA_KEY or len(v) > MAX_METADATA_VALUE for k, v in metadata.items())
    if len(metadata) > MAX_METADATA or is_long:
        lengths = f"keys of {MAX_METADATA_KEY} and values of {MAX_METADATA_VALUE} characters"
        message = f"metadata may have {MAX_METADATA} pairs, {lengths}"
        raise Refused("invalid_request", message, param="metadata", limit=MAX_METADATA)
    return metadata


def _webhook(gateway: Gateway, value: Any) -> str:
    """Return the encoded webhook of a bulk job, or an empty string; raises Refused."""
    if value is None:
        return ""
    if not isinstance(value, str) and not (isinstance(value, dict) and set(value) <= {"url", "headers"}):
        message = "webhook must be a URL, or an object of url and headers"
        raise Refused("invalid_request", message, param="webhook", allowed=["url", "headers"])
    return webhook_request.read_webhook(value, gateway.address_policy)


def _key(request: Request, fields: Mapping[str, Any]) -> tuple[str, str, bool]:
    """Return the idempotency key, a digest of the body, and whether to look for a bulk job of an earlier attempt.

    OpenAI's clients retry without a key, but mark a retry with a header.
    """
    digest = sha256(orjson.dumps(fields, option=orjson.OPT_SORT_KEYS)).hexdigest()[:32]
    if key := request.header(b"idempotency-key"):
        check_idempotency_key(key)
        return key, digest, True
    return digest, digest, request.header(b"x-stainless-retry-count") not in ("", "0")
