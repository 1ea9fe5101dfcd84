"""A server that resets connections while they are opened is an unreachable server, also under uvloop."""

import asyncio
import random
import socket
import struct
import threading
from contextlib import suppress
from importlib import import_module

from jobs.redis_client.client import CannotConnect, RedisClient

ATTEMPTS, AT_ONCE = 600, 10  # one attempt in a hundred meets the moment between the connect and the first write
RESET_ON_CLOSE = struct.pack("ii", 1, 0)


def _reset_each(listener: socket.socket) -> None:
    never = threading.Event()
    with suppress(OSError):  # the test has closed it
        while True:
            accepted, _ = listener.accept()
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            never.wait(random.random() * 0.003)  # spreads the resets over the steps of opening
            accepted.close()


async def _connect_often(port: int) -> set[str]:
    """Names of the exceptions that were raised."""
    client = RedisClient(f"redis://:password@127.0.0.1:{port}/0", timeout_s=1)

    async def connect() -> str:
        try:
            (await client.subscribe(["c"], lambda _: None)).close()
        except Exception as error:  # noqa: BLE001 (the test is about which one it is)
            return type(error).__name__
        return "none"

    names = set[str]()
    for _ in range(ATTEMPTS // AT_ONCE):
        names |= set(await asyncio.gather(*(connect() for _ in range(AT_ONCE))))
    await client.aclose()
    return names


def test_a_reset_at_any_moment_is_an_error_of_the_connection() -> None:
    """uvloop raises RuntimeError for a write to a closed transport; it ended the gateway at the start of an outage."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(100)
        threading.Thread(target=_reset_each, args=(listener,), daemon=True).start()
        with asyncio.Runner(loop_factory=import_module("uvloop").new_event_loop) as runner:
            names = runner.run(_connect_often(listener.getsockname()[1]))
        listener.shutdown(socket.SHUT_RDWR)
    assert names == {CannotConnect.__name__}
