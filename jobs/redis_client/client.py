"""Redis client of all processes: sends commands and Lua scripts, retries after failover, reports outages."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self, cast

import hiredis
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from jobs.contract.errors import QueueFull, StoreFull, StoreUnavailable
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
from jobs.redis_client.script import REFUSED_WHEN_FULL, Script

if TYPE_CHECKING:  # an import cycle otherwise: settings import tenants, which import this module
    from jobs.store.settings import StoreSettings

log = logging.getLogger("jitney.jobs")

# Scripts that are never retried. A second claim or dispatch would lease work that nobody receives; a second cancel
# would report its own effect as a conflict; a second increment would count twice.
_SENT_ONCE = {"job/claim", "job/cancel", "bulk/dispatch", "bulk_file/unlink", "webhook/dispatch", "generic/increment"}
# Scripts that accept new work. JITNEY_REQUIRE_DURABLE refuses them while the server may lose data.
_ACCEPTING: Final = {"job/submit", "bulk/create", "bulk_file/add"}
_RETRY_AFTER_S: Final = 1
_FULL_RETRY_AFTER_S: Final = 5
# Scripts that carry inputs. Large calls use their own connection, so that small replies do not wait behind them.
_LARGE: Final = {"job/submit"}
_LARGE_BYTES: Final = 256 << 10
# Scripts with large replies. They use the connection that `pipeline(…, large=True)` uses.
_LARGE_ANSWERS: Final = {"bulk/read_outcomes"}
# After a failover the address leads to the new primary only after a moment. Refused commands are retried that long.
FAILOVER_TIMEOUT_S: Final = 1.0
FAILOVER_RETRY_S: Final = 0.05
# Shortest time between two reconnects after a node change. A proxy over several nodes would cause endless ones.
_NODE_CHANGE_INTERVAL_S: Final = 5.0
_MAX_LOGGED_REFUSALS: Final = 100
_FULL_LOG_INTERVAL_S: Final = 60.0

CONNECTION_ERRORS: Final = (RedisError, OSError)


class CannotConnect(ConnectionError):
    """No connection could be opened, so nothing was sent. `kind` says whether a retry can help."""

    def __init__(self, reason: str, kind: ErrorKind) -> None:
        super().__init__(reason)
        self.kind = kind


class RedisClient:
    """Sends commands to Redis. Raises StoreUnavailable whenever Redis is unreachable or cannot write.

    All connections lead to the same node: when one detects the wrong node, all are reopened.
    """

    def __init__(
        self, url: str, timeout_s: float, *, url_file: Path | None = None, require_durable: bool = False
    ) -> None:
        self._address, self._timeout_s, self._require_durable = RedisAddress(url, url_file), timeout_s, require_durable
        self._url = ""
        self._client: redis.asyncio.Redis | None = None
        self._small, self._large, self._answers = (ReconnectingConnection(self._open_connection) for _ in range(3))
        self._subscriptions: dict[RedisConnection, bool] = {}  # value: the node was a replica when this was opened
        self._scripts: dict[str, Script] = {}
        self._generation = 0  # counts how often all connections were dropped
        self._node_changed_at = -_NODE_CHANGE_INTERVAL_S
        self._outages, self._writes = OutageLog(log, "reach Redis"), OutageLog(log, "write to Redis")
        self._is_refused = False  # the last script failed with a RETRY error
        self._logged_refusals: set[str] = set()  # NEVER errors that were logged
        self._full_logged_at = -_FULL_LOG_INTERVAL_S
        self._is_starting, self._is_known, self._warned = False, False, list[str]()
        self.safety: ServerSafety | None = None  # as of the newest connection

    @classmethod
    def of(cls, settings: "StoreSettings", timeout_s: float | None = None) -> Self:
        """Return a client for the server that the settings name."""
        return cls(
            settings.redis_url,
            timeout_s or settings.redis_timeout_s,
            url_file=settings.redis_url_file,
            require_durable=settings.require_durable,
        )

    @property
    def address(self) -> str:
        """Server address for logs, without the password."""
        return self._address.shown

    @property
    def refusal(self) -> str:
        """Return why new jobs are refused (JITNEY_REQUIRE_DURABLE and an unsafe server); "" if they are accepted."""
        if not self._require_durable or self.safety is None or self.safety.is_durable:
            return ""
        return f"JITNEY_REQUIRE_DURABLE is set, but Redis may lose data: {'; '.join(self.safety.warnings)}"

    async def unusable_reason(self) -> str:
        """Connect and return why this server can never be used; "" if it can, or is only unreachable for now."""
        self._is_starting = True
        try:
            await self.command("PING")
        except StoreUnavailable as error:
            cause = error.__cause__
            if isinstance(cause, CannotConnect) and cause.kind is ErrorKind.NEVER:
                return f"Redis at {self.address} cannot be used: {cause}"
        finally:
            self._is_starting = False
        return self.refusal

    async def command(self, *args: Arg) -> Any:
        return (await self.pipeline([args]))[0]

    async def facts(self, section: str) -> dict[str, str]:
        """Return one section of the server's INFO."""
        text: bytes = await self.command("INFO", section)
        return parse_info(text.decode())

    async def now_ms(self) -> int:
        """Return the server's time in ms since the epoch. Local clocks are never used for decisions."""
        seconds, us = await self.command("TIME")
        return int(seconds) * 1000 + int(us) // 1000

    async def pipeline(self, commands: Sequence[Command], *, large: bool = False) -> list[Any]:
        """Send commands in one write and return their replies in order. They may be sent twice: use idempotent ones.

        `large`: commands or replies may be large. They use a connection of their own, so that no others wait for them.
        """
        connection = self._answers if large else self._small
        generation = self._generation
        answers = await self._send(connection, commands, again=True, at_once=False)
        for answer in answers:
            if isinstance(answer, hiredis.ReplyError):
                answers = await self._redirect(answers, generation, connection, commands, again=True)
                self._raise_first(answers)
        return answers

    async def script(self, name: str, root: str, *args: Arg) -> Any:
        """Run a Lua script on the shard of this root key and return its reply."""
        again, generation = name not in _SENT_ONCE, self._generation
        script = self._scripts.get(name) or self._scripts.setdefault(name, Script(name))
        pack_args = pack_large if name in _LARGE else pack
        packed = pack_args(("EVALSHA", script.sha, 1, root, *args))
        connection = self._answers if name in _LARGE_ANSWERS else self._small
        connection = self._large if len(packed) > _LARGE_BYTES else connection
        if self._require_durable and name in _ACCEPTING:
            await self._check_durable(connection)
        opened = connection.current
        if opened is None:
            answers = await self._send(connection, [packed], again=again)
        else:  # as `_send` does, without two more coroutines
            try:
                answers = await opened.send([packed], at_once=True)
            except CONNECTION_ERRORS as error:
                answers = await self._send_again(connection, [packed], error, again=again)
        if isinstance(answers[0], hiredis.ReplyError):
            answers = await self._redirect(answers, generation, connection, [packed], again=again)
            if str(answers[0]).startswith("NOSCRIPT"):  # the server restarted or was replaced
                source = [("EVAL", script.source, 1, root, *args)]
                generation = self._generation
                answers = await self._send(connection, source, again=again)
                answers = await self._redirect(answers, generation, connection, source, again=again)
            if name in REFUSED_WHEN_FULL and str(answers[0]).startswith("OOM"):
                message = "Redis is out of memory and accepts no new jobs"
                raise QueueFull(message, retry_after_s=_FULL_RETRY_AFTER_S)
            self._raise_first(answers)
        if self._is_refused:
            self._is_refused = False
            self._writes.ended()
        return answers[0]

    async def subscribe(self, channels: Sequence[str], on_push: Callable[[list[Any]], None]) -> RedisConnection:
        """Open a dedicated connection for pub/sub. The caller closes it. Raises CannotConnect."""
        connection = await self._open_connection(on_push)
        connection.put([("SUBSCRIBE", *channels)])
        # PING follows SUBSCRIBE: its reply confirms the subscription. An error reply belongs to SUBSCRIBE.
        (answer,) = await connection.send([("PING",)])
        if isinstance(answer, hiredis.ReplyError):
            connection.close()
            raise CannotConnect(describe_error(answer), classify_error(answer))
        still_open = {key: role for key, role in self._subscriptions.items() if not key.lost.is_set()}
        self._subscriptions = {**still_open, connection: self.safety is not None and self.safety.is_replica}
        return connection

    async def check_node(self, connection: RedisConnection) -> None:
        """Reopen all connections if this node's role changed: a subscription on a new replica just falls silent."""
        (hello,) = await connection.send([("HELLO",)])
        if isinstance(hello, hiredis.ReplyError):
            if classify_error(hello) is ErrorKind.RECONNECT:
                self._reopen(self._generation, describe_error(hello))
        elif assess_server(hello, None).is_replica != self._subscriptions.get(connection):
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

    async def _check_durable(self, connection: ReconnectingConnection) -> None:
        with suppress(*CONNECTION_ERRORS):  # the next send meets the same error and reports it
            await connection.ensure_open()
        if self.refusal:
            raise StoreUnavailable(self.refusal, retry_after_s=_RETRY_AFTER_S)

    async def _send(
        self, connection: ReconnectingConnection, commands: Sequence[Command], *, again: bool, at_once: bool = True
    ) -> list[Any]:
        """Send commands; scripts go out at once because their callers have already batched them."""
        try:
            return await connection.send(commands, at_once=at_once)
        except CONNECTION_ERRORS as error:
            return await self._send_again(connection, commands, error, again=again)

    async def _send_again(
        self, connection: ReconnectingConnection, commands: Sequence[Command], error: Exception, *, again: bool
    ) -> list[Any]:
        """Retry commands that were not sent or may be sent twice. Raises StoreUnavailable otherwise, or on failure."""
        until = time.monotonic() + FAILOVER_TIMEOUT_S
        while True:
            if isinstance(error, CannotConnect):
                if error.kind is not ErrorKind.RECONNECT or time.monotonic() > until:
                    raise self._unavailable(error) from error
                await asyncio.sleep(FAILOVER_RETRY_S)
            elif again and isinstance(error, ConnectionError):  # the server restarted or closed an idle connection
                again = False
            else:
                raise self._unavailable(error) from error
            try:
                return await connection.send(commands, at_once=True)
            except CONNECTION_ERRORS as next_error:
                error = next_error

    async def _redirect(
        self,
        answers: list[Any],
        generation: int,
        connection: ReconnectingConnection,
        commands: Sequence[Command],
        *,
        again: bool,
    ) -> list[Any]:
        """Resend commands that the wrong node refused until the right node answers, for FAILOVER_TIMEOUT_S at most.

        Such a refusal means that nothing was carried out, so this is safe for every script.
        """
        until = time.monotonic() + FAILOVER_TIMEOUT_S
        while (error := _find_wrong_node_error(answers)) is not None and time.monotonic() < until:
            if generation != self._generation:
                await asyncio.sleep(FAILOVER_RETRY_S)
            self._reopen(generation, describe_error(error))
            generation = self._generation
            answers = await self._send(connection, commands, again=again)
        return answers

    def _raise_first(self, answers: Sequence[Any]) -> None:
        for answer in answers:
            if isinstance(answer, hiredis.ReplyError):
                if str(answer).startswith("OOM"):
                    self._log_full(describe_error(answer))
                    raise StoreFull(f"Redis is out of memory: {describe_error(answer)}", retry_after_s=_RETRY_AFTER_S)
                if classify_error(answer) is ErrorKind.RETRY:
                    self._is_refused = True
                    self._writes.began(Exception(describe_error(answer)))
                raise self._unavailable(answer)

    def _log_full(self, reason: str) -> None:
        """Log that Redis is out of memory, at intervals: most scripts still run, so no success marks the end."""
        now = time.monotonic()
        if now - self._full_logged_at > _FULL_LOG_INTERVAL_S:
            self._full_logged_at = now
            log.warning("Redis is out of memory: %s", reason)

    def _unavailable(self, error: Exception) -> StoreUnavailable:
        reason = describe_error(error)
        is_new = reason not in self._logged_refusals and len(self._logged_refusals) < _MAX_LOGGED_REFUSALS
        if isinstance(error, hiredis.ReplyError) and classify_error(error) is ErrorKind.NEVER and is_new:
            self._logged_refusals.add(reason)
            log.error("Redis refused a command, and a retry cannot help: %s", reason)
        what = "Redis refused a command" if isinstance(error, hiredis.ReplyError) else "cannot reach Redis"
        return StoreUnavailable(f"{what}: {reason}", retry_after_s=_RETRY_AFTER_S)

    # ---- connecting

    def _reopen(self, generation: int, reason: str) -> None:
        """Reopen all connections unless done since `generation`. Pending replies still arrive on the old ones."""
        if generation != self._generation:
            return
        self._generation += 1
        self._outages.began(Exception(f"{self.address}: {reason}"))
        self._drop_all()

    def _drop_all(self) -> None:
        self._small.retire()
        self._large.retire()
        self._answers.retire()
        for connection in self._subscriptions:
            connection.close()

    async def _open_connection(self, on_push: Callable[[list[Any]], None] | None = None) -> RedisConnection:
        """Open a connection and check the server behind it. Raises CannotConnect."""
        try:
            connection = RedisConnection(await self._connect(), self._timeout_s, on_push)
            safety = assess_server(*await connection.send([("HELLO",), ("INFO",)]))
        except (*CONNECTION_ERRORS, ValueError) as error:
            kind = ErrorKind.RETRY if isinstance(error, ValueError) else classify_error(error)
            raise self._cannot_connect(describe_error(error), kind) from error
        before, self.safety = self.safety, safety
        if safety.is_loading or safety.is_read_only:
            connection.close()
            reason = "LOADING: it is loading its data" if safety.is_loading else "READONLY: it is a replica"
            raise self._cannot_connect(reason, ErrorKind.RECONNECT)
        self._warn(safety)
        self._outages.ended()
        self._compare(before, safety)
        return connection

    def _cannot_connect(self, reason: str, kind: ErrorKind) -> CannotConnect:
        if not self._is_starting or kind is not ErrorKind.NEVER:
            self._outages.began(Exception(f"{self.address}: {reason}"))
        return CannotConnect(reason, kind)

    def _warn(self, safety: ServerSafety) -> None:
        """Log the server's version once, and its durability warnings whenever they change."""
        if not self._is_known:
            self._is_known = True
            log.debug("connected to %s at %s", safety.name, self.address)
        for warning in safety.warnings:
            if warning not in self._warned:
                log.warning("Redis at %s may lose jobs: %s", self.address, warning)
        if self._warned and not safety.warnings:
            log.info("Redis at %s is durable now", self.address)
        self._warned = safety.warnings

    def _compare(self, before: ServerSafety | None, now: ServerSafety) -> None:
        """Reopen the other connections if the address now leads to another node."""
        if before is None or not before.node or not now.node or before.node == now.node:
            return
        if time.monotonic() - self._node_changed_at > _NODE_CHANGE_INTERVAL_S:
            self._node_changed_at = time.monotonic()
            self._generation += 1
            self._drop_all()  # the new connection is not registered yet

    async def _connect(self) -> OpenedSocket:
        """Connect with redis-py and take over its socket. Raises OSError, RedisError; ValueError for a bad URL file."""
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
        made = self._client.connection_pool.make_connection()  # type: ignore[no-untyped-call] # untyped in redis-py
        try:
            await made.connect()
        except RuntimeError as error:  # uvloop's, for a write after the server has closed the connection
            raise ConnectionResetError(f"the connection was closed while it was opened: {error}") from error
        writer: asyncio.StreamWriter = made._writer  # noqa: SLF001 (redis-py has no public way to give its socket away)
        transport = cast("asyncio.Transport", writer.transport)
        made._reader = made._writer = None  # noqa: SLF001 (redis-py must not close the socket)
        return transport, writer  # keep the writer alive: a collected writer closes its transport


def _find_wrong_node_error(answers: Sequence[Any]) -> hiredis.ReplyError | None:
    """Return the first error reply that says this is the wrong node; None if there is none."""
    errors = (answer for answer in answers if isinstance(answer, hiredis.ReplyError))
    return next((error for error in errors if classify_error(error) is ErrorKind.RECONNECT), None)
