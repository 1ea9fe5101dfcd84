"""Listens to channels on a connection of its own and tells what it heard; comes back by itself after an outage.

Notices may be lost while the server is away: `on_connect` is called whenever listening (re)begins, for the listener to
look for what it may have missed.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, NoReturn

from jobs.connection import Connection, Unreachable
from jobs.outage import Outage
from jobs.pipe import Wire
from jobs.waits import wait_for_event

log = logging.getLogger("jitney.jobs")

SILENCE_S = 5.0  # the server is asked so often whether it is still there: half-open connections say nothing
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
        self._connection, self._channels = connection, channels
        self._on_notice, self._on_connect = on_notice, on_connect
        self._outage = Outage(log, "hear notices")
        self._wire: Wire | None = None

    async def run(self) -> NoReturn:
        """Listen until cancelled."""
        while True:
            try:
                wire = await self._connection.subscribe(self._channels, self._heard)
                try:
                    await self._listen(wire)
                finally:
                    wire.close()
            except Unreachable as error:
                self._outage.began(error)
            await asyncio.sleep(PAUSE_S)

    async def catch_up(self) -> None:
        """Wait until all is heard that was published before now; not for what an outage swallows."""
        if self._wire is not None and not self._wire.lost.is_set():
            with suppress(*Unreachable):
                await self._wire.send([("PING",)])

    async def _listen(self, wire: Wire) -> NoReturn:
        self._wire = wire
        self._outage.ended()
        await self._on_connect()
        while True:
            if await wait_for_event(wire.lost, SILENCE_S):
                raise ConnectionResetError("the connection was closed")
            await wire.send([("PING",)])

    def _heard(self, push: list[Any]) -> None:
        if push[0] == b"message":
            self._on_notice(push[1].decode(), push[2])
