"""Job ids: two digits that name the shard, then 128 random bits in hexadecimal."""

import os
import random
import re
import zlib
from typing import Final

PATTERN: Final = re.compile(r"[0-9]{2}[0-9a-f]{32}")


def new_id(shard: int) -> str:
    return f"{shard:02d}{os.urandom(16).hex()}"


def shard_of(job_id: str) -> int:
    return int(job_id[:2])


def choose_shard(shards: int, tenant: str, idempotency_key: str) -> int:
    """Choose where a new job lies: the same key of the same tenant always falls on the same shard."""
    if shards == 1:
        return 0
    if idempotency_key:
        return zlib.crc32(f"{tenant}:{idempotency_key}".encode()) % shards
    return random.randrange(shards)  # noqa: S311 (balance, not secrecy)
