"""A connection to the queue server that loses answers, or sends scripts twice, when the test says so."""

from collections import Counter
from collections.abc import Callable
from typing import Any, Final, Literal

from jobs.contract.errors import StoreUnavailable
from jobs.redis_client.client import _SENT_ONCE, RedisClient
from jobs.redis_client.pipelined_connection import Arg, RedisConnection

# once: nothing goes wrong. twice: the first answer is lost and the interface repeats the script. lost: the script runs
# once and the caller never hears its answer. unsent: the script never reaches the server.
Fault = Literal["once", "twice", "lost", "unsent"]
REPEATED: Final = "twice"


class FlakyConnection(RedisClient):
    """Apply `fate` to the next script; then go back to normal."""

    def __init__(self, url: str) -> None:
        super().__init__(url, 10)
        self.fate: Fault = "once"
        self.calls: Counter[str] = Counter()

    async def script(self, name: str, root: str, *words: Arg) -> Any:
        fate, self.fate = self.fate, "once"
        self.calls[name] += 1
        if fate == "unsent":
            raise StoreUnavailable("the script was not sent")
        if fate == REPEATED and name not in _SENT_ONCE:
            self.calls[f"{name} (sent twice)"] += 1
            await super().script(name, root, *words)
        answer = await super().script(name, root, *words)
        if fate == "lost":
            self.calls[f"{name} (answer lost)"] += 1
            raise StoreUnavailable("the answer was lost")
        return answer


class StubSubscriber:
    """Subscriptions of all gateways and workers of the test on one connection."""

    def __init__(self, connection: RedisClient, heard: Callable[[str, bytes], None]) -> None:
        self._connection, self._heard = connection, heard
        self._wire: RedisConnection | None = None

    async def open(self, channels: list[str]) -> None:
        self._wire = await self._connection.subscribe(channels, self._take)

    async def catch_up(self) -> None:
        """Wait until all messages published before now are received."""
        if self._wire is not None:
            await self._wire.send([("PING",)], at_once=True)

    def close(self) -> None:
        if self._wire is not None:
            self._wire.close()
            self._wire = None

    def _take(self, push: list[Any]) -> None:
        if push[0] == b"message":
            self._heard(push[1].decode(), push[2])
