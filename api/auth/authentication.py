"""Finds a request's tenant and role by its API key; without keys, admits the callers that a setting allows.

All keys are cached. A revoked key stops working when the invalidation arrives, or at the next refresh
(`JITNEY_API_KEY_REFRESH_S`).
"""

import hmac
import ipaddress
import logging
import math
import time
from typing import Final, Literal, NamedTuple

from api.asgi.cors import CorsPolicy
from api.asgi.request import Request, cache_short
from api.auth import job_tokens
from api.auth.job_tokens import JobToken
from jobs.contract.errors import Refused, StoreUnavailable
from jobs.redis_client.client import RedisClient
from jobs.redis_client.periodic_refresh import PeriodicRefresh
from jobs.tenants import api_keys
from jobs.tenants.api_keys import ApiKey

log = logging.getLogger("jitney.api")

AnonymousAccess = Literal["loopback", "anyone", "nobody"]
DEFAULT_TENANT: Final = "default"  # owns the jobs that are sent without a key
AUTH_SCHEMES: Final = ("bearer", "key", "token")  # schemes of the Authorization header that common clients send
KEY_HEADERS: Final = (b"x-api-key", b"api-key")
_NO_DIGEST: Final = api_keys.hash_key("")
_READERS: Final = ("caller", "admin")  # the roles of keys that may read jobs, and so give read tokens for them
_CROSS_SITE: Final = (b"cross-site", b"same-site")


class Caller(NamedTuple):
    """The sender of a request. An admin may read other tenants' data; `key_id` is empty without a key.

    `reads_metrics_only`: its key has the role metrics.
    """

    tenant: str
    is_admin: bool
    key_id: str = ""
    reads_metrics_only: bool = False
    expires_s: int = 0  # of a read token, on the clock of the queue's server, since the epoch; 0: never


ANONYMOUS: Final = Caller(DEFAULT_TENANT, is_admin=True)


class Authenticator(PeriodicRefresh):
    """Caches all API keys, and finds the caller of a request."""

    def __init__(
        self,
        connection: RedisClient,
        anonymous_access: AnonymousAccess,
        cors: CorsPolicy,
        *,
        on_loopback: bool,
    ) -> None:
        super().__init__(log, "read the API keys")
        self._connection = connection
        self._allows_anonymous = anonymous_access == "anyone" or (anonymous_access == "loopback" and on_loopback)
        self._on_loopback = on_loopback
        self._checks_host = anonymous_access == "loopback"
        self._keys: dict[str, ApiKey] | None = None  # None: not read yet
        self._had_keys = False
        self.keys_read = object()  # another one after each read of the keys
        self._cors = cors
        self._server_ahead_s = 0.0  # the clock of the queue's server less the monotonic one

    @property
    def mode(self) -> str:
        """Describe who may call, for the log."""
        if self._keys is None:
            return "the API keys are not known yet: cannot reach the queue's server, all requests are refused"
        if self._is_open:
            return "there are no API keys: anyone who can reach this port has full access (see `jitney keys create`)"
        if not self._keys:
            return "there are no API keys, and JITNEY_ALLOW_ANONYMOUS refuses other callers: run `jitney keys create`"
        return "callers need an API key"

    @property
    def _is_open(self) -> bool:
        # If all keys vanish, Redis may have lost its data. Access then stays closed.
        return self._keys is not None and not self._keys and not self._had_keys and self._allows_anonymous

    async def refresh(self) -> None:
        """Read the server's time and all keys, and log a change of who may call; raises StoreUnavailable."""
        before = self.mode
        self._server_ahead_s = await self._connection.now_ms() / 1000 - time.monotonic()
        self._keys = await api_keys.read_keys(self._connection)
        self.keys_read = object()
        self._had_keys = self._had_keys or bool(self._keys)
        if self.mode != before:
            (log.warning if self._is_open and not self._on_loopback else log.info)("%s", self.mode)

    def find(self, request: Request) -> Caller:
        """Return the sender of a request; raises Refused, or StoreUnavailable if the keys could not be read yet."""
        if self._keys is None:
            raise StoreUnavailable("the API keys are not known yet: cannot reach the queue's server", retry_after_s=1)
        token = job_tokens.take_token(request)
        if self._is_open:
            self._check_site(request)
            return ANONYMOUS if token is None else self._check_token(token)
        if token is not None:
            return self._check_token(token)
        secret = _read_key(request)
        if not secret:
            raise Refused("unauthorized", self._missing_key_message(request))
        key = self._keys.get(api_keys.parse_key_id(secret))
        # Compare in constant time, also if the key is unknown.
        if not hmac.compare_digest(api_keys.hash_key(secret), key.digest if key else _NO_DIGEST) or key is None:
            raise Refused("unauthorized", "unknown API key; it may have been revoked")
        return Caller(key.tenant, key.role == "admin", key.id, key.role == "metrics")

    def write_token(self, caller: Caller, job_id: str, ttl_s: int) -> tuple[str, int]:
        """Return a read token of a caller for one of its jobs, and its expiry in seconds since the epoch."""
        key = (self._keys or {}).get(caller.key_id)
        expires_s = math.ceil(self._server_time_s()) + ttl_s
        digest = key.digest if key else _NO_DIGEST
        return job_tokens.write_token(digest, caller.key_id, job_id, expires_s), expires_s

    def _check_token(self, token: JobToken) -> Caller:
        """Return the caller of a valid read token: its tenant, never an admin; raises Refused."""
        key = (self._keys or {}).get(token.key_id)
        digest = key.digest if key else _NO_DIGEST
        may_sign = bool(key and key.digest and key.role in _READERS) if token.key_id else self._is_open
        if not token.is_signed_with(digest) or not may_sign:
            raise Refused("unauthorized", "the read token is not valid for this job, or its API key was revoked")
        if self._server_time_s() >= token.expires_s:
            raise Refused("token_expired", "the read token has expired: ask the page's backend for a new one")
        tenant = key.tenant if key else DEFAULT_TENANT
        return Caller(tenant, is_admin=False, key_id=token.key_id, expires_s=token.expires_s)

    def _server_time_s(self) -> float:
        return time.monotonic() + self._server_ahead_s

    def is_known(self, caller: Caller) -> bool:
        """Return whether an accepted caller would still be accepted, for responses that last long."""
        if caller.expires_s and self._server_time_s() >= caller.expires_s:
            return False
        return caller.key_id in (self._keys or ()) if caller.key_id else self._is_open

    def _missing_key_message(self, request: Request) -> str:
        if not self._keys:
            return "all requests are refused while there are no API keys: make one with `jitney keys create`"
        if job_tokens.QUERY_FIELD + b"=" in request.query_string:
            return "a read token only reads its job: GET /v1/jobs/{id}, /v1/jobs/{id}/events and /v1/jobs/{id}/output"
        message = "the request has no API key: send it as `Authorization: Bearer jk_…` or as X-API-Key"
        return f"{message}; a key in the query is ignored" if b"key" in request.query_string.lower() else message

    def _check_site(self, request: Request) -> None:
        """Refuse cross-site requests and DNS rebinding: without keys any page in a browser could call the service."""
        if request.path != "/" and self._is_cross_site(request):
            message = "cross-site requests are refused while the service needs no API key"
            raise Refused("forbidden", f"{message}, unless JITNEY_CORS_ORIGINS lists the origin by name")
        if self._checks_host and not _is_local_host(request.header(b"host")):
            message = "without API keys the Host header must be an IP address or localhost, not another name"
            raise Refused("forbidden", f"{message} (JITNEY_ALLOW_ANONYMOUS=anyone allows any)")

    def _is_cross_site(self, request: Request) -> bool:
        """Return whether a page of another site sent the request, unless its origin is listed by name."""
        site, origin = request.headers.get(b"sec-fetch-site"), request.headers.get(b"origin")
        if origin is not None and origin in self._cors.named:
            return False
        if origin is not None and site is None and self._cors.allows_any:
            # Browsers send no Sec-Fetch-Site to plain HTTP addresses other than loopback.
            return origin.partition(b"://")[2] != request.headers.get(b"host")
        return site in _CROSS_SITE


def _read_key(request: Request) -> str:
    scheme, _, key = request.header(b"authorization").partition(" ")
    if key and scheme.lower() in AUTH_SCHEMES:
        return key.strip()
    return next((key for name in KEY_HEADERS if (key := request.header(name))), "")


@cache_short(64)
def _is_local_host(host: str) -> bool:
    """Return whether a Host header is an IP address or a local name, which no public DNS can point elsewhere."""
    name = host.rpartition(":")[0] if ":" in host and not host.endswith("]") else host
    if "." not in name or name.lower().endswith(".localhost"):
        return True
    try:
        return bool(ipaddress.ip_address(name.strip("[]")))
    except ValueError:
        return False
