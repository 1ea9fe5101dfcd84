"""The one place that talks to redis-py: how we connect, how a script is called, and what an outage looks like to us."""

import asyncio
import logging
import re
from collections.abc import Callable, Sequence
from hashlib import sha1
from pathlib import Path
from typing import Any, Final, cast

import hiredis
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from jobs.errors import QueueFull, StoreUnavailable
from jobs.pipe import Command, Opened, Pipe, Wire, Word, pack, pack_large

log = logging.getLogger("jitney.jobs")

_LUA: Final = Path(__file__).parent / "lua"
# Scripts that end or move admitted work also run when the server's memory is full; only submit is refused then.
_REFUSED_WHEN_FULL: Final = {"submit"}
# Sent twice, a claim or a dispatch would take what nobody hears of, a cancel would find its own work done, and a sum be
# wrong.
_SENT_ONCE: Final = {"claim", "dispatch", "cancel", "add", "bulk/dispatch", "file/drop"}
_PASSING: Final = (
    "OOM",
    "LOADING",
    "BUSY",
    "READONLY",
    "MISCONF",
    "CLUSTERDOWN",
    "MASTERDOWN",
    "NOREPLICAS",
    "TRYAGAIN",
)
_RETRY_AFTER_S: Final = 1
_FULL_RETRY_AFTER_S: Final = 5
# Scripts that carry inputs. Large ones take a connection of their own, so that small answers do not wait behind them.
_LARGE: Final = {"submit"}
_LARGE_BYTES: Final = 256 << 10
# Scripts whose answers may be large. They take the connection for large answers, as `pipeline(…, large=True)` does.
_LARGE_ANSWERS: Final = {"bulk/outcomes"}

Unreachable: Final = (RedisError, OSError)


class Script:
    """One Lua script, sent by its hash; its line `-- with …` says what stands in front of it."""

    def __init__(self, name: str) -> None:
        flags = "" if name in _REFUSED_WHEN_FULL else " flags=allow-oom"
        own = (_LUA / f"{name}.lua").read_text()
        (named,) = re.findall(r"^-- with (.+)$", own, re.MULTILINE) or [""]
        shared = [
            (_LUA / "shared" / f"{part}.lua").read_text() for part in ("common", *filter(None, named.split(", ")))
        ]
        self.source = "\n".join([f"#!lua{flags}", *shared, own])
        self.sha = sha1(self.source.encode(), usedforsecurity=False).hexdigest()


class Connection:
    """Commands to the queue's server. Every failure to reach it, or of it to write, is StoreUnavailable."""

    def __init__(self, url: str, timeout_s: float) -> None:
        self._client = redis.asyncio.Redis.from_url(
            url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s, retry=Retry(NoBackoff(), 0), protocol=3
        )
        self._timeout_s = timeout_s
        self._small, self._large = Pipe(self._open, timeout_s), Pipe(self._open, timeout_s)
        self._answers = Pipe(self._open, timeout_s)  # for large answers; opened when the first is asked for
        self._scripts: dict[str, Script] = {}

    async def command(self, *words: Word) -> Any:
        return (await self.pipeline([words]))[0]

    async def facts(self, section: str) -> dict[str, str]:
        """Ask what the server says of itself: one section of its INFO."""
        text: bytes = await self.command("INFO", section)
        return dict(line.split(":", 1) for line in text.decode().splitlines() if ":" in line)

    async def now_ms(self) -> int:
        """Ask for the server's time, in ms since the epoch: no clock of ours decides anything."""
        seconds, us = await self.command("TIME")
        return int(seconds) * 1000 + int(us) // 1000

    async def pipeline(self, commands: Sequence[Sequence[Word]], *, large: bool = False) -> list[Any]:
        """Send many commands in one write; the answers in order. They may be sent twice, and must do no harm then.

        `large`: the answers may be large. They come over a connection of their own, so that small ones do not wait
        behind them.
        """
        pipe = self._answers if large else self._small
        answers = await self._send(pipe, commands, again=True, at_once=False)
        for answer in answers:
            if isinstance(answer, hiredis.ReplyError):
                raise _not_taken(answer)
        return answers

    async def script(self, name: str, root: str, *words: Word) -> Any:
        """Run a script on the shard of this root."""
        again = name not in _SENT_ONCE
        script = self._scripts.get(name) or self._scripts.setdefault(name, Script(name))
        pack_it = pack_large if name in _LARGE else pack
        packed = pack_it(("EVALSHA", script.sha, 1, root, *words))
        pipe = self._large if len(packed) > _LARGE_BYTES else self._answers if name in _LARGE_ANSWERS else self._small
        (answer,) = await self._send(pipe, [packed], again=again)
        if isinstance(answer, hiredis.ReplyError) and str(answer).startswith("NOSCRIPT"):  # a server started anew
            (answer,) = await self._send(pipe, [("EVAL", script.source, 1, root, *words)], again=again)
        if isinstance(answer, hiredis.ReplyError):
            if name in _REFUSED_WHEN_FULL and str(answer).startswith("OOM"):
                message = "the queue's server has no memory left for new jobs"
                raise QueueFull(message, retry_after_s=_FULL_RETRY_AFTER_S)
            raise _not_taken(answer)
        return answer

    async def subscribe(self, channels: Sequence[str], on_push: Callable[[list[Any]], None]) -> Wire:
        """Open a connection of its own for notices; whoever asked for it closes it. Raises `Unreachable`."""
        wire = Wire(await self._open(), self._timeout_s, on_push)
        wire.put([("SUBSCRIBE", *channels)])
        # Behind the subscription: its answer says that the subscription stands. An error is the subscription's own.
        (answer,) = await wire.send([("PING",)])
        if isinstance(answer, hiredis.ReplyError):
            wire.close()
            raise ConnectionRefusedError(str(answer))
        return wire

    async def aclose(self) -> None:
        self._small.close()
        self._large.close()
        self._answers.close()
        await self._client.aclose()

    async def _send(self, pipe: Pipe, commands: Sequence[Command], *, again: bool, at_once: bool = True) -> list[Any]:
        """Scripts go at once: what can be gathered for one was gathered before."""
        try:
            try:
                return await pipe.send(commands, at_once=at_once)
            except ConnectionError:  # a server that restarts, or a connection that it closed
                if not again:
                    raise
                return await pipe.send(commands, at_once=at_once)
        except Unreachable as error:
            raise _not_taken(error) from error

    async def _open(self) -> Opened:
        """Let redis-py connect, and take the socket over."""
        made = self._client.connection_pool.make_connection()  # type: ignore[no-untyped-call] # it has no types
        await made.connect()
        writer: asyncio.StreamWriter = made._writer  # noqa: SLF001 (redis-py has no public way to hand a socket over)
        transport = cast("asyncio.Transport", writer.transport)
        made._reader = made._writer = None  # noqa: SLF001 (it must not close what it no longer owns)
        return transport, writer  # a writer that is forgotten closes its transport


def _not_taken(error: Exception) -> StoreUnavailable:
    reason = str(error).split("\n", maxsplit=1)[0] or type(error).__name__
    if isinstance(error, hiredis.ReplyError) and not reason.startswith(_PASSING):
        log.error("the queue's server refused a command, which will not mend itself: %s", reason)
    return StoreUnavailable(f"the queue's server did not take it: {reason}", retry_after_s=_RETRY_AFTER_S)
