"""How much of its memory the queue's server uses, in its own words."""

from typing import NamedTuple

from jobs.redis_client.client import RedisClient


class ServerMemory(NamedTuple):
    """Bytes; `limit_bytes` is the server's `maxmemory` or, where that is 0, the memory of its machine; 0: unknown."""

    used_bytes: int
    limit_bytes: int


async def read_server_memory(connection: RedisClient) -> ServerMemory:
    """Ask the server."""
    facts = await connection.facts("memory")
    used, limit, machine = (int(facts.get(name, 0)) for name in ("used_memory", "maxmemory", "total_system_memory"))
    return ServerMemory(used, limit or machine)
