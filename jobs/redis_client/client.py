"""The one place that talks to redis-py: how we connect, how a script is called, and what an outage looks like to us."""

import asyncio
import logging
import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from hashlib import sha1
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self, cast

import hiredis
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from jobs.contract.errors import QueueFull, StoreUnavailable
from jobs.redis_client.durability import ServerSafety, assess_server, parse_info
from jobs.redis_client.error_kinds import ErrorKind, classify_error, describe_error
from jobs.redis_client.outage_log import OutageLog
from jobs.redis_client.pipelined_connection import (
    Arg,
    Command,
    OpenedSocket,
    ReconnectingConnection,
    RedisConnection,
    pack,
    pack_large,
)
from jobs.redis_client.redis_url import RedisAddress

if TYPE_CHECKING:  # it knows tenants, whose keys are read over a connection
    from jobs.store.settings import StoreSettings

log = logging.getLogger("jitney.jobs")

_LUA: Final = Path(__file__).parents[1] / "lua"
# Scripts that end or move admitted work also run when the server's memory is full; only submit is refused then.
_REFUSED_WHEN_FULL: Final = {"job/submit"}
# Sent twice, a claim or a dispatch would take what nobody hears of, a cancel would find its own work done, and a sum be
# wrong.
_SENT_ONCE: Final = {
    "job/claim",
    "webhook/dispatch",
    "job/cancel",
    "generic/increment",
    "bulk/dispatch",
    "bulk_file/unlink",
}
# Scripts that accept what is promised not to be lost: refused by JITNEY_REQUIRE_DURABLE where the server may lose it.
_ACCEPTING: Final = {"job/submit", "bulk/create", "bulk_file/add"}
_RETRY_AFTER_S: Final = 1
_FULL_RETRY_AFTER_S: Final = 5
# Scripts that carry inputs. Large ones take a connection of their own, so that small answers do not wait behind them.
_LARGE: Final = {"job/submit"}
_LARGE_BYTES: Final = 256 << 10
# Scripts whose answers may be large. They take the connection for large answers, as `pipeline(…, large=True)` does.
_LARGE_ANSWERS: Final = {"bulk/read_outcomes"}
# A failover takes a moment until the address leads to the new primary. Commands that were not carried out wait for it.
FAILOVER_TIMEOUT_S: Final = 1.0
FAILOVER_RETRY_S: Final = 0.05
# Connections that a proxy leads to several nodes would be reopened for ever: not more often than this.
_NODE_CHANGE_INTERVAL_S: Final = 5.0
_MAX_LOGGED_REFUSALS: Final = 100
_FULL_LOG_INTERVAL_S: Final = 60.0

CONNECTION_ERRORS: Final = (RedisError, OSError)


class CannotConnect(ConnectionError):
    """No connection could be opened, so nothing was sent. `kind` says whether another attempt is worth it."""

    def __init__(self, reason: str, kind: ErrorKind) -> None:
        super().__init__(reason)
        self.kind = kind


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


class RedisClient:
    """Commands to the queue's server. Every failure to reach it, or of it to write, is StoreUnavailable.

    All connections lead to the same node: when one shows that it is the wrong one, all are reopened.
    """

    def __init__(
        self, url: str, timeout_s: float, *, url_file: Path | None = None, require_durable: bool = False
    ) -> None:
        self._address, self._timeout_s, self._require_durable = RedisAddress(url, url_file), timeout_s, require_durable
        self._url = ""
        self._client: redis.asyncio.Redis | None = None
        self._small, self._large = ReconnectingConnection(self._open_wire), ReconnectingConnection(self._open_wire)
        self._answers = ReconnectingConnection(self._open_wire)  # for large answers; opened when the first is asked for
        self._subscriptions: dict[RedisConnection, bool] = {}  # and whether the node was a replica when it was opened
        self._scripts: dict[str, Script] = {}
        self._generation = 0  # counts how often all connections were dropped
        self._node_changed_at = -_NODE_CHANGE_INTERVAL_S
        self._outages, self._writes = (
            OutageLog(log, "use the queue's server"),
            OutageLog(log, "write to the queue's server"),
        )
        self._is_refused = False  # the last script was, for a reason that passes
        self._logged_refusals: set[str] = set()  # those of kind NEVER that were logged
        self._full_logged_at = -_FULL_LOG_INTERVAL_S
        self._is_starting = False
        self._is_known, self._warned = False, list[str]()
        self.safety: ServerSafety | None = None  # as of the connection opened last

    @classmethod
    def of(cls, settings: "StoreSettings", timeout_s: float | None = None) -> Self:
        """Connect to where these settings say."""
        return cls(
            settings.redis_url,
            timeout_s or settings.redis_timeout_s,
            url_file=settings.redis_url_file,
            require_durable=settings.require_durable,
        )

    @property
    def address(self) -> str:
        """Where the server is, without a password, for logs."""
        return self._address.shown

    @property
    def refusal(self) -> str:
        """Say why no new job may be taken: JITNEY_REQUIRE_DURABLE, and a server that may lose it. Empty: it may."""
        if not self._require_durable or self.safety is None or self.safety.is_durable:
            return ""
        return f"JITNEY_REQUIRE_DURABLE is set, and of the queue's server: {'; '.join(self.safety.warnings)}"

    async def unusable_reason(self) -> str:
        """Connect; say why this server cannot be used however long one waits. Empty: it can, or is away at present."""
        self._is_starting = True
        try:
            await self.command("PING")
        except StoreUnavailable as error:
            cause = error.__cause__
            if isinstance(cause, CannotConnect) and cause.kind is ErrorKind.NEVER:
                return f"the queue's server at {self.address} cannot be used: {cause}"
        finally:
            self._is_starting = False
        return self.refusal

    async def command(self, *words: Arg) -> Any:
        return (await self.pipeline([words]))[0]

    async def facts(self, section: str) -> dict[str, str]:
        """Ask what the server says of itself: one section of its INFO."""
        text: bytes = await self.command("INFO", section)
        return parse_info(text.decode())

    async def now_ms(self) -> int:
        """Ask for the server's time, in ms since the epoch: no clock of ours decides anything."""
        seconds, us = await self.command("TIME")
        return int(seconds) * 1000 + int(us) // 1000

    async def pipeline(self, commands: Sequence[Sequence[Arg]], *, large: bool = False) -> list[Any]:
        """Send many commands in one write; the answers in order. They may be sent twice, and must do no harm then.

        `large`: the answers may be large. They come over a connection of their own, so that small ones do not wait
        behind them.
        """
        pipe = self._answers if large else self._small
        era = self._generation
        answers = await self._send(pipe, commands, again=True, at_once=False)
        for answer in answers:
            if isinstance(answer, hiredis.ReplyError):
                answers = await self._follow(answers, era, pipe, commands, again=True)
                self._raise_first(answers)
        return answers

    async def script(self, name: str, root: str, *words: Arg) -> Any:
        """Run a script on the shard of this root."""
        again, era = name not in _SENT_ONCE, self._generation
        script = self._scripts.get(name) or self._scripts.setdefault(name, Script(name))
        pack_it = pack_large if name in _LARGE else pack
        packed = pack_it(("EVALSHA", script.sha, 1, root, *words))
        pipe = self._large if len(packed) > _LARGE_BYTES else self._answers if name in _LARGE_ANSWERS else self._small
        if self._require_durable and name in _ACCEPTING:
            await self._check_durable(pipe)
        answers = await self._send(pipe, [packed], again=again)
        if isinstance(answers[0], hiredis.ReplyError):
            answers = await self._follow(answers, era, pipe, [packed], again=again)
            if str(answers[0]).startswith("NOSCRIPT"):  # a server that was restarted, or another one
                source = [("EVAL", script.source, 1, root, *words)]
                era = self._generation
                answers = await self._follow(
                    await self._send(pipe, source, again=again), era, pipe, source, again=again
                )
            if name in _REFUSED_WHEN_FULL and str(answers[0]).startswith("OOM"):
                message = "the queue's server has no memory left for new jobs"
                raise QueueFull(message, retry_after_s=_FULL_RETRY_AFTER_S)
            self._raise_first(answers)
        if self._is_refused:
            self._is_refused = False
            self._writes.ended()
        return answers[0]

    async def subscribe(self, channels: Sequence[str], on_push: Callable[[list[Any]], None]) -> RedisConnection:
        """Open a connection of its own for notices; whoever asked for it closes it. Raises `Unreachable`."""
        wire = await self._open_wire(on_push)
        wire.put([("SUBSCRIBE", *channels)])
        # Behind the subscription: its answer says that the subscription stands. An error is the subscription's own.
        (answer,) = await wire.send([("PING",)])
        if isinstance(answer, hiredis.ReplyError):
            wire.close()
            raise CannotConnect(describe_error(answer), classify_error(answer))
        open_ones = {one: role for one, role in self._subscriptions.items() if not one.lost.is_set()}
        self._subscriptions = {**open_ones, wire: self.safety is not None and self.safety.is_replica}
        return wire

    async def check_node(self, wire: RedisConnection) -> None:
        """Ask whether a node still has the role that it had, over a connection to it; if not, reopen all.

        A subscription hears no error when its node becomes a replica: it hears nothing at all. Raises `Unreachable`.
        """
        (hello,) = await wire.send([("HELLO",)])
        if isinstance(hello, hiredis.ReplyError):
            if classify_error(hello) is ErrorKind.RECONNECT:
                self._reopen(self._generation, describe_error(hello))
        elif assess_server(hello, None).is_replica != self._subscriptions.get(wire):
            self._reopen(self._generation, "its role has changed")
        else:
            self._outages.ended()

    async def aclose(self) -> None:
        self._small.close()
        self._large.close()
        self._answers.close()
        if self._client is not None:
            await self._client.aclose()

    # ---- sending

    async def _check_durable(self, pipe: ReconnectingConnection) -> None:
        with suppress(*CONNECTION_ERRORS):  # what is sent next meets the same
            await pipe.ensure_open()
        if self.refusal:
            raise StoreUnavailable(self.refusal, retry_after_s=_RETRY_AFTER_S)

    async def _send(
        self, pipe: ReconnectingConnection, commands: Sequence[Command], *, again: bool, at_once: bool = True
    ) -> list[Any]:
        """Scripts go at once: what can be gathered for one was gathered before."""
        try:
            return await pipe.send(commands, at_once=at_once)
        except CONNECTION_ERRORS as error:
            return await self._send_again(pipe, commands, error, again=again)

    async def _send_again(
        self, pipe: ReconnectingConnection, commands: Sequence[Command], error: Exception, *, again: bool
    ) -> list[Any]:
        """Send what was not sent, or may be sent twice; raises StoreUnavailable where that is not so, or fails too."""
        until = time.monotonic() + FAILOVER_TIMEOUT_S
        while True:
            if isinstance(error, CannotConnect):
                if error.kind is not ErrorKind.RECONNECT or time.monotonic() > until:
                    raise self._unavailable(error) from error
                await asyncio.sleep(FAILOVER_RETRY_S)
            elif again and isinstance(error, ConnectionError):  # a server that restarts, or closed an idle connection
                again = False
            else:
                raise self._unavailable(error) from error
            try:
                return await pipe.send(commands, at_once=True)
            except CONNECTION_ERRORS as next_error:
                error = next_error

    async def _follow(
        self, answers: list[Any], era: int, pipe: ReconnectingConnection, commands: Sequence[Command], *, again: bool
    ) -> list[Any]:
        """Send commands again that the wrong node refused, until the right one answers, for FAILOVER_S at most.

        A node that refuses for that reason carries nothing out: this holds for scripts that are else sent once, too.
        """
        until = time.monotonic() + FAILOVER_TIMEOUT_S
        while (error := _find_wrong_node_error(answers)) is not None and time.monotonic() < until:
            if era != self._generation:
                await asyncio.sleep(FAILOVER_RETRY_S)
            self._reopen(era, describe_error(error))
            era = self._generation
            answers = await self._send(pipe, commands, again=again)
        return answers

    def _raise_first(self, answers: Sequence[Any]) -> None:
        for answer in answers:
            if isinstance(answer, hiredis.ReplyError):
                if str(answer).startswith("OOM"):
                    self._log_full(describe_error(answer))
                elif classify_error(answer) is ErrorKind.RETRY:
                    self._is_refused = True
                    self._writes.began(Exception(describe_error(answer)))
                raise self._unavailable(answer)

    def _log_full(self, reason: str) -> None:
        """Say it now and then: most scripts run all the same, so that no success tells that there is room again."""
        now = time.monotonic()
        if now - self._full_logged_at > _FULL_LOG_INTERVAL_S:
            self._full_logged_at = now
            log.warning("the queue's server has no memory left: %s", reason)

    def _unavailable(self, error: Exception) -> StoreUnavailable:
        reason = describe_error(error)
        is_new = reason not in self._logged_refusals and len(self._logged_refusals) < _MAX_LOGGED_REFUSALS
        if isinstance(error, hiredis.ReplyError) and classify_error(error) is ErrorKind.NEVER and is_new:
            self._logged_refusals.add(reason)
            log.error("the queue's server refused a command, which will not mend itself: %s", reason)
        return StoreUnavailable(f"the queue's server did not take it: {reason}", retry_after_s=_RETRY_AFTER_S)

    # ---- connecting

    def _reopen(self, era: int, reason: str) -> None:
        """Reopen all connections, unless that was done since `era`. What was sent is still answered on the old."""
        if era != self._generation:
            return
        self._generation += 1
        self._outages.began(Exception(f"{self.address}: {reason}"))
        self._drop_all()

    def _drop_all(self) -> None:
        self._small.retire()
        self._large.retire()
        self._answers.retire()
        for wire in self._subscriptions:
            wire.close()

    async def _open_wire(self, on_push: Callable[[list[Any]], None] | None = None) -> RedisConnection:
        """Open a connection and look at the server behind it; raises CannotConnect."""
        try:
            wire = RedisConnection(await self._connect(), self._timeout_s, on_push)
            safety = assess_server(*await wire.send([("HELLO",), ("INFO",)]))
        except (*CONNECTION_ERRORS, ValueError) as error:
            kind = ErrorKind.RETRY if isinstance(error, ValueError) else classify_error(error)
            raise self._cannot_connect(describe_error(error), kind) from error
        before, self.safety = self.safety, safety
        if safety.is_loading or safety.is_read_only:
            wire.close()
            reason = "LOADING: it reads its data back" if safety.is_loading else "READONLY: it is a replica"
            raise self._cannot_connect(reason, ErrorKind.RECONNECT)
        self._warn(safety)
        self._outages.ended()
        self._compare(before, safety)
        return wire

    def _cannot_connect(self, reason: str, kind: ErrorKind) -> CannotConnect:
        if not self._is_starting or kind is not ErrorKind.NEVER:
            self._outages.began(Exception(f"{self.address}: {reason}"))
        return CannotConnect(reason, kind)

    def _warn(self, safety: ServerSafety) -> None:
        """Say what the server is, once, and what of it is not safe, whenever that changes."""
        if not self._is_known:
            self._is_known = True
            log.info("the queue is kept by %s at %s", safety.name, self.address)
        for warning in safety.warnings:
            if warning not in self._warned:
                log.warning("the queue's server at %s is not safe: %s", self.address, warning)
        if self._warned and not safety.warnings:
            log.info("the queue's server at %s is safe now", self.address)
        self._warned = safety.warnings

    def _compare(self, before: ServerSafety | None, now: ServerSafety) -> None:
        """Where the address leads to another node than before, reopen the other connections, too."""
        if before is None or not before.node or not now.node or before.node == now.node:
            return
        if time.monotonic() - self._node_changed_at > _NODE_CHANGE_INTERVAL_S:
            self._node_changed_at = time.monotonic()
            self._generation += 1
            self._drop_all()  # the new one is not among them yet

    async def _connect(self) -> OpenedSocket:
        """Let redis-py connect, and take the socket over. Raises `Unreachable`, and ValueError for a URL of a file."""
        url = self._address.read()
        if self._client is None or url != self._url:
            self._url = url
            self._client = redis.asyncio.Redis.from_url(
                url,
                socket_timeout=self._timeout_s,
                socket_connect_timeout=self._timeout_s,
                retry=Retry(NoBackoff(), 0),
                protocol=3,
            )
        made = self._client.connection_pool.make_connection()  # type: ignore[no-untyped-call] # it has no types
        await made.connect()
        writer: asyncio.StreamWriter = made._writer  # noqa: SLF001 (redis-py has no public way to hand a socket over)
        transport = cast("asyncio.Transport", writer.transport)
        made._reader = made._writer = None  # noqa: SLF001 (it must not close what it no longer owns)
        return transport, writer  # a writer that is forgotten closes its transport


def _find_wrong_node_error(answers: Sequence[Any]) -> hiredis.ReplyError | None:
    """Find the first error that says that this is the wrong node."""
    errors = (answer for answer in answers if isinstance(answer, hiredis.ReplyError))
    return next((error for error in errors if classify_error(error) is ErrorKind.RECONNECT), None)
