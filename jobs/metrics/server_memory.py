"""Memory use and limit of the Redis server."""

from typing import NamedTuple

from jobs.redis_client.client import RedisClient


class ServerMemory(NamedTuple):
    """Bytes. `limit_bytes`: the server's `maxmemory` or, if that is 0, its machine's memory; 0 if unknown."""

    used_bytes: int
    limit_bytes: int


async def read_server_memory(connection: RedisClient) -> ServerMemory:
    """Return the server's memory from INFO."""
    facts = await connection.facts("memory")
    used, limit, machine = (int(facts.get(name, 0)) for name in ("used_memory", "maxmemory", "total_system_memory"))
    return ServerMemory(used, limit or machine)
