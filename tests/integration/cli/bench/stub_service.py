"""A fake service with scripted answers: HTTP/1.1 with keep-alive, and no more."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import NamedTuple, TypeVar

from cli.bench.load.connection import Address

T = TypeVar("T")


class StubRequest(NamedTuple):
    """A request; `number` counts all that came before it."""

    number: int
    line: str
    head: str
    body: bytes


Response = tuple[int, object] | None  # status and JSON; None breaks the connection
Responses = Callable[[StubRequest], Response | Awaitable[Response]]


async def run_against(responses: Responses, act: Callable[[Address], Awaitable[T]]) -> T:
    """Run `act` with it."""
    served = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal served
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = head.lower().partition("content-length: ")[2].split("\r\n")[0]
                asked = StubRequest(served, head.partition("\r\n")[0], head, await reader.readexactly(int(length or 0)))
                served += 1
                response = responses(asked)
                if isinstance(response, Awaitable):
                    response = await response
                if response is None:
                    break
                body = json.dumps(response[1]).encode()
                writer.write(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%s" % (response[0], len(body), body))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        return await act(Address("127.0.0.1", server.sockets[0].getsockname()[1], ""))
