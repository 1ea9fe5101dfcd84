"""Classifies Redis errors as retryable, needing a reconnect, or permanent, for the job store and for rq.

RETRY      right node, bad moment: busy, full or unreachable. The same command may succeed later.
RECONNECT  wrong node or wrong password, after a failover or a password change. The command was not carried out. All
           connections are reopened with the current address.
NEVER      the server refuses the command itself: a bug in Jitney, or a wrong server or user configuration.
"""

from enum import Enum
from typing import Final

from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    MovedError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)


class ErrorKind(Enum):
    """What to do about a Redis error."""

    RETRY = "again"
    RECONNECT = "elsewhere"
    NEVER = "never"


# First token of an error reply → its kind. Every other error reply is NEVER.
ERROR_KINDS: Final = {
    "BUSY": ErrorKind.RETRY,  # a script has run too long
    "MISCONF": ErrorKind.RETRY,  # the server cannot write to its disk
    "NOREPLICAS": ErrorKind.RETRY,  # fewer replicas than min-replicas-to-write
    "OOM": ErrorKind.RETRY,
    "TRYAGAIN": ErrorKind.RETRY,  # a Cluster slot is being moved
    "CLUSTERDOWN": ErrorKind.RECONNECT,  # this node does not serve the slot, or is cut off from the others
    # Connections are used only after the server has loaded its data, so a server that loads again became a replica.
    "LOADING": ErrorKind.RECONNECT,
    "MASTERDOWN": ErrorKind.RECONNECT,  # a replica without its primary
    "MOVED": ErrorKind.RECONNECT,
    "NOAUTH": ErrorKind.RECONNECT,  # the password was changed
    "READONLY": ErrorKind.RECONNECT,  # a replica
    "UNBLOCKED": ErrorKind.RECONNECT,  # the node became a replica during a blocking command
    "WRONGPASS": ErrorKind.RECONNECT,
}
_MAX_CLIENTS_MESSAGE: Final = "max number of clients reached"
# The same errors as redis-py raises them, for clients that reconnect by themselves.
RECONNECT_ERRORS: Final[list[type[Exception]]] = [
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    MovedError,
    ReadOnlyError,
]


def classify_error(error: Exception) -> ErrorKind:
    """Return the kind of an error reply, or of an error that redis-py or the socket raised."""
    error = _find_error_reply(error)
    code = getattr(error, "status_code", None) or str(error).partition(" ")[0]
    if code in ERROR_KINDS:
        return ERROR_KINDS[code]
    is_reply = isinstance(error, ResponseError) or not isinstance(error, RedisError | OSError)
    return ErrorKind.NEVER if is_reply and _MAX_CLIENTS_MESSAGE not in str(error) else ErrorKind.RETRY


def describe_error(error: Exception) -> str:
    """Return the error as one line, with the code that redis-py strips from the text."""
    error = _find_error_reply(error)
    text = str(error).split("\n", maxsplit=1)[0] or type(error).__name__
    code = getattr(error, "status_code", None)
    return f"{code} {text}" if code and code != "ERR" and not text.startswith(code) else text


def _find_error_reply(error: Exception) -> Exception:
    """Return the error reply behind an error that redis-py raises when a connection's first commands are refused."""
    cause = error.__cause__
    return cause if isinstance(error, RedisError) and isinstance(cause, RedisError) else error
