"""Runs a subcommand of `jitney keys`, `tenants` or `jobs` on the queue's Redis, without a gateway."""

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Awaitable, Callable
from typing import Final

from cli.serve.redis_address import QueueAddress, QueueNotFound, locate
from jobs.contract import ids
from jobs.contract.errors import StoreUnavailable
from jobs.redis_client.client import RedisClient

TIMEOUT_S: Final = 5.0
EX_UNAVAILABLE: Final = 69
EX_CONFIG: Final = 78
WHICH_QUEUE: Final = (
    "The queue is the one that JITNEY_REDIS_URL or JITNEY_REDIS_URL_FILE names; without them, the one that "
    "`jitney up` runs in JITNEY_DATA_DIR (.data). The command prints its address on stderr."
)

Subcommand = Callable[[RedisClient], Awaitable[int]]


def run_on_queue(program: str, subcommand: Subcommand) -> int:
    """Find the queue, print its address, and return the exit code of the subcommand. `program`: for messages."""
    logging.getLogger("jitney.jobs").setLevel(logging.CRITICAL)  # errors are printed below
    try:
        queue = locate(os.environ)
        print(f"{program}: the queue is {queue}", file=sys.stderr)
        return asyncio.run(_run(queue, subcommand))
    except ValueError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return EX_CONFIG
    except (QueueNotFound, StoreUnavailable) as error:
        print(f"{program}: {error}", file=sys.stderr)
        return EX_UNAVAILABLE


async def _run(queue: QueueAddress, subcommand: Subcommand) -> int:
    connection = RedisClient(queue.address.url, TIMEOUT_S, url_file=queue.address.file)
    try:
        return await subcommand(connection)
    finally:
        await connection.aclose()


def parse_tenant(text: str) -> str:
    """Return a tenant name; for `add_argument(type=…)`."""
    if ids.TENANT_NAME.fullmatch(text):
        return text
    message = f"{text[:80]!r} is not a tenant name: use 1 to 64 of a-z, 0-9, _ and -; begin with a letter or digit"
    raise argparse.ArgumentTypeError(message)
