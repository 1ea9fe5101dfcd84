"""Finds the Redis address of a command (JITNEY_REDIS_URL, else `jitney up`), and checks JITNEY_ variables.

There is no default address: a command that guessed one could change the wrong queue.
"""

import socket
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from cli.serve.start_errors import BadSetting
from jobs.config import environment
from jobs.config.compared_settings import ALL_SETTINGS
from jobs.redis_client.redis_url import RedisAddress, find_address

DATA_DIR = ".data"
CONNECT_TIMEOUT_S = 1.0


class QueueNotFound(Exception):
    """No Redis address is configured and no `jitney up` server runs; the message is one line."""


class QueueAddress(NamedTuple):
    """A Redis address and the variable that set it."""

    address: RedisAddress
    named_by: str

    def __str__(self) -> str:
        return f"{self.address.shown} ({self.named_by})"


def check(env: Mapping[str, str]) -> None:
    """Raise BadSetting for an unknown `JITNEY_…` variable and for an invalid Redis URL."""
    for refusal in environment.unknown(env, ALL_SETTINGS):
        raise BadSetting(refusal)
    try:
        find_address(env)
    except ValueError as error:
        raise BadSetting(str(error)) from error


def locate(env: Mapping[str, str]) -> QueueAddress:
    """Return the Redis address. Raises ValueError for an invalid URL, and QueueNotFound."""
    if address := find_address(env):
        return QueueAddress(address, "JITNEY_REDIS_URL_FILE" if address.file else "JITNEY_REDIS_URL")
    data_dir = Path(env.get("JITNEY_DATA_DIR") or DATA_DIR)
    path = _socket_in(data_dir)
    if not _accepts_connections(path):
        hint = "start `jitney up`, or set JITNEY_REDIS_URL or JITNEY_REDIS_URL_FILE"
        is_set = env.get("JITNEY_DATA_DIR")
        folder = f"JITNEY_DATA_DIR={data_dir}" if is_set else f"{data_dir} (JITNEY_DATA_DIR is not set)"
        raise QueueNotFound(f"JITNEY_REDIS_URL is not set, and no server runs in {folder}: {hint}")
    return QueueAddress(RedisAddress(f"unix://{quote(path)}"), f"JITNEY_DATA_DIR={data_dir}")


def _socket_in(data_dir: Path) -> str:
    """Return the socket path of the server of a data folder; empty if it never had one."""
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
