"""Enqueues leased attempts and bulk steps in rq and calls their functions on rq threads; alone imports rq.

rq stores nothing that the outbox does not store. Its retries are not used: they have whole seconds, no jitter, and a
scheduler that forks (docs/explanation/decisions/webhook-delivery.md).
"""

import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, ClassVar, Final, Literal

os.environ.setdefault("RQ_KEY_PREFIX", "jitney:{rq}")  # rq reads it on import; the tag keeps rq in one shard slot

import redis
import rq
from redis.backoff import ExponentialBackoff
from redis.retry import Retry
from rq.exceptions import DuplicateJobError
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.timeouts import BaseDeathPenalty

from jobs.contract.errors import StoreUnavailable
from jobs.redis_client.error_kinds import RECONNECT_ERRORS, ErrorKind, classify_error, describe_error
from jobs.redis_client.outage_log import OutageLog
from jobs.redis_client.redis_url import RedisAddress
from jobs.store.background_lease import BackgroundLease
from jobs.webhooks.outbox import LANES, Lane

log = logging.getLogger("jitney.background")

AttemptFunction = Callable[[str, int], None]
WorkKind = Literal[Lane, "bulk"]  # selects the threads: of a delivery lane, or of bulk jobs
Attempts = Mapping[WorkKind, Callable[[BackgroundLease], None]]
FUNCTION: Final = "attempt"
BULK: Final = "bulk"
WORK_KINDS: Final[tuple[WorkKind, ...]] = (*LANES, BULK)
QUEUE_PREFIX: Final = "deliveries-"
COMMAND_S: Final = 5.0
FAILED_TTL_S: Final = 3600
MAINTENANCE_S: Final = 60
PAUSE_S: Final = 0.5
# Commands to rq's server are retried on a new connection each time, with these pauses: a failover takes a moment.
RETRIES: Final = 5
FIRST_RETRY_S: Final = 0.02
LAST_RETRY_S: Final = 0.2


class AttemptJob(Job):
    """An rq job that runs an attempt and nothing else: data in Redis cannot name code to run."""

    run_attempt: ClassVar[AttemptFunction]

    @property
    def func(self) -> AttemptFunction:
        """Return the attempt function; raises ValueError if the job names another function."""
        if self.func_name != FUNCTION:
            raise ValueError(f"an rq job names the function {self.func_name!r}; only {FUNCTION!r} is allowed")
        return type(self).run_attempt


class NoDeathPenalty(BaseDeathPenalty):
    """Sets no rq timeout: attempts have their own deadline, and rq's would need the main thread or a timer thread."""

    def setup_death_penalty(self) -> None:
        """Do nothing."""

    def cancel_death_penalty(self) -> None:
        """Do nothing."""


class RqThread(rq.SimpleWorker):
    """The rq worker of one thread."""

    death_penalty_class = NoDeathPenalty
    max_connection_wait_time = 1.0  # rq's default of a minute delays work after an outage

    def _install_signal_handlers(self) -> None:
        """Do nothing: the process handles signals, and threads cannot."""

    def subscribe(self) -> None:
        """Do nothing: rq's commands would cost a connection and a thread per worker."""

    def unsubscribe(self) -> None:
        """Do nothing: `subscribe` does nothing."""

    def procline(self, message: str) -> None:
        """Do nothing: all threads share one process title."""


def _interrupt(client: redis.Redis) -> None:
    """Close the idle connections of a client, and shut down the sockets of those that threads use.

    Each thread closes its own socket. If another thread closed it, the next socket could get the same file descriptor,
    and the first thread would wait on that one.
    """
    pool = client.connection_pool
    for connection in tuple(pool._in_use_connections):  # noqa: SLF001 (redis-py has no public way)
        if (used := connection._sock) is not None:  # noqa: SLF001
            with suppress(OSError):
                used.shutdown(socket.SHUT_RDWR)
    pool.disconnect(inuse_connections=False)


class RqPool:
    """The rq queues of all kinds of work, and the threads that serve them."""

    def __init__(
        self, address: RedisAddress, attempt_s: float, attempts: Attempts, on_free: Callable[[], None], is_queue: bool
    ) -> None:
        """Create the queues; `start` starts the threads.

        `attempts` has the function that the threads of each kind of work run. A thread calls `on_free` when it is free
        again. `is_queue`: rq uses the job queue's server, whose outages are already logged.
        """

        def count_and_run(kind: WorkKind) -> AttemptFunction:
            def attempt(delivery: str, number: int) -> None:
                self._add_busy(kind, 1)
                try:
                    attempts[kind](BackgroundLease(delivery, number))
                finally:
                    self._add_busy(kind, -1)
                    on_free()

            return attempt

        self.busy: dict[WorkKind, int] = dict.fromkeys(WORK_KINDS, 0)
        self._busy_lock = threading.Lock()
        self._attempt_s = int(attempt_s) + 1
        self._address, self._is_queue = address, is_queue
        self._outage = OutageLog(log, f"use rq's server at {address.shown}")
        self._classes = {
            kind: type(f"{kind.title()}Attempt", (AttemptJob,), {"run_attempt": staticmethod(count_and_run(kind))})
            for kind in WORK_KINDS
        }
        self._closed = threading.Event()
        self._open()

    def start(self, slots: Mapping[WorkKind, int]) -> None:
        """Start the daemon threads."""
        logging.getLogger("rq").setLevel(logging.CRITICAL)
        for kind, count in slots.items():
            for nth in range(count):
                threading.Thread(target=self._serve, args=(kind,), name=f"{kind}-{nth}", daemon=True).start()

    def queued(self, kind: WorkKind) -> int:
        """Return how many rq jobs wait for a thread of this kind; raises StoreUnavailable."""
        with self._translate_errors():
            return int(self._queues[kind].count)

    def put(self, kind: WorkKind, leases: Sequence[BackgroundLease]) -> None:
        """Enqueue leases for the threads, each once; raises StoreUnavailable."""
        with self._translate_errors():
            for lease in leases:
                with suppress(DuplicateJobError):
                    self._queues[kind].enqueue_call(
                        FUNCTION,
                        args=list(lease),
                        job_id=f"{lease.delivery}-{lease.number}",
                        unique=True,
                        timeout=self._attempt_s,
                        result_ttl=0,
                        failure_ttl=FAILED_TTL_S,
                        description=lease.delivery,
                    )

    def reopen(self) -> None:
        """Open new connections at the current address: the server may have moved."""
        old = (self._client, self._blocking)
        with suppress(ValueError):  # the file cannot be read now: keep the old address
            self._open()
        for client in old:
            _interrupt(client)

    def close(self) -> None:
        """Stop taking work; ends the blocking connections, so that the server assigns no more jobs to them."""
        self._closed.set()
        _interrupt(self._blocking)
        _interrupt(self._client)

    def _open(self) -> None:
        """Create the clients, which connect on first use; raises ValueError if the URL of a file is invalid."""
        url, pauses = self._address.read(), ExponentialBackoff(LAST_RETRY_S, FIRST_RETRY_S)
        options: dict[str, Any] = {"retry": Retry(pauses, RETRIES), "retry_on_error": RECONNECT_ERRORS}
        options["socket_connect_timeout"] = COMMAND_S
        # rq raises the timeout of its blocking client to minutes, so commands use a client of their own.
        self._client = redis.Redis.from_url(url, socket_timeout=COMMAND_S, **options)
        self._blocking = redis.Redis.from_url(url, **options)
        self._queues = {kind: self._queue(kind, self._client) for kind in WORK_KINDS}

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        try:
            yield
        except (redis.RedisError, OSError) as error:
            unavailable = StoreUnavailable(f"cannot use rq's server: {describe_error(error)}")
            is_logged_elsewhere = self._is_queue and classify_error(error) is not ErrorKind.NEVER
            self._outage.began(unavailable if is_logged_elsewhere else error)
            self.reopen()
            raise unavailable from error
        self._outage.ended()

    def _add_busy(self, kind: WorkKind, change: int) -> None:
        with self._busy_lock:
            self.busy[kind] += change

    def _serve(self, kind: WorkKind) -> None:
        """Run rq workers until closed: a worker ends for several reasons and is then replaced."""
        while not self._closed.is_set():
            blocking = self._blocking
            with suppress(redis.RedisError, OSError, ValueError):
                RqThread(
                    [self._queue(kind, blocking)],
                    connection=blocking,
                    job_class=self._classes[kind],
                    serializer=JSONSerializer,
                    maintenance_interval=MAINTENANCE_S,
                    log_job_description=False,
                ).work(logging_level="CRITICAL")
            blocking.connection_pool.disconnect(inuse_connections=False)  # these may lead to a demoted node
            self._closed.wait(PAUSE_S)

    def _queue(self, kind: WorkKind, client: Any) -> rq.Queue:
        name, job_class = f"{QUEUE_PREFIX}{kind}", self._classes[kind]
        return rq.Queue(name, connection=client, job_class=job_class, serializer=JSONSerializer)
