"""Auto-pipelining Redis connection: commands of one event loop iteration leave in one write, replies come in order.

redis-py opens the connection (address, TLS, AUTH, database, protocol) and gives up its socket. From then on this module
reads and writes the bytes. Round trips and Python frames per command dominate the cost of a small job
(docs/explanation/decisions/redis-server-and-connections.md).
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import hiredis

Arg = str | bytes | int | float
# A connected socket, and an object that must be kept alive as long as the socket.
OpenedSocket = tuple[asyncio.Transport, object]


class Pieces(tuple[bytes | memoryview, ...]):
    """A packed command in pieces. They are sent without being joined, so that a large argument is not copied."""

    __slots__ = ()


Command = Sequence[Arg] | bytes | Pieces  # its arguments, or packed already
pack: Callable[[tuple[Arg, ...]], bytes] = hiredis.pack_command  # type: ignore[assignment] # the stub is too narrow

CHECKS_PER_TIMEOUT: Final = 4
SECOND_CHECK_S: Final = 0.02
FEW_ARGS: Final = 15  # a submit of one job
SMALL_BYTES: Final = 32 << 10  # pieces below this size are joined into one write


def pack_large(args: Sequence[Arg]) -> bytes:
    """Pack a command whose last argument may be large, or one with many arguments.

    `pack` grows its buffer with each argument: it takes half as long as joining for few small ones, and a hundred times
    as long for large ones.
    """
    last = args[-1]
    if len(args) <= FEW_ARGS and isinstance(last, bytes) and len(last) <= SMALL_BYTES:
        return pack(tuple(args))
    return b"".join(_pack_pieces(args))


def pack_set(key: str, value: bytes | memoryview, *options: str | int) -> Pieces:
    """Pack a SET of a large value."""
    before, after = _pack_pieces(("SET", key)), _pack_pieces(options)
    count, first, last = b"*%d\r\n" % (3 + len(options)), b"".join(before[1:]), b"".join(after[1:])
    return Pieces((b"%b%b$%d\r\n" % (count, first, len(value)), value, b"\r\n" + last))


def _pack_pieces(args: Sequence[Arg]) -> list[bytes]:
    parts = [b"*%d\r\n" % len(args)]
    for arg in args:
        text = arg if isinstance(arg, bytes) else str(arg).encode()
        parts += (b"$%d\r\n" % len(text), text, b"\r\n")
    return parts


class _Sent:
    """Commands that were sent together, and the replies received so far."""

    __slots__ = ("answers", "count", "future", "sent_at")

    def __init__(self, count: int, loop: asyncio.AbstractEventLoop) -> None:
        self.future: asyncio.Future[list[Any]] = loop.create_future()
        self.answers: list[Any] = []
        self.count = count
        self.sent_at = loop.time()


class RedisConnection(asyncio.Protocol):
    """One connection that is never reopened, so that no reply can be matched with another connection's command."""

    def __init__(
        self, opened: OpenedSocket, timeout_s: float, on_push: Callable[[list[Any]], None] | None = None
    ) -> None:
        self._transport, self._owner = opened
        self._timeout_s, self._on_push = timeout_s, on_push
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader()
        self._sent: deque[_Sent] = deque()
        self._outgoing: list[bytes | memoryview] = []
        self._alive_at = self._loop.time()  # when bytes last moved on the socket
        self._queued_bytes = 0  # given to the transport
        self._unwritten_bytes = self._written_bytes = 0  # of them, when last looked
        self._check_due = False
        self._overdue = False
        self._retired = False
        self.lost = asyncio.Event()
        self._transport.set_protocol(self)
        if self._transport.is_closing():
            self.connection_lost(None)

    def send(self, commands: Sequence[Command], *, at_once: bool = False) -> asyncio.Future[list[Any]]:
        """Send commands; the future returns their replies in order. An error reply is returned as a value.

        `at_once`: write now, not at the end of this event loop iteration, which costs one iteration.
        The future fails with OSError if the connection is lost or silent for too long.
        """
        sent = _Sent(len(commands), self._loop)
        if self.lost.is_set():
            sent.future.set_exception(ConnectionResetError("the connection is closed"))
            return sent.future
        if not commands:  # no reply would ever resolve it, and later commands would wait behind it
            sent.future.set_result([])
            return sent.future
        if at_once and not self._outgoing and sent.count == 1 and isinstance(commands[0], bytes):
            if not self._transport.is_closing():
                self._queued_bytes += len(commands[0])
                self._transport.write(commands[0])
        else:
            self.put(commands, at_once=at_once)
        self._sent.append(sent)  # not before: a command that cannot be packed has no reply
        if not self._check_due:
            self._check_due = True
            self._loop.call_later(self._timeout_s / CHECKS_PER_TIMEOUT, self._check)
        return sent.future

    def put(self, commands: Sequence[Command], *, at_once: bool = False) -> None:
        """Write commands without a wait for replies; subscriptions have none but pushes."""
        packed: list[bytes | memoryview] = []
        for command in commands:
            if isinstance(command, Pieces):
                packed += command
            else:
                packed.append(command if isinstance(command, bytes) else pack(tuple(command)))
        if not self._outgoing and not at_once:
            self._loop.call_soon(self._write)
        self._outgoing += packed
        if at_once:
            self._write()

    def close(self) -> None:
        """Close the connection. Pending commands fail with ConnectionResetError."""
        self._transport.abort()
        self.connection_lost(None)

    def retire(self) -> None:
        """Close the connection once all pending replies have arrived; send nothing more on it."""
        self._retired = True
        if not self._sent:
            self.close()

    # ---- asyncio.Protocol

    def data_received(self, data: bytes) -> None:
        """Match each reply with the oldest pending command."""
        self._alive_at = self._loop.time()
        self._reader.feed(data)
        while (reply := self._reader.gets()) is not False:
            if isinstance(reply, hiredis.PushNotification):
                if self._on_push is not None:
                    self._on_push(reply)
                continue
            if not self._sent:  # an unexpected reply: no later reply could be matched safely
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
        """Fail all pending commands: it is unknown which were carried out."""
        self._fail(ConnectionResetError(str(exc or "the connection was closed")))

    # ---- private

    def _fail(self, error: OSError) -> None:
        self.lost.set()
        self._outgoing.clear()
        sent, self._sent = self._sent, deque()
        for pending in sent:
            if not pending.future.done():
                pending.future.set_exception(error)

    def _write(self) -> None:
        outgoing, self._outgoing = self._outgoing, []
        if not outgoing or self._transport.is_closing():
            return
        self._queued_bytes += sum(map(len, outgoing))
        if len(outgoing) == 1:
            self._transport.write(outgoing[0])
        elif max(map(len, outgoing)) < SMALL_BYTES:
            self._transport.write(b"".join(outgoing))
        else:
            self._transport.writelines(outgoing)

    def _check(self) -> None:
        """Fail a connection that is silent for too long; a half-open connection is never closed by the system.

        Bytes of a large reply or a large input count as activity.
        """
        self._check_due = bool(self._sent)
        if not self._sent:
            return
        now, unwritten = self._loop.time(), self._transport.get_write_buffer_size()
        written = self._queued_bytes - unwritten
        # Bytes that leave at once say nothing: the system takes some for a peer that reads none.
        if self._unwritten_bytes and written > self._written_bytes:
            self._alive_at = now
        self._unwritten_bytes, self._written_bytes = unwritten, written
        overdue = now - max(self._sent[0].sent_at, self._alive_at) > self._timeout_s
        if overdue and self._overdue:
            self._fail(TimeoutError(f"no answer within {self._timeout_s:g} s"))
            self._transport.abort()
            return
        # If this event loop itself was blocked, the reply is already in the socket: read it before the second check.
        self._overdue = overdue
        self._loop.call_later(SECOND_CHECK_S if overdue else self._timeout_s / CHECKS_PER_TIMEOUT, self._check)


class ReconnectingConnection:
    """Opens a connection on first use and again after it was lost. Not for blocking commands."""

    def __init__(self, open_connection: Callable[[], Awaitable[RedisConnection]]) -> None:
        self._open_connection = open_connection
        self._opening: asyncio.Task[RedisConnection] | None = None
        self._connection: RedisConnection | None = None

    async def send(self, commands: Sequence[Command], *, at_once: bool = False) -> list[Any]:
        """Send commands and return their replies in order; an error reply is a value. Raises OSError."""
        connection = self.current or await self._open()
        return await connection.send(commands, at_once=at_once)

    @property
    def current(self) -> RedisConnection | None:
        """The open connection; None if `send` has to open one first."""
        connection = self._connection
        return None if connection is None or connection.lost.is_set() else connection

    async def ensure_open(self) -> None:
        """Open the connection, if it is not open. Raises OSError."""
        if self.current is None:
            await self._open()

    def close(self) -> None:
        """Close the connection; the next command opens a new one."""
        if self._connection is not None:
            self._connection.close()

    def retire(self) -> None:
        """Use a new connection for later commands; pending replies still arrive on the old one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.retire()

    async def _open(self) -> RedisConnection:
        """Open one connection, shared by all commands that wait for it."""
        if self._opening is None or self._opening.done():
            self._opening = asyncio.create_task(self._connect())
        return await asyncio.shield(self._opening)

    async def _connect(self) -> RedisConnection:
        self._connection = connection = await self._open_connection()
        return connection
