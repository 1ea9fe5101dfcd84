"""Read tokens: let their holder read one job for a limited time, as a browser's EventSource that can send no API key.

A token is `jt_<expiry>_<id of the API key>_<signature>`. It is signed with the hash of the API key that asked for it,
which every gateway knows. So nothing is stored, and a token ends with its key.
"""

import hmac
import re
from base64 import urlsafe_b64encode
from typing import Final, NamedTuple

from api.asgi.request import Request

DEFAULT_TTL_S: Final = 3600
MAX_TTL_S: Final = 86_400
QUERY_FIELD: Final = b"token"
_PREFIX: Final = "/v1/jobs/"
_PARTS: Final = ("", "events", "output")  # what may be read of a job: `/v1/jobs/{id}`, `/v1/jobs/{id}/events` …
_TOKEN: Final = re.compile(r"jt_([0-9]{1,12})_([0-9a-f]{16}|)_([A-Za-z0-9_-]{43})")


class JobToken(NamedTuple):
    """A token of a request, not yet verified. `expires_s`: on the clock of the queue's server, since the epoch."""

    job_id: str
    expires_s: int
    key_id: str  # of the API key that signed it; empty if the service had no keys
    signature: str

    def is_signed_with(self, digest: str) -> bool:
        """Return whether the signature is that of an API key's hash. Takes the same time for every signature."""
        return hmac.compare_digest(_sign(digest, self.job_id, self.expires_s), self.signature)


def write_token(digest: str, key_id: str, job_id: str, expires_s: int) -> str:
    """Return a token for a job, signed with the hash of the API key with this id."""
    return f"jt_{expires_s}_{key_id}_{_sign(digest, job_id, expires_s)}"


def take_token(request: Request) -> JobToken | None:
    """Remove the token from the query, so that no later code logs it; return it, or None if the request has none.

    A malformed token has an empty signature, which fits no key. Only requests that read a job have a token.
    """
    if QUERY_FIELD not in request.query_string or request.method != "GET" or not request.path.startswith(_PREFIX):
        return None
    job_id, separator, part = request.path.removeprefix(_PREFIX).partition("/")
    if part not in _PARTS or (separator and not part):
        return None
    values = request.take_query_field(QUERY_FIELD)
    if not values:
        return None
    match = _TOKEN.fullmatch(values[0].decode("latin-1")) if len(values) == 1 else None
    return JobToken(job_id, int(match[1]), match[2], match[3]) if match else JobToken(job_id, 0, "", "")


def _sign(digest: str, job_id: str, expires_s: int) -> str:
    signature = hmac.digest(digest.encode(), f"read token 1\n{job_id}\n{expires_s}".encode(), "sha256")
    return urlsafe_b64encode(signature).rstrip(b"=").decode()
