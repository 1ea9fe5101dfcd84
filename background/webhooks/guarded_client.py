"""How receivers are connected to: a name is looked up once, every address is checked, one of them is connected to.

Host header and TLS name stay the name's: httpcore takes them from the URL, and only asks here for a stream.
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
MAX_ADDRESSES: Final = 4  # that are tried in turn
KEEPALIVE_S: Final = 5.0
# A name that takes long holds a thread: here it is nobody else's.
_LOOK_UPS: Final = ThreadPoolExecutor(64, thread_name_prefix="look-up")


class AddressRefused(httpcore2.ConnectError):
    """The name stands for an address that is not spoken to."""


class ResolutionFailed(httpcore2.ConnectError):
    """The name can not be looked up."""


class GuardedBackend(httpcore2.AsyncNetworkBackend):
    """Connects to checked addresses, and to nothing else."""

    def __init__(self, address_policy: AddressPolicy, resolve: Resolve) -> None:
        self._guard, self._resolve, self._inner = address_policy, resolve, httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 (httpcore's own word)
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        addresses = await self._resolve(host, port)
        try:
            self._guard.check(host, addresses)
            self._guard.check_port(port, addresses)
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
        raise AddressRefused(f"{path} is no address of a receiver")

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


async def resolve_host(host: str, port: int) -> list[Address]:
    """Ask the system's resolver, whatever form the host has; raises NoAddress."""
    try:
        ask = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
        found = await asyncio.get_running_loop().run_in_executor(_LOOK_UPS, ask)
    except (OSError, UnicodeError) as error:
        raise ResolutionFailed(f"{host} can not be looked up: {error}") from error
    texts = dict.fromkeys(str(entry[4][0]).partition("%")[0] for entry in found)
    return [ipaddress.ip_address(text) for text in texts]


def create_client(
    address_policy: AddressPolicy, connections: int, resolve: Resolve = resolve_host
) -> httpcore2.AsyncConnectionPool:
    """Make the pool that all attempts share: no proxy of the environment, no redirects, HTTP/1.1."""
    return httpcore2.AsyncConnectionPool(
        ssl_context=ssl.create_default_context(),
        max_connections=connections,
        max_keepalive_connections=connections,
        keepalive_expiry=KEEPALIVE_S,
        network_backend=GuardedBackend(address_policy, resolve),
    )
