"""Classifies Redis errors as retryable, needing a reconnect, or permanent, for the job store and for rq.

AGAIN       the right node, at a bad moment: it is busy, full, or cannot be reached. The same command may work later.
ELSEWHERE   the wrong node, or the wrong password: after a failover, or after a password was changed. Waiting does not
            help; all connections are reopened, with the address as it is now. The command was not carried out.
NEVER       the server refuses the command itself: an error in Jitney, or in how the server or its users are set up.
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
    """What to do about an error of Redis."""

    RETRY = "again"
    RECONNECT = "elsewhere"
    NEVER = "never"


# The first word of an error reply → its kind. Every other error reply is NEVER.
ERROR_KINDS: Final = {
    "BUSY": ErrorKind.RETRY,  # a script runs for too long
    "MISCONF": ErrorKind.RETRY,  # it cannot write to its disk
    "NOREPLICAS": ErrorKind.RETRY,  # fewer replicas than min-replicas-to-write
    "OOM": ErrorKind.RETRY,
    "TRYAGAIN": ErrorKind.RETRY,  # a slot of a Cluster is being moved
    "CLUSTERDOWN": ErrorKind.RECONNECT,  # this node does not serve the slot, or has lost the others
    # Connections are used only once their server has loaded its data. One that loads again has become a replica.
    "LOADING": ErrorKind.RECONNECT,
    "MASTERDOWN": ErrorKind.RECONNECT,  # a replica without its primary
    "MOVED": ErrorKind.RECONNECT,
    "NOAUTH": ErrorKind.RECONNECT,  # the password was changed
    "READONLY": ErrorKind.RECONNECT,  # a replica
    "UNBLOCKED": ErrorKind.RECONNECT,  # it became a replica while a blocking command waited
    "WRONGPASS": ErrorKind.RECONNECT,
}
_MAX_CLIENTS_MESSAGE: Final = "max number of clients reached"
# The same errors as redis-py raises them, where it is to reconnect by itself.
RECONNECT_ERRORS: Final[list[type[Exception]]] = [
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    MovedError,
    ReadOnlyError,
]


def classify_error(error: Exception) -> ErrorKind:
    """Sort an error reply, or an error that redis-py or the socket raised."""
    error = _find_error_reply(error)
    code = getattr(error, "status_code", None) or str(error).partition(" ")[0]
    if code in ERROR_KINDS:
        return ERROR_KINDS[code]
    is_reply = isinstance(error, ResponseError) or not isinstance(error, RedisError | OSError)
    return ErrorKind.NEVER if is_reply and _MAX_CLIENTS_MESSAGE not in str(error) else ErrorKind.RETRY


def describe_error(error: Exception) -> str:
    """Say what went wrong in one line, with the code that redis-py takes off the text."""
    error = _find_error_reply(error)
    text = str(error).split("\n", maxsplit=1)[0] or type(error).__name__
    code = getattr(error, "status_code", None)
    return f"{code} {text}" if code and code != "ERR" and not text.startswith(code) else text


def _find_error_reply(error: Exception) -> Exception:
    """Find the error reply behind what redis-py raises where a connection's first commands are refused."""
    cause = error.__cause__
    return cause if isinstance(error, RedisError) and isinstance(cause, RedisError) else error
