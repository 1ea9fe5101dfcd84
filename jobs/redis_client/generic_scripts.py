"""Calls the Lua scripts that suit any key: increment fields, replace a field, write with a lifetime."""

from collections.abc import Callable, Mapping
from typing import Final

from jobs.contract.errors import StoreUnavailable
from jobs.redis_client.client import RedisClient
from jobs.redis_client.pipelined_connection import Arg

MAX_CHANGE_ATTEMPTS: Final = 10  # of a change that conflicts with concurrent changes


async def increment(connection: RedisClient, key: str, amounts: Mapping[str, int]) -> None:
    """Add amounts to fields of a hash, also when the server's memory is full."""
    await connection.script("generic/increment", key, *(arg for pair in amounts.items() for arg in pair))


async def write_with_ttl(connection: RedisClient, key: str, ttl_s: int | None, command: str, *args: Arg) -> None:
    """Run a write command on a key and set its lifetime (None: unchanged), also when the server's memory is full."""
    await connection.script("generic/write_with_ttl", key, "" if ttl_s is None else ttl_s, command, *args)


async def replace_field(
    connection: RedisClient, key: str, field: str, change: Callable[[bytes], bytes | None], what: str
) -> bool:
    """Replace a hash field by `change` of its value (b"": there is none) and return True; False if that is None.

    `change` may run several times. Raises what it raises, and StoreUnavailable if others change the field each time:
    its message begins with `what`, such as "the plan of model m is".
    """
    for _ in range(MAX_CHANGE_ATTEMPTS):
        before: bytes = await connection.command("HGET", key, field) or b""
        if (after := change(before)) is None:
            return False
        if await connection.script("generic/compare_and_set", key, field, before, after):
            return True
    raise StoreUnavailable(f"{what} being changed concurrently; try again", retry_after_s=1)
