"""rq's part: attempts and bulks' steps are rq jobs, done by rq's workers in threads. The only place that knows rq.

rq holds nothing that is not in the outbox too. Its retries are not used: whole seconds, no jitter, and a scheduler that
forks (docs/decisions/0018).
"""

import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, ClassVar, Final, Literal

os.environ.setdefault("RQ_KEY_PREFIX", "jitney:{rq}")  # read when rq is imported: all of rq in one slot of a Cluster

import redis
import rq
from redis.backoff import ExponentialBackoff
from redis.retry import Retry
from rq.exceptions import DuplicateJobError
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.timeouts import BaseDeathPenalty

from jobs.contract.background_lease import BackgroundLease
from jobs.contract.errors import StoreUnavailable
from jobs.redis_client.error_kinds import RECONNECT_ERRORS, ErrorKind, classify_error, describe_error
from jobs.redis_client.outage_log import OutageLog
from jobs.redis_client.redis_url import RedisAddress
from jobs.webhooks.outbox import LANES, Lane

log = logging.getLogger("jitney.deliver")

AttemptFunction = Callable[[str, int], None]
WorkKind = Literal[Lane, "bulk"]  # whose threads carry it: those of a lane of deliveries, or those of bulks
FUNCTION: Final = "attempt"
BULK: Final = "bulk"
WORK_KINDS: Final[tuple[WorkKind, ...]] = (*LANES, BULK)
QUEUE_PREFIX: Final = "deliveries-"
COMMAND_S: Final = 5.0
FAILED_TTL_S: Final = 3600
MAINTENANCE_S: Final = 60
PAUSE_S: Final = 0.5
# rq's server is asked again so often, at these pauses, on a new connection each time: a failover takes a moment.
RETRIES: Final = 5
FIRST_RETRY_S: Final = 0.02
LAST_RETRY_S: Final = 0.2


class AttemptJob(Job):
    """An rq job that can be nothing but an attempt: what is written in Redis names no code of ours to run."""

    run_attempt: ClassVar[AttemptFunction]

    @property
    def func(self) -> AttemptFunction:
        """Give the one function there is; raises ValueError for a job that asks for another."""
        if self.func_name != FUNCTION:
            message = f"an rq job asks for {self.func_name!r}, and only {FUNCTION!r} is carried out here"
            raise ValueError(message)
        return type(self).run_attempt


class NoDeathPenalty(BaseDeathPenalty):
    """An attempt has a deadline of its own; an alarm needs the main thread, and a timer a thread more for each."""

    def setup_death_penalty(self) -> None:
        """Set nothing up."""

    def cancel_death_penalty(self) -> None:
        """Nothing was set up."""


class RqThread(rq.SimpleWorker):
    """One thread's worker."""

    death_penalty_class = NoDeathPenalty
    max_connection_wait_time = 1.0  # rq's own is a minute: so long nobody would notice that the server is back

    def _install_signal_handlers(self) -> None:
        """Signals are the process's, and threads can not have them."""

    def subscribe(self) -> None:
        """Take no commands: each would cost a connection and a thread."""

    def unsubscribe(self) -> None:
        """Nothing was subscribed to."""

    def procline(self, message: str) -> None:
        """There is one process, whatever its threads do."""


class RqPool:
    """The queues of all errands, and the threads that serve them."""

    def __init__(
        self,
        address: RedisAddress,
        attempt_s: float,
        run_attempt: Mapping[WorkKind, Callable[[BackgroundLease], None]],
        on_thread_free: Callable[[], None],
        *,
        is_queue: bool,
    ) -> None:
        """`carry` does an errand, in one of its threads; `landed` is called when a thread is free again.

        `is_queue`: rq's server is the queue's, which says by itself that it is away.
        """

        def count_and_run(lane: WorkKind) -> AttemptFunction:
            def one(delivery: str, number: int) -> None:
                self._count(lane, 1)
                try:
                    run_attempt[lane](BackgroundLease(delivery, number))
                finally:
                    self._count(lane, -1)
                    on_thread_free()

            return one

        self.busy: dict[WorkKind, int] = dict.fromkeys(WORK_KINDS, 0)
        self._counting = threading.Lock()
        self._attempt_s = int(attempt_s) + 1
        self._address, self._is_queue = address, is_queue
        self._outage = OutageLog(log, f"use rq's server at {address.shown}")
        self._classes = {
            lane: type(f"{lane.title()}Attempt", (AttemptJob,), {"run_attempt": staticmethod(count_and_run(lane))})
            for lane in WORK_KINDS
        }
        self._closed = threading.Event()
        self._open()

    def start(self, slots: Mapping[WorkKind, int]) -> None:
        """Start the threads; they end with the process."""
        logging.getLogger("rq").setLevel(logging.CRITICAL)
        for lane, count in slots.items():
            for nth in range(count):
                threading.Thread(target=self._serve, args=(lane,), name=f"{lane}-{nth}", daemon=True).start()

    def queued(self, lane: WorkKind) -> int:
        """Count what waits for a thread; raises StoreUnavailable."""
        with self._translate_errors():
            return int(self._queues[lane].count)

    def put(self, lane: WorkKind, leases: Sequence[BackgroundLease]) -> None:
        """Hand flights to the threads, each once; raises StoreUnavailable."""
        with self._translate_errors():
            for lease in leases:
                with suppress(DuplicateJobError):
                    self._queues[lane].enqueue_call(
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
        """Open all connections anew, with the address as it is now: the server may have moved without a word."""
        old = (self._client, self._blocking)
        with suppress(ValueError):  # a file that cannot be read now: the old address is tried on
            self._open()
        for client in old:
            client.connection_pool.disconnect()

    def close(self) -> None:
        """Take no more: the blocking connections are dropped, and with them what the server would hand to nobody."""
        self._closed.set()
        self._blocking.connection_pool.disconnect()
        self._client.close()

    def _open(self) -> None:
        """Make the clients, which connect when they are asked; raises ValueError for a URL of a file."""
        url, pauses = self._address.read(), ExponentialBackoff(LAST_RETRY_S, FIRST_RETRY_S)
        patience = {"retry": Retry(pauses, RETRIES), "retry_on_error": RECONNECT_ERRORS}
        # rq raises its client's timeout to minutes, for it blocks: what is asked in between has a client of its own.
        self._client = redis.Redis.from_url(url, socket_timeout=COMMAND_S, socket_connect_timeout=COMMAND_S, **patience)
        self._blocking = redis.Redis.from_url(url, **patience)
        self._queues = {lane: self._queue(lane, self._client) for lane in WORK_KINDS}

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        try:
            yield
        except (redis.RedisError, OSError) as error:
            unavailable = StoreUnavailable(f"rq's server did not take it: {describe_error(error)}")
            is_told = self._is_queue and classify_error(error) is not ErrorKind.NEVER
            self._outage.began(unavailable if is_told else error)
            self.reopen()
            raise unavailable from error
        self._outage.ended()

    def _count(self, lane: WorkKind, more: int) -> None:
        with self._counting:
            self.busy[lane] += more

    def _serve(self, lane: WorkKind) -> None:
        """Work until closed; rq's worker quits for many a reason, and is replaced."""
        while not self._closed.is_set():
            blocking = self._blocking
            with suppress(redis.RedisError, OSError, ValueError):
                RqThread(
                    [self._queue(lane, blocking)],
                    connection=blocking,
                    job_class=self._classes[lane],
                    serializer=JSONSerializer,
                    maintenance_interval=MAINTENANCE_S,
                    log_job_description=False,
                ).work(logging_level="CRITICAL")
            blocking.connection_pool.disconnect(inuse_connections=False)  # they may lead to the wrong node
            self._closed.wait(PAUSE_S)

    def _queue(self, lane: WorkKind, client: Any) -> rq.Queue:
        return rq.Queue(
            f"{QUEUE_PREFIX}{lane}", connection=client, job_class=self._classes[lane], serializer=JSONSerializer
        )
