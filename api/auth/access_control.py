"""Authorizes requests by path, API key, role and request rate, before their body is read.

Every route that is not listed here needs a key, so a new route is never public by mistake.
"""

import math
from collections.abc import Sequence
from typing import Final

from api.asgi.request import Request
from api.asgi.responses import Header
from api.auth.authentication import Authenticator, Caller
from api.auth.rate_limiter import RateLimiter
from jobs.contract.errors import OverLimit, Refused
from jobs.tenants.limits import TenantLimits

DOCS_PATH: Final = "/docs"  # the page; it asks for a key to read the OpenAPI document
DOCS_FILES: Final = ("docs.js", "swagger-ui-bundle.js", "swagger-ui.css")
OPS_PATH: Final = "/ops"  # the page; what it shows needs the role admin
OPS_FILES: Final = (
    *("ops.css", "main.js", "dom.js", "service.js", "metrics.js"),
    *("overview.js", "batches.js", "jobs.js", "job.js", "dead_letters.js", "webhooks.js", "bulk_jobs.js"),
)
PUBLIC_PATHS: Final = frozenset(
    {
        *("/", "/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"),
        *(DOCS_PATH, *(f"{DOCS_PATH}/{name}" for name in DOCS_FILES)),
        *(OPS_PATH, *(f"{OPS_PATH}/{name}" for name in OPS_FILES)),
    }
)
PUBLIC_PREFIX: Final = "/readyz/models/"
METRICS_PATHS: Final = frozenset({"/metrics", "/metrics/process"})  # for the roles admin and metrics
# Any key may read here, but only an admin may change anything.
MODELS_PREFIXES: Final = ("/v1/models/", "/v2/repository/models/")
ADMIN_PREFIXES: Final = ("/v1/queues", "/v1/workers", "/v1/tenants", "/v1/ops")


class AccessControl:
    """Checks each request before it is routed."""

    def __init__(self, callers: Authenticator, tenants: TenantLimits, window_s: float) -> None:
        self._callers, self._tenants = callers, tenants
        self._rates = RateLimiter(window_s)

    def authorize(self, request: Request) -> Caller | None:
        """Return the caller, or None on a public path; raises Refused or StoreUnavailable.

        For a head that repeats, the caller found last time is returned, unless the API keys have been read again. No
        such head has a read token, which expires: tokens are for GET only (api/asgi/known_heads.py keeps POSTs).
        """
        memo = request.memo
        if memo is None:
            return self._authorize(request)
        keys_read, known = self._callers.keys_read, memo.get("authorized")
        if known is None or known[0] is not keys_read:
            known = memo["authorized"] = (keys_read, self._authorize(request))
        caller: Caller | None = known[1]
        return caller

    def _authorize(self, request: Request) -> Caller | None:
        if request.path in PUBLIC_PATHS or request.path.startswith(PUBLIC_PREFIX):
            return None
        caller = self._callers.find(request)
        if request.path in METRICS_PATHS:
            if not (caller.is_admin or caller.reads_metrics_only):
                raise Refused("forbidden", f"{request.path} needs an API key with the role admin or metrics")
            return caller
        if caller.reads_metrics_only:
            raise Refused("forbidden", "an API key with the role metrics may read /metrics and /metrics/process alone")
        changes_models = request.path.startswith(MODELS_PREFIXES) and request.method != "GET"
        if (request.path.startswith(ADMIN_PREFIXES) or changes_models) and not caller.is_admin:
            raise Refused("forbidden", f"{request.path[:200]} needs an API key with the role admin")
        return caller

    def count_request(self, caller: Caller | None, now: float) -> tuple[Sequence[Header], OverLimit | None]:
        """Count a request; return its RateLimit headers, and an error if the tenant is over its limit."""
        quota = self._tenants.limits(caller.tenant).requests if caller else 0
        if caller is None or not quota:
            return (), None
        rate, window_s = self._rates.take(caller.tenant, quota, now), self._rates.window_s
        headers = (
            (b"ratelimit-policy", b'"requests";q=%d;w=%d' % (quota, math.ceil(window_s))),
            (b"ratelimit", b'"requests";r=%d;t=%d' % (rate.remaining, math.ceil(rate.reset_in_s))),
        )
        if rate.is_allowed:
            return headers, None
        message = f"each gateway accepts {quota} requests of this tenant in {window_s:g} s"
        return headers, OverLimit("rate_limited", message, limit=quota, retry_after_s=rate.retry_after_s)
