"""An auto-pipelining connection: all commands of one turn of the event loop leave in one write, answers come in order.

redis-py makes the connection (address, TLS, AUTH, database, protocol) and hands the socket over; from then on only
bytes pass here. Round trips and Python frames per command are what a small job costs most (docs/decisions/0009).
"""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, NamedTuple

import hiredis

Word = str | bytes | int | float
Opened = tuple[asyncio.Transport, Any]
pack: Callable[[tuple[Word, ...]], bytes] = hiredis.pack_command  # type: ignore[assignment] # its stub knows less

CHECKS_PER_TIMEOUT: Final = 4


class _Waiting(NamedTuple):
    answer: "asyncio.Future[Any]"
    sent_at: float


class Pipe(asyncio.Protocol):
    """One connection, opened when first needed and again after it was lost. Not for commands that block.

    What the server says unasked (RESP3 push: messages of a subscription) goes to `on_push`. `lost` is set while there
    is no connection.
    """

    def __init__(
        self,
        open_transport: Callable[[], Coroutine[Any, Any, Opened]],
        timeout_s: float,
        on_push: Callable[[list[Any]], None] | None = None,
    ) -> None:
        self._open_transport, self._timeout_s, self._on_push = open_transport, timeout_s, on_push
        self.lost = asyncio.Event()
        self._opening: asyncio.Task[None] | None = None
        self._transport: asyncio.Transport | None = None
        self._owner: Any = None  # redis-py's connection, kept as long as its socket is
        self._reader = hiredis.Reader()
        self._waiting: deque[_Waiting] = deque()
        self._outgoing: list[bytes] = []
        self._check_due = False

    async def send(self, commands: Sequence[Sequence[Word]]) -> list[Any]:
        """Send commands; gives their answers in order, an error among them as a value.

        Raises OSError where the connection can not be made, is lost, or says nothing for too long.
        """
        if self._transport is None:
            await self._open()
        loop = asyncio.get_running_loop()
        now = loop.time()
        answers: list[asyncio.Future[Any]] = []
        for words in commands:
            answer: asyncio.Future[Any] = loop.create_future()
            answers.append(answer)
            self._waiting.append(_Waiting(answer, now))
            self._put(words)
        if not self._check_due:
            self._check_due = True
            loop.call_later(self._timeout_s / CHECKS_PER_TIMEOUT, self._check)
        return [await answer for answer in answers]

    async def subscribe(self, channels: Sequence[str]) -> None:
        """Subscribe to channels, once the connection is there; a subscription has no answer but what is pushed."""
        if self._transport is None:
            await self._open()
        self._put(("SUBSCRIBE", *channels))

    def close(self) -> None:
        """Drop the connection; the next command opens another."""
        if self._transport is not None:
            self._transport.abort()
        self.connection_lost(None)

    # ---- what the transport calls

    def data_received(self, data: bytes) -> None:
        """Give each answer to the command that waits longest."""
        self._reader.feed(data)
        while (reply := self._reader.gets()) is not False:
            if isinstance(reply, hiredis.PushNotification):
                if self._on_push is not None:
                    self._on_push(reply)
                continue
            waiting = self._waiting.popleft().answer
            if not waiting.done():
                waiting.set_result(reply)

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail whoever waits: nobody knows which commands were carried out."""
        self._transport = self._owner = None
        self.lost.set()
        self._outgoing.clear()
        waiting, self._waiting = self._waiting, deque()
        for one in waiting:
            if not one.answer.done():
                one.answer.set_exception(ConnectionResetError(str(exc or "the connection was closed")))

    # ----

    async def _open(self) -> None:
        """Open once, however many commands ask for it at the same time."""
        if self._opening is None:
            self._opening = asyncio.create_task(self._connect())
            self._opening.add_done_callback(self._opened)
        await asyncio.shield(self._opening)

    def _opened(self, task: asyncio.Task[None]) -> None:
        self._opening = None
        if not task.cancelled():
            task.exception()  # told to whoever waits for it

    async def _connect(self) -> None:
        transport, self._owner = await self._open_transport()
        self._reader = hiredis.Reader()
        transport.set_protocol(self)
        self._transport = transport
        self.lost.clear()

    def _put(self, words: Sequence[Word]) -> None:
        if not self._outgoing:
            asyncio.get_running_loop().call_soon(self._write)
        self._outgoing.append(pack(tuple(words)))

    def _write(self) -> None:
        outgoing, self._outgoing = self._outgoing, []
        if self._transport is not None and outgoing:
            self._transport.write(b"".join(outgoing))

    def _check(self) -> None:
        """Give up a connection whose oldest command waits too long: half-open ones are never closed for us."""
        self._check_due = bool(self._waiting)
        if not self._waiting:
            return
        loop = asyncio.get_running_loop()
        if loop.time() - self._waiting[0].sent_at > self._timeout_s:
            self._check_due = False
            self._fail_overdue()
        else:
            loop.call_later(self._timeout_s / CHECKS_PER_TIMEOUT, self._check)

    def _fail_overdue(self) -> None:
        waiting, self._waiting = self._waiting, deque()
        for one in waiting:
            if not one.answer.done():
                one.answer.set_exception(TimeoutError(f"no answer within {self._timeout_s:g} s"))
        self.close()
