"""The one place that talks to redis-py: how we connect, how a script is called, and what an outage looks like to us."""

from collections.abc import Awaitable, Sequence
from hashlib import sha1
from pathlib import Path
from typing import Any, Final, TypeVar

import redis.asyncio
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff
from redis.exceptions import NoScriptError, RedisError

from jobs.errors import StoreUnavailable

Word = str | bytes | int | float
T = TypeVar("T")

_LUA: Final = Path(__file__).parent / "lua"
# Scripts that end or move admitted work also run when the server's memory is full; only submit is refused then.
_REFUSED_WHEN_FULL: Final = {"submit"}
_RETRIES: Final = 1
_RETRY_AFTER_S: Final = 1


class Script:
    """One Lua script, sent by its hash; shared.lua stands in front of it."""

    def __init__(self, name: str) -> None:
        flags = "" if name in _REFUSED_WHEN_FULL else " flags=allow-oom"
        shared, own = (_LUA / "shared.lua").read_text(), (_LUA / f"{name}.lua").read_text()
        self.source = f"#!lua{flags}\n{shared}\n{own}"
        self.sha = sha1(self.source.encode(), usedforsecurity=False).hexdigest()


class Connection:
    """Commands to the queue's server. Every failure to reach it, or of it to write, is StoreUnavailable."""

    def __init__(self, url: str, timeout_s: float) -> None:
        # One retry is enough to outlive a server's restart: every script of ours may be sent twice.
        self._client = redis.asyncio.Redis.from_url(
            url,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=Retry(ConstantBackoff(0.05), _RETRIES),
            legacy_responses=False,
            max_connections=200,
        )
        self._scripts: dict[str, Script] = {}

    def _execute(self, *words: Word) -> Awaitable[Any]:
        answer: Awaitable[Any] = self._client.execute_command(*words)  # type: ignore[no-untyped-call]
        return answer

    async def command(self, *words: Word) -> Any:
        return await _guarded(self._execute(*words))

    async def pipeline(self, commands: Sequence[Sequence[Word]]) -> list[Any]:
        """Send many commands in one write; the answers in order."""
        pipe = self._client.pipeline(transaction=False)
        for words in commands:
            pipe.execute_command(*words)
        return await _guarded(pipe.execute())

    async def script(self, name: str, root: str, *words: Word) -> Any:
        """Run a script on the shard of this root."""
        script = self._scripts.get(name) or self._scripts.setdefault(name, Script(name))
        try:
            return await _guarded(self._execute("EVALSHA", script.sha, 1, root, *words))
        except _UnknownScript:  # a server that was started anew
            return await _guarded(self._execute("EVAL", script.source, 1, root, *words))

    def subscriber(self) -> PubSub:
        """Open a connection of its own for notices; the caller reads with a timeout and closes it."""
        return self._client.pubsub()

    async def aclose(self) -> None:
        await self._client.aclose()


class _UnknownScript(Exception):
    pass


async def _guarded(answer: Awaitable[T]) -> T:
    try:
        return await answer
    except NoScriptError as error:
        raise _UnknownScript from error
    except (RedisError, OSError) as error:
        reason = str(error).split("\n", maxsplit=1)[0] or type(error).__name__
        raise StoreUnavailable(f"the queue's server did not take it: {reason}", retry_after_s=_RETRY_AFTER_S) from error


Unreachable: Final = (RedisError, OSError)
