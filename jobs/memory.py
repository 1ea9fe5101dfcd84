"""How much of its memory the queue's server uses, in its own words."""

from typing import NamedTuple

from jobs.connection import Connection


class Memory(NamedTuple):
    """Bytes; `limit_bytes` is the server's `maxmemory` or, where that is 0, the memory of its machine; 0: unknown."""

    used_bytes: int
    limit_bytes: int


async def read(connection: Connection) -> Memory:
    """Ask the server."""
    text: bytes = await connection.command("INFO", "memory")
    facts = dict(line.split(b":", 1) for line in text.splitlines() if b":" in line)
    used, limit, machine = (int(facts.get(name, 0)) for name in (b"used_memory", b"maxmemory", b"total_system_memory"))
    return Memory(used, limit or machine)
