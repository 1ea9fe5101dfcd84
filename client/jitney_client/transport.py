"""Sends requests with httpx2, blocking or not, behind one asynchronous interface.

All logic of the client is written once, as coroutines over a `Transport`. A coroutine over the blocking transport never
suspends, so `run` and `iterate` execute it without an event loop: that is the synchronous client.
"""

import time
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Generator, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import IO, Any, NamedTuple, Protocol, TypeVar

import anyio
import httpx2

from jitney_client.errors import ConnectionFailed

T = TypeVar("T")


@dataclass(frozen=True)
class Request:
    """A request. `wait_s`: how long the service may wait before it answers. `file`: sent as the form field `file`."""

    method: str
    path: str
    query: Mapping[str, str | int] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes | None = None
    wait_s: float = 0
    form: Mapping[str, str] = field(default_factory=dict)
    file: IO[bytes] | None = None

    def arguments(self, service: "Service") -> dict[str, Any]:
        """Return the arguments of httpx2's `request` and `stream`."""
        more: dict[str, Any] = {"content": self.content} if self.content is not None else {}
        if self.file is not None:
            self.file.seek(0)
            more = {"data": self.form, "files": {"file": ("input.jsonl", self.file, "application/jsonl")}}
        if self.query:
            more["params"] = self.query
        headers = {**service.headers, **self.headers}
        timeout = httpx2.Timeout(service.timeout_s, read=service.timeout_s + self.wait_s)
        return {"method": self.method, "url": service.url + self.path, "headers": headers, "timeout": timeout, **more}


class Service(NamedTuple):
    """Where requests go, and what all of them have. `timeout_s`: of each step, beside `Request.wait_s`."""

    url: str
    headers: Mapping[str, str]
    timeout_s: float


class Transport(Protocol):
    """How requests are sent and time passes. Raises ConnectionFailed if no response comes."""

    async def send(self, request: Request) -> httpx2.Response:
        """Return the response with its body."""

    def stream(self, request: Request) -> AbstractAsyncContextManager[tuple[httpx2.Response, AsyncIterator[bytes]]]:
        """Return the response and, unless it is an error with its body read, the chunks of its body."""

    async def sleep(self, seconds: float) -> None:
        """Let time pass."""


class BlockingTransport:
    """Sends requests with httpx2.Client."""

    def __init__(self, http: httpx2.Client, service: Service) -> None:
        self._http, self._service = http, service

    async def send(self, request: Request) -> httpx2.Response:
        try:
            return self._http.request(**request.arguments(self._service))
        except httpx2.TransportError as error:
            raise _failed(request, error) from error

    @asynccontextmanager
    async def stream(self, request: Request) -> AsyncGenerator[tuple[httpx2.Response, AsyncIterator[bytes]]]:
        async def read(response: httpx2.Response) -> AsyncGenerator[bytes]:
            for chunk in response.iter_bytes():
                yield chunk

        try:
            with self._http.stream(**request.arguments(self._service)) as response:
                if response.is_error:
                    response.read()
                async with aclosing(read(response)) as chunks:
                    yield response, chunks
        except httpx2.TransportError as error:
            raise _failed(request, error) from error

    async def sleep(self, seconds: float) -> None:
        time.sleep(seconds)  # noqa: ASYNC251 (it is meant to block)


class AsyncTransport:
    """Sends requests with httpx2.AsyncClient, on asyncio or trio."""

    def __init__(self, http: httpx2.AsyncClient, service: Service) -> None:
        self._http, self._service = http, service

    async def send(self, request: Request) -> httpx2.Response:
        try:
            return await self._http.request(**request.arguments(self._service))
        except httpx2.TransportError as error:
            raise _failed(request, error) from error

    @asynccontextmanager
    async def stream(self, request: Request) -> AsyncGenerator[tuple[httpx2.Response, AsyncIterator[bytes]]]:
        try:
            async with self._http.stream(**request.arguments(self._service)) as response:
                if response.is_error:
                    await response.aread()
                yield response, response.aiter_bytes()
        except httpx2.TransportError as error:
            raise _failed(request, error) from error

    async def sleep(self, seconds: float) -> None:
        await anyio.sleep(seconds)


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Execute a coroutine over the blocking transport, and return its result."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    raise AssertionError("the blocking transport has suspended")


def iterate(generator: AsyncGenerator[T]) -> Generator[T]:
    """Yield what an asynchronous generator over the blocking transport yields."""

    async def following() -> T:
        return await anext(generator)

    try:
        while True:
            try:
                item = run(following())
            except StopAsyncIteration:
                return
            yield item
    finally:
        run(generator.aclose())


async def split_lines(chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    """Yield the lines of a body, without their ends. Only a line feed ends a line."""
    pieces: list[bytes] = []  # of a line that is not complete
    async for chunk in chunks:
        first, *others = chunk.split(b"\n")
        pieces.append(first)
        for line in others:
            yield b"".join(pieces)
            pieces = [line]
    if any(pieces):
        yield b"".join(pieces)


def _failed(request: Request, error: httpx2.TransportError) -> ConnectionFailed:
    return ConnectionFailed(f"{request.method} {request.path}: {str(error) or type(error).__name__}")
