"""Creates job ids (shard, then 128 random bits), chooses a new job's shard, and defines valid tenant names."""

import os
import random
import re
import zlib
from typing import Final

JOB_ID: Final = re.compile(r"[0-9]{2}[0-9a-f]{32}")


# One call to the system provides the bits of many ids. Safe because no process forks after its start.
_BYTES: Final = 16
_unused_ids: list[str] = []


def new_job_id(shard: int) -> str:
    if not _unused_ids:
        bits = os.urandom(256 * _BYTES).hex()
        _unused_ids.extend(bits[at : at + 2 * _BYTES] for at in range(0, len(bits), 2 * _BYTES))
    return f"{shard:02d}{_unused_ids.pop()}"


def shard_of(job_id: str) -> int:
    return int(job_id[:2])


def choose_shard(shards: int, tenant: str, idempotency_key: str) -> int:
    """Choose the shard of a new job: the same key of the same tenant always gets the same shard."""
    if shards == 1:
        return 0
    if idempotency_key:
        return zlib.crc32(f"{tenant}:{idempotency_key}".encode()) % shards
    return random.randrange(shards)  # noqa: S311 (load balancing, not secrecy)


TENANT_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")  # part of Redis keys, where a colon is the separator
