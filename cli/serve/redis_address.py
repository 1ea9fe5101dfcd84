"""Resolves the Redis address of a command: JITNEY_REDIS_URL(_FILE), else the `jitney up` server in JITNEY_DATA_DIR.

There is no other: a command that guessed one could change somebody else's queue.
"""

import socket
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from cli.serve.supervisor import CannotStart
from jobs.config import environment
from jobs.config.compared_settings import ALL_SETTINGS
from jobs.redis_client.redis_url import RedisAddress, find_address

DATA_DIR = ".data"
CONNECT_TIMEOUT_S = 1.0


class QueueNotFound(Exception):
    """No queue is named, and none runs. One line."""


class QueueAddress(NamedTuple):
    """A queue's address, and what named it."""

    address: RedisAddress
    named_by: str

    def __str__(self) -> str:
        return f"{self.address.shown} ({self.named_by})"


def check(env: Mapping[str, str]) -> None:
    """Raise CannotStart for an unknown `JITNEY_…` variable and for an invalid Redis URL."""
    for refusal in environment.unknown(env, ALL_SETTINGS):
        raise CannotStart(refusal)
    try:
        find_address(env)
    except ValueError as error:
        raise CannotStart(str(error)) from error


def locate(env: Mapping[str, str]) -> QueueAddress:
    """Find the queue; raises ValueError for what is no Redis URL, and NoQueue."""
    if address := find_address(env):
        return QueueAddress(address, "JITNEY_REDIS_URL_FILE" if address.file else "JITNEY_REDIS_URL")
    data_dir = Path(env.get("JITNEY_DATA_DIR") or DATA_DIR)
    path = _socket_in(data_dir)
    if not _accepts_connections(path):
        how = "start `jitney up`, or name a queue by JITNEY_REDIS_URL or JITNEY_REDIS_URL_FILE"
        named = (
            f"JITNEY_DATA_DIR={data_dir}"
            if env.get("JITNEY_DATA_DIR")
            else f"{data_dir}, as JITNEY_DATA_DIR is not set"
        )
        raise QueueNotFound(f"no queue is named by JITNEY_REDIS_URL, and none runs in {named}: {how}")
    return QueueAddress(RedisAddress(f"unix://{quote(path)}"), f"JITNEY_DATA_DIR={data_dir}")


def _socket_in(data_dir: Path) -> str:
    """Read where the server of a data folder listens; empty where no server has been there."""
    try:
        return (data_dir / "server.lock").read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _accepts_connections(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(CONNECT_TIMEOUT_S)
        try:
            connection.connect(path)
        except OSError:
            return False
    return bool(path)
