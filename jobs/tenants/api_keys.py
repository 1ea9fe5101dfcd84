"""API keys in Redis: create, read and revoke. Only a hash is stored; the key itself is shown once."""

import logging
import re
import secrets
from collections.abc import Mapping
from hashlib import sha256
from typing import Final, Literal, NamedTuple, get_args

import orjson

from jobs.contract.ids import TENANT_NAME
from jobs.redis_client import generic_scripts, keys
from jobs.redis_client.client import RedisClient

log = logging.getLogger("jitney.jobs")

Role = Literal["caller", "admin", "metrics"]
ROLES: Final[tuple[Role, ...]] = get_args(Role)
MAX_NOTE: Final = 100
# A key has 256 random bits, so a plain fast hash is safe against guessing.
_KEY: Final = re.compile(r"jk_([0-9a-f]{16})_[A-Za-z0-9_-]{43}")
API_KEYS_CHANGED: Final = b"keys"


class ApiKey(NamedTuple):
    """Record of an API key. `digest`: SHA-256 of the key."""

    id: str
    tenant: str
    role: Role
    note: str
    created_s: int
    digest: str


def parse_key_id(text: str) -> str:
    """Return the id within an API key; "" if the text is not a key."""
    match = _KEY.fullmatch(text)
    return match[1] if match else ""


def hash_key(text: str) -> str:
    return sha256(text.encode()).hexdigest()


async def create_key(connection: RedisClient, tenant: str, role: Role, note: str = "") -> tuple[ApiKey, str]:
    """Create a key; return its record and the key itself. Gateways are notified."""
    key_id = secrets.token_hex(8)
    text = f"jk_{key_id}_{secrets.token_urlsafe(32)}"
    key = ApiKey(key_id, tenant, role, note, await connection.now_ms() // 1000, hash_key(text))
    record = orjson.dumps(key._asdict())
    await generic_scripts.write_with_ttl(connection, keys.API_KEYS, None, "HSET", key_id, record)
    await _notify_changed(connection)
    return key, text


async def revoke_key(connection: RedisClient, key_id: str) -> bool:
    """Delete a key and notify gateways; return whether it existed."""
    existed = bool(await connection.command("HDEL", keys.API_KEYS, key_id))
    await _notify_changed(connection)
    return existed


async def read_keys(connection: RedisClient) -> dict[str, ApiKey]:
    """Read all keys, by id. An unreadable record is logged and matches no key."""
    stored: Mapping[bytes, bytes] = await connection.command("HGETALL", keys.API_KEYS)
    parsed = {key_id.decode(errors="replace"): _parse_key(text) for key_id, text in stored.items()}
    if broken := [key_id for key_id, key in parsed.items() if key is None or key.id != key_id]:
        log.warning("cannot read the records of these API keys, which grant no access: %.200r", sorted(broken))
    # A broken key still counts as one: without any key, a gateway may allow anonymous access.
    no_access = ApiKey("", "", "caller", "", 0, "")
    return {key_id: no_access if key_id in broken or key is None else key for key_id, key in parsed.items()}


def _parse_key(text: bytes) -> ApiKey | None:
    try:
        key = ApiKey(**orjson.loads(text))
    except (ValueError, TypeError):
        return None
    texts = all(isinstance(part, str) for part in (key.id, key.tenant, key.note, key.digest))
    return key if texts and key.role in ROLES and TENANT_NAME.fullmatch(key.tenant) else None


async def _notify_changed(connection: RedisClient) -> None:
    await connection.command("PUBLISH", keys.INVALIDATION, API_KEYS_CHANGED)
