"""Who calls: finds the tenant behind a request's API key among all keys, which are kept here, so that it costs nothing.

A revoked key stops working when the invalidation arrives, or at the next refresh (`JITNEY_API_KEY_REFRESH_S`).
"""

import hmac
import ipaddress
import logging
from typing import Final, Literal, NamedTuple

from api.asgi.request import Request, cache_short
from jobs.contract.errors import Refused, StoreUnavailable
from jobs.redis_client.client import RedisClient
from jobs.redis_client.periodic_refresh import PeriodicRefresh
from jobs.tenants import api_keys
from jobs.tenants.api_keys import ApiKey

log = logging.getLogger("jitney.api")

AnonymousAccess = Literal["loopback", "anyone", "nobody"]
DEFAULT_TENANT: Final = "default"  # whose jobs those are that come without a key
AUTH_SCHEMES: Final = ("bearer", "key", "token")  # Authorization, as the clients of several services send it
KEY_HEADERS: Final = (b"x-api-key", b"api-key")
_NO_DIGEST: Final = api_keys.hash_key("")


class Caller(NamedTuple):
    """Whoever sent a request: a tenant, and whether it may ask about others. `key_id` is empty without a key."""

    tenant: str
    is_admin: bool
    key_id: str = ""


ANONYMOUS: Final = Caller(DEFAULT_TENANT, is_admin=True)


class Authenticator(PeriodicRefresh):
    """All keys, as of the last look."""

    def __init__(self, connection: RedisClient, open_to: AnonymousAccess, *, on_loopback: bool) -> None:
        super().__init__(log, "look at the API keys")
        self._connection = connection
        self._allows_anonymous = open_to == "anyone" or (open_to == "loopback" and on_loopback)
        self._on_loopback = on_loopback
        self._checks_host = open_to == "loopback"
        self._keys: dict[str, ApiKey] | None = None  # None: not looked yet
        self._had_keys = False

    @property
    def mode(self) -> str:
        """Say in words who may call."""
        if self._keys is None:
            return "the queue can not be reached, so nobody may call yet"
        if self._is_open:
            return "there are no API keys: whoever reaches this port may do everything (`jitney keys create` makes one)"
        if not self._keys:
            return "there are no API keys and OPEN does not let others in: nobody may call before `jitney keys create`"
        return "callers need an API key"

    @property
    def _is_open(self) -> bool:
        # Keys that are gone all at once may be a queue that lost its data: that opens no door.
        return self._keys is not None and not self._keys and not self._had_keys and self._allows_anonymous

    async def refresh(self) -> None:
        """Look once."""
        before = self.mode
        self._keys = await api_keys.read_keys(self._connection)
        self._had_keys = self._had_keys or bool(self._keys)
        if self.mode != before:
            (log.warning if self._is_open and not self._on_loopback else log.info)("%s", self.mode)

    def find(self, request: Request) -> Caller:
        """Give who sent a request; raises Refused, and StoreUnavailable where no look at the keys was possible yet."""
        if self._keys is None:
            raise StoreUnavailable("who may call is not known yet: the queue can not be reached", retry_after_s=1)
        if self._is_open:
            self._check_site(request)
            return ANONYMOUS
        text = _read_key(request)
        if not text:
            raise Refused("unauthorized", self._missing(request))
        key = self._keys.get(api_keys.parse_key_id(text))
        # Compared in constant time, and also where there is no such key.
        if not hmac.compare_digest(api_keys.hash_key(text), key.digest if key else _NO_DIGEST) or key is None:
            raise Refused("unauthorized", "this API key is not known; it may have been revoked")
        return Caller(key.tenant, key.role == "admin", key.id)

    def is_known(self, caller: Caller) -> bool:
        """Whether a caller that was let in still would be: long answers ask now and then."""
        return caller.key_id in (self._keys or ()) if caller.key_id else self._is_open

    def _missing(self, request: Request) -> str:
        if not self._keys:
            return "there is no API key yet, so nobody may call: make one with `jitney keys create`"
        message = "this needs an API key: send it as `Authorization: Bearer jk_…`, or as X-API-Key"
        return f"{message}; none is read from the query" if b"key" in request.query_string.lower() else message

    def _check_site(self, request: Request) -> None:
        """Without keys a browser's every page could call: refuse what another site sends, or has renamed us to."""
        if request.header(b"sec-fetch-site") in ("cross-site", "same-site") and request.path != "/":
            raise Refused("forbidden", "another site's page may not call a service that asks for no key")
        if self._checks_host and not _is_local_host(request.header(b"host")):
            message = "without API keys this service is reached by address or as localhost, not by another name"
            raise Refused("forbidden", f"{message} (JITNEY_ALLOW_ANONYMOUS=anyone lifts this)")


def _read_key(request: Request) -> str:
    scheme, _, text = request.header(b"authorization").partition(" ")
    if text and scheme.lower() in AUTH_SCHEMES:
        return text.strip()
    return next((text for name in KEY_HEADERS if (text := request.header(name))), "")


@cache_short(64)
def _is_local_host(host: str) -> bool:
    """Whether a Host header is no name that somebody else's name server could point to us."""
    name = host.rpartition(":")[0] if ":" in host and not host.endswith("]") else host
    if "." not in name or name.lower().endswith(".localhost"):
        return True
    try:
        return bool(ipaddress.ip_address(name.strip("[]")))
    except ValueError:
        return False
