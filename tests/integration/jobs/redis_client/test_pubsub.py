"""The subscription of a process: it receives, notices a dead server, and reconnects by itself."""

import asyncio

import pytest

from jobs.redis_client.client import RedisClient
from jobs.redis_client.pubsub import Subscriber
from tests.support.servers import Server

pytestmark = pytest.mark.anyio


class Ear:
    """A subscriber of channel `c`, its received messages, and its number of (re)connects."""

    def __init__(self, connection: RedisClient) -> None:
        self.heard: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue()
        self.connected: asyncio.Queue[bool] = asyncio.Queue()
        self.listener = Subscriber(connection, ["c"], lambda *notice: self.heard.put_nowait(notice), self._connected)

    async def _connected(self) -> None:
        self.connected.put_nowait(True)


async def test_a_notification_is_received(own: tuple[Server, RedisClient]) -> None:
    _, connection = own
    ear = Ear(connection)
    listening = asyncio.create_task(ear.listener.run())
    await asyncio.wait_for(ear.connected.get(), 5)
    await connection.command("PUBLISH", "c", b"\x00 bytes")
    assert await asyncio.wait_for(ear.heard.get(), 5) == ("c", b"\x00 bytes")
    listening.cancel()


async def test_the_subscription_reconnects_when_the_server_is_back(own: tuple[Server, RedisClient]) -> None:
    server, connection = own
    ear = Ear(connection)
    listening = asyncio.create_task(ear.listener.run())
    await asyncio.wait_for(ear.connected.get(), 5)
    server.kill()
    server.start()
    await asyncio.wait_for(ear.connected.get(), 5)
    await connection.command("PUBLISH", "c", b"again")
    assert (await asyncio.wait_for(ear.heard.get(), 5))[1] == b"again"
    listening.cancel()
