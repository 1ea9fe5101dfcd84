"""Subscribes to pub/sub channels on a dedicated connection and resubscribes after an outage.

Notifications may be lost during an outage. `on_connect` is called after every (re)subscription, so that the caller can
read what it missed.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, NoReturn

from jobs.redis_client.client import CONNECTION_ERRORS, RedisClient
from jobs.redis_client.event_wait import wait_for_event
from jobs.redis_client.pipelined_connection import RedisConnection

# Neither the loss of a node nor its change to a replica is reported to subscribers, so the node is polled.
NODE_CHECK_INTERVAL_S = 1.0
RECONNECT_PAUSE_S = 0.2


class Subscriber:
    """The one subscription of a process."""

    def __init__(
        self,
        client: RedisClient,
        channels: Sequence[str],
        on_notification: Callable[[str, bytes], None],
        on_connect: Callable[[], Awaitable[None]],
    ) -> None:
        self._client, self._channels = client, channels
        self._on_notification, self._on_connect = on_notification, on_connect
        self._connection: RedisConnection | None = None

    async def run(self) -> NoReturn:
        """Listen until cancelled. The Redis client logs outages."""
        while True:
            began_at = time.monotonic()
            with suppress(*CONNECTION_ERRORS):
                connection = await self._client.subscribe(self._channels, self._on_push)
                try:
                    await self._listen(connection)
                finally:
                    connection.close()
            if time.monotonic() - began_at < RECONNECT_PAUSE_S:  # a subscription that lasted is reopened at once
                await asyncio.sleep(RECONNECT_PAUSE_S)

    async def catch_up(self) -> None:
        """Wait until every notification published before now was handled. Notifications of an outage stay lost."""
        if self._connection is not None and not self._connection.lost.is_set():
            with suppress(*CONNECTION_ERRORS):
                await self._connection.send([("PING",)])

    async def _listen(self, connection: RedisConnection) -> NoReturn:
        self._connection = connection
        await self._on_connect()
        while True:
            if await wait_for_event(connection.lost, NODE_CHECK_INTERVAL_S):
                raise ConnectionResetError("the connection was closed")
            await self._client.check_node(connection)

    def _on_push(self, push: list[Any]) -> None:
        if push[0] == b"message":
            self._on_notification(push[1].decode(), push[2])
