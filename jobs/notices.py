"""Listens to channels on a connection of its own and tells what it heard; comes back by itself after an outage.

Notices may be lost while the server is away: `on_connect` is called whenever listening (re)begins, for the listener to
look for what it may have missed.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import NoReturn

from redis.asyncio.client import PubSub

from jobs.connection import Connection, Unreachable
from jobs.outage import Outage

log = logging.getLogger("jitney.jobs")

SILENCE_S = 5.0  # after so much silence the server is asked whether it is still there
PATIENCE_S = 2.0  # and has so long to answer
PAUSE_S = 0.2


class Listener:
    """One subscription for a whole process."""

    def __init__(
        self,
        connection: Connection,
        channels: Sequence[str],
        on_notice: Callable[[str, bytes], None],
        on_connect: Callable[[], Awaitable[None]],
    ) -> None:
        self._connection = connection
        self._channels = channels
        self._on_notice = on_notice
        self._on_connect = on_connect
        self._outage = Outage(log, "hear notices")
        self.listening = asyncio.Event()

    async def run(self) -> NoReturn:
        """Listen until cancelled."""
        while True:
            subscriber = self._connection.subscriber()
            try:
                await subscriber.subscribe(*self._channels)
                self.listening.set()
                self._outage.ended()
                await self._on_connect()
                await self._listen(subscriber)
            except Unreachable as error:
                self._outage.began(error)
            finally:
                self.listening.clear()
                await subscriber.aclose()  # type: ignore[no-untyped-call]
            await asyncio.sleep(PAUSE_S)

    async def _listen(self, subscriber: PubSub) -> NoReturn:
        while True:
            message = await subscriber.get_message(timeout=SILENCE_S)
            if message is None:
                await subscriber.ping()
                message = await subscriber.get_message(timeout=PATIENCE_S)
                if message is None:
                    raise ConnectionError("the queue's server says nothing any more")
            if message["type"] == "message":
                self._on_notice(message["channel"].decode(), message["data"])
