"""An auto-pipelining connection: all commands of one turn of the event loop leave in one write, answers come in order.

redis-py makes the connection (address, TLS, AUTH, database, protocol) and hands the socket over; from then on only
bytes pass here. Round trips and Python frames per command are what a small job costs most (docs/decisions/0009).
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import hiredis

Arg = str | bytes | int | float
# A connected socket, and whoever must live as long as it does.
OpenedSocket = tuple[asyncio.Transport, object]
Command = Sequence[Arg] | bytes  # its words, or packed already
pack: Callable[[tuple[Arg, ...]], bytes] = hiredis.pack_command  # type: ignore[assignment] # its stub knows less

CHECKS_PER_TIMEOUT: Final = 4
SECOND_CHECK_S: Final = 0.02


def pack_large(words: Sequence[Arg]) -> bytes:
    """Pack a command of many bytes: `pack` grows its buffer word by word, which costs twice as much from some kB on."""
    parts = [b"*%d\r\n" % len(words)]
    for word in words:
        text = word if isinstance(word, bytes) else str(word).encode()
        parts += (b"$%d\r\n" % len(text), text, b"\r\n")
    return b"".join(parts)


class _Sent:
    """Commands that were sent together, and the answers that came so far."""

    __slots__ = ("answers", "count", "future", "sent_at")

    def __init__(self, count: int, loop: asyncio.AbstractEventLoop) -> None:
        self.future: asyncio.Future[list[Any]] = loop.create_future()
        self.answers: list[Any] = []
        self.count = count
        self.sent_at = loop.time()


class RedisConnection(asyncio.Protocol):
    """One connection from its making to its loss; it never comes back, so no answer can belong to another's command."""

    def __init__(
        self, opened: OpenedSocket, timeout_s: float, on_push: Callable[[list[Any]], None] | None = None
    ) -> None:
        self._transport, self._owner = opened
        self._timeout_s, self._on_push = timeout_s, on_push
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader()
        self._sent: deque[_Sent] = deque()
        self._outgoing: list[bytes] = []
        self._alive_at = self._loop.time()  # when something last moved on the socket
        self._unwritten_bytes = 0
        self._check_due = False
        self._overdue = False
        self._retired = False
        self.lost = asyncio.Event()
        self._transport.set_protocol(self)
        if self._transport.is_closing():
            self.connection_lost(None)

    def send(self, commands: Sequence[Command], *, at_once: bool = False) -> asyncio.Future[list[Any]]:
        """Send commands; gives their answers in order, an error among them as a value.

        `at_once`: do not wait for others of this turn, which takes the loop one turn more.
        The answer is an OSError where the connection is lost, or says nothing for too long.
        """
        sent = _Sent(len(commands), self._loop)
        if self.lost.is_set():
            sent.future.set_exception(ConnectionResetError("the connection is closed"))
            return sent.future
        if not commands:  # nothing would ever answer it, and all that is sent later would wait behind it
            sent.future.set_result([])
            return sent.future
        self._sent.append(sent)
        self.put(commands, at_once=at_once)
        if not self._check_due:
            self._check_due = True
            self._loop.call_later(self._timeout_s / CHECKS_PER_TIMEOUT, self._check)
        return sent.future

    def put(self, commands: Sequence[Command], *, at_once: bool = False) -> None:
        """Send commands that have no answer but what is pushed: subscriptions."""
        if not self._outgoing and not at_once:
            self._loop.call_soon(self._write)
        self._outgoing += [one if isinstance(one, bytes) else pack(tuple(one)) for one in commands]
        if at_once:
            self._write()

    def close(self) -> None:
        """Drop the connection."""
        self._transport.abort()
        self.connection_lost(None)

    def retire(self) -> None:
        """Drop the connection once all that was sent on it is answered; nothing more is to be sent."""
        self._retired = True
        if not self._sent:
            self.close()

    # ---- what the transport calls

    def data_received(self, data: bytes) -> None:
        """Give each answer to the command that waits longest."""
        self._alive_at = self._loop.time()
        self._reader.feed(data)
        while (reply := self._reader.gets()) is not False:
            if isinstance(reply, hiredis.PushNotification):
                if self._on_push is not None:
                    self._on_push(reply)
                continue
            if not self._sent:  # an answer that nobody asked for: what follows could be anybody's
                self.close()
                return
            oldest = self._sent[0]
            oldest.answers.append(reply)
            if len(oldest.answers) == oldest.count:
                self._sent.popleft()
                if not oldest.future.done():
                    oldest.future.set_result(oldest.answers)
        if self._retired and not self._sent:
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail whoever waits: nobody knows which commands were carried out."""
        self._fail(ConnectionResetError(str(exc or "the connection was closed")))

    # ----

    def _fail(self, error: OSError) -> None:
        self.lost.set()
        self._outgoing.clear()
        sent, self._sent = self._sent, deque()
        for one in sent:
            if not one.future.done():
                one.future.set_exception(error)

    def _write(self) -> None:
        outgoing, self._outgoing = self._outgoing, []
        if outgoing and not self._transport.is_closing():
            self._transport.write(outgoing[0] if len(outgoing) == 1 else b"".join(outgoing))

    def _check(self) -> None:
        """Give up a connection on which nothing moves: half-open ones are never closed for us.

        A large answer on its way, or a large input, is movement; only silence counts.
        """
        self._check_due = bool(self._sent)
        if not self._sent:
            return
        now, unwritten = self._loop.time(), self._transport.get_write_buffer_size()
        if unwritten < self._unwritten_bytes:
            self._alive_at = now
        self._unwritten_bytes = unwritten
        overdue = now - max(self._sent[0].sent_at, self._alive_at) > self._timeout_s
        if overdue and self._overdue:
            self._fail(TimeoutError(f"no answer within {self._timeout_s:g} s"))
            self._transport.abort()
            return
        # Where our own loop stood still, the answer lies in the socket: it is read before the second look.
        self._overdue = overdue
        self._loop.call_later(SECOND_CHECK_S if overdue else self._timeout_s / CHECKS_PER_TIMEOUT, self._check)


class ReconnectingConnection:
    """A wire that is opened when first needed, and anew after it was lost. Not for commands that block."""

    def __init__(self, open_wire: Callable[[], Awaitable[RedisConnection]]) -> None:
        self._open_wire = open_wire
        self._opening: asyncio.Task[RedisConnection] | None = None
        self._wire: RedisConnection | None = None

    async def send(self, commands: Sequence[Command], *, at_once: bool = False) -> list[Any]:
        """Send commands; gives their answers in order, an error among them as a value. Raises OSError, see Wire."""
        wire = self._wire
        if wire is None or wire.lost.is_set():
            wire = await self._open()
        return await wire.send(commands, at_once=at_once)

    async def ensure_open(self) -> None:
        """Open the connection, if it is not open. Raises OSError."""
        if self._wire is None or self._wire.lost.is_set():
            await self._open()

    def close(self) -> None:
        """Drop the connection; the next command opens another."""
        if self._wire is not None:
            self._wire.close()

    def retire(self) -> None:
        """Send what comes from now on over another connection; what was sent is still answered on this one."""
        wire, self._wire = self._wire, None
        if wire is not None:
            wire.retire()

    async def _open(self) -> RedisConnection:
        """Open once, however many commands ask for it at the same time."""
        if self._opening is None or self._opening.done():
            self._opening = asyncio.create_task(self._connect())
        return await asyncio.shield(self._opening)

    async def _connect(self) -> RedisConnection:
        self._wire = wire = await self._open_wire()
        return wire
