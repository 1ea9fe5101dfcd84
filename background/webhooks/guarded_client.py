"""HTTP client for untrusted URLs: resolves a name once, checks every address, connects only to a checked one.

The Host header and the TLS name stay those of the URL: httpcore calls this module only to open the stream.
"""

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final

import httpcore2

from jobs.contract.address_policy import Address, AddressPolicy
from jobs.contract.errors import Refused

Resolve = Callable[[str, int], Awaitable[list[Address]]]
MAX_ADDRESSES: Final = 4  # addresses tried per connection
KEEPALIVE_S: Final = 5.0
# A slow DNS lookup blocks a thread, so lookups have a pool of their own.
_LOOKUP_THREADS: Final = ThreadPoolExecutor(64, thread_name_prefix="dns-lookup")


class AddressRefused(httpcore2.ConnectError):
    """The name resolves to an address that is not allowed."""


class ResolutionFailed(httpcore2.ConnectError):
    """The name cannot be resolved."""


class GuardedBackend(httpcore2.AsyncNetworkBackend):
    """Network backend that connects to checked addresses only."""

    def __init__(self, policy: AddressPolicy, resolve: Resolve) -> None:
        self._policy, self._resolve = policy, resolve
        self._inner = httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 (httpcore's parameter)
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        addresses = await self._resolve(host, port)
        try:
            self._policy.check(host, addresses)
            self._policy.check_port(port, addresses)
        except Refused as error:
            raise AddressRefused(error.message) from error
        for last, address in enumerate(addresses, 1 - min(len(addresses), MAX_ADDRESSES)):
            try:
                return await self._inner.connect_tcp(str(address), port, timeout, local_address, socket_options)
            except httpcore2.ConnectError:
                if last == 0:
                    raise
        raise ResolutionFailed(f"{host} has no address")

    async def connect_unix_socket(self, path: str, *_: Any, **__: Any) -> httpcore2.AsyncNetworkStream:
        raise AddressRefused(f"{path} is a Unix socket, which cannot receive webhooks")

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


async def resolve_host(host: str, port: int) -> list[Address]:
    """Resolve a host with the system's resolver; raises ResolutionFailed."""
    try:
        lookup = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
        entries = await asyncio.get_running_loop().run_in_executor(_LOOKUP_THREADS, lookup)
    except (OSError, UnicodeError) as error:
        raise ResolutionFailed(f"{host} cannot be resolved: {error}") from error
    texts = dict.fromkeys(str(entry[4][0]).partition("%")[0] for entry in entries)
    return [ipaddress.ip_address(text) for text in texts]


def create_client(
    policy: AddressPolicy, connections: int, resolve: Resolve = resolve_host
) -> httpcore2.AsyncConnectionPool:
    """Create the connection pool of all attempts: HTTP/1.1, no redirects, no proxy from the environment."""
    return httpcore2.AsyncConnectionPool(
        ssl_context=ssl.create_default_context(),
        max_connections=connections,
        max_keepalive_connections=connections,
        keepalive_expiry=KEEPALIVE_S,
        network_backend=GuardedBackend(policy, resolve),
    )
