"""API keys as they are kept: of each a hash, whose it is and what it may do. The key itself is shown once."""

import logging
import re
import secrets
from collections.abc import Mapping
from hashlib import sha256
from typing import Final, Literal, NamedTuple, get_args

import orjson

from jobs.contract.ids import TENANT_NAME
from jobs.redis_client import keys
from jobs.redis_client.client import RedisClient

log = logging.getLogger("jitney.jobs")

Role = Literal["key", "admin"]
ROLES: Final[tuple[Role, ...]] = get_args(Role)
MAX_NOTE: Final = 100
# 256 random bits: no table and no number of guesses finds one, so a plain fast hash keeps it.
_KEY: Final = re.compile(r"jk_([0-9a-f]{16})_[A-Za-z0-9_-]{43}")
API_KEYS_CHANGED: Final = b"keys"


class ApiKey(NamedTuple):
    """An API key without the key: `digest` is its SHA-256."""

    id: str
    tenant: str
    role: Role
    note: str
    created_s: int
    digest: str


def parse_key_id(text: str) -> str:
    """Give the id that a caller's key claims to be of; an empty string where it has not the form of one."""
    match = _KEY.fullmatch(text)
    return match[1] if match else ""


def hash_key(text: str) -> str:
    return sha256(text.encode()).hexdigest()


async def create_key(connection: RedisClient, tenant: str, role: Role, note: str = "") -> tuple[ApiKey, str]:
    """Make a key; gives what is kept of it, and the key. Gateways hear of it at once."""
    key_id = secrets.token_hex(8)
    text = f"jk_{key_id}_{secrets.token_urlsafe(32)}"
    key = ApiKey(key_id, tenant, role, note, await connection.now_ms() // 1000, hash_key(text))
    await connection.script("generic/write_with_ttl", keys.API_KEYS, "", "HSET", key_id, orjson.dumps(key._asdict()))
    await _notify_changed(connection)
    return key, text


async def revoke_key(connection: RedisClient, key_id: str) -> bool:
    """Forget a key, whether or not there was one; gateways hear of it at once."""
    gone = bool(await connection.command("HDEL", keys.API_KEYS, key_id))
    await _notify_changed(connection)
    return gone


async def read_keys(connection: RedisClient) -> dict[str, ApiKey]:
    """Read all keys, by id. What can not be read opens no door."""
    found: Mapping[bytes, bytes] = await connection.command("HGETALL", keys.API_KEYS)
    known = {key_id.decode(errors="replace"): _parse_key(text) for key_id, text in found.items()}
    if broken := [key_id for key_id, key in known.items() if key is None or key.id != key_id]:
        log.warning("the records of these API keys can not be read, and open no door: %.200r", sorted(broken))
    # One that is broken is still a key: without any, a gateway may be open to everybody.
    nobody = ApiKey("", "", "key", "", 0, "")
    return {key_id: nobody if key_id in broken or key is None else key for key_id, key in known.items()}


def _parse_key(text: bytes) -> ApiKey | None:
    try:
        key = ApiKey(**orjson.loads(text))
    except (ValueError, TypeError):
        return None
    texts = all(isinstance(part, str) for part in (key.id, key.tenant, key.note, key.digest))
    return key if texts and key.role in ROLES and TENANT_NAME.fullmatch(key.tenant) else None


async def _notify_changed(connection: RedisClient) -> None:
    await connection.command("PUBLISH", keys.INVALIDATION, API_KEYS_CHANGED)
