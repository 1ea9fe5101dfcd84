"""Decides who may come in, before more of a request is looked at than its head: by path, key, role and rate.

A route that is not named here needs a key: a new one can not be left open by forgetting it.
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

PUBLIC_PATHS: Final = frozenset({"/", "/healthz", "/readyz"})
PUBLIC_PREFIX: Final = "/readyz/models/"
ADMIN_PATHS: Final = frozenset({"/metrics"})
MODELS_PREFIX: Final = "/v1/models/"  # whoever has a key may look at them, to change anything there is an admin's


class AccessControl:
    """Stands before all doors."""

    def __init__(self, callers: Authenticator, tenants: TenantLimits, window_s: float) -> None:
        self._callers, self._tenants = callers, tenants
        self._rates = RateLimiter(window_s)

    def authorize(self, request: Request) -> Caller | None:
        """Give who calls, None where nobody needs to know; raises Refused, NotNow."""
        if request.path in PUBLIC_PATHS or request.path.startswith(PUBLIC_PREFIX):
            return None
        caller = self._callers.find(request)
        changes_models = request.path.startswith(MODELS_PREFIX) and request.method != "GET"
        if (request.path in ADMIN_PATHS or changes_models) and not caller.is_admin:
            raise Refused("forbidden", f"{request.path[:200]} needs a key with the role admin, and this one has not")
        return caller

    def count_request(self, caller: Caller | None, now: float) -> tuple[Sequence[Header], OverLimit | None]:
        """Count a request; gives the headers that say what is left, if there is a limit, and why it is one too many."""
        quota = self._tenants.limits(caller.tenant).requests if caller else 0
        if caller is None or not quota:
            return (), None
        left, window_s = self._rates.take(caller.tenant, quota, now), self._rates.window_s
        headers = (
            (b"ratelimit-policy", b'"requests";q=%d;w=%d' % (quota, math.ceil(window_s))),
            (b"ratelimit", b'"requests";r=%d;t=%d' % (left.remaining, math.ceil(left.reset_in_s))),
        )
        if left.is_allowed:
            return headers, None
        message = f"one gateway takes {quota} requests of yours in {window_s:g} s"
        return headers, OverLimit("rate_limited", message, limit=quota, retry_after_s=left.retry_after_s)
