"""Listens to channels on a connection of its own and tells what it heard; comes back by itself after an outage.

Notices may be lost while the server is away: `on_connect` is called whenever listening (re)begins, for the listener to
look for what it may have missed.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, NoReturn

from jobs.redis_client.client import CONNECTION_ERRORS, RedisClient
from jobs.redis_client.event_wait import wait_for_event
from jobs.redis_client.pipelined_connection import RedisConnection

NODE_CHECK_INTERVAL_S = (
    0.3  # the node is asked so often whether it is still there, and still a primary: neither is told to us
)
RECONNECT_PAUSE_S = 0.2


class Subscriber:
    """One subscription for a whole process."""

    def __init__(
        self,
        connection: RedisClient,
        channels: Sequence[str],
        on_notification: Callable[[str, bytes], None],
        on_connect: Callable[[], Awaitable[None]],
    ) -> None:
        self._connection, self._channels = connection, channels
        self._on_notice, self._on_connect = on_notification, on_connect
        self._wire: RedisConnection | None = None

    async def run(self) -> NoReturn:
        """Listen until cancelled. The connection says in the log when it cannot be opened."""
        while True:
            began_at = time.monotonic()
            with suppress(*CONNECTION_ERRORS):
                wire = await self._connection.subscribe(self._channels, self._heard)
                try:
                    await self._listen(wire)
                finally:
                    wire.close()
            if time.monotonic() - began_at < RECONNECT_PAUSE_S:  # one that has stood is opened again at once
                await asyncio.sleep(RECONNECT_PAUSE_S)

    async def catch_up(self) -> None:
        """Wait until all is heard that was published before now; not for what an outage swallows."""
        if self._wire is not None and not self._wire.lost.is_set():
            with suppress(*CONNECTION_ERRORS):
                await self._wire.send([("PING",)])

    async def _listen(self, wire: RedisConnection) -> NoReturn:
        self._wire = wire
        await self._on_connect()
        while True:
            if await wait_for_event(wire.lost, NODE_CHECK_INTERVAL_S):
                raise ConnectionResetError("the connection was closed")
            await self._connection.check_node(wire)

    def _heard(self, push: list[Any]) -> None:
        if push[0] == b"message":
            self._on_notice(push[1].decode(), push[2])
