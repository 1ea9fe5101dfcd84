"""The ledger: a small model of what the store promised its callers."""

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import orjson

from jobs.contract.ids import shard_of
from jobs.contract.job import ClaimedJob, Submission
from jobs.contract.lifecycle import FINAL, TRANSITIONS, State

SLACK_MS: Final = 3  # the server's clock is this machine's; it may be read a little earlier or later than ours


class Violation(AssertionError):
    """The store broke a promise."""


class Moment(NamedTuple):
    """The time of a call: the server's time in ms lies between the two."""

    begin_ms: float
    end_ms: float


@dataclass(slots=True, repr=False, eq=False)
class Job:
    """One accepted job, in the state of the answers so far."""

    sub: Submission
    created_us: int
    state: State = State.QUEUED
    owner: str = ""
    attempt: int = 0
    lease_from_ms: float = 0  # the lease ends between the two
    lease_until_ms: float = 0
    due_from_ms: float = 0  # a retry's back-off ends between the two; 0: it waits for none
    due_until_ms: float = 0
    is_suspect: bool = False
    has_running_mark: bool = (
        False  # it runs, and is counted so: its tenant had a limit of running jobs when it was claimed
    )
    has_quota: bool = False  # it is counted among its tenant's open jobs: that had a limit when it was accepted
    losses: int = 0  # leases that ended, and recoveries
    reclaims: int = 0  # those of them that a sweep took back
    kills: int = 0  # recoveries that named this job's current claim
    watchers: set[str] = field(default_factory=set)  # gateways to be told of the end
    body: bytes = b""  # the output or the error; set once the job is final
    finished_us: int = 0
    final_ms: float = 0  # when the end was seen
    is_dead: bool = False  # it was to be kept as a dead letter
    is_logged: bool = False  # somebody listened to its tenant when it was accepted
    is_rerun: bool = False  # a bulk's line that had its outcome before
    is_forgotten: bool = False  # a dead letter that was purged, or made room
    is_purged: bool = False  # a dead letter that somebody wanted to purge, whether or not that was heard
    hook: str = ""  # the webhook to be told of the end

    def __repr__(self) -> str:
        shown = {name: getattr(self, name) for name in self.__slots__ if name != "sub" and getattr(self, name)}
        return f"Job({self.sub._replace(input=b'')}, {shown})"

    @property
    def id(self) -> str:
        return self.sub.id

    @property
    def rows(self) -> int:
        """Return by how much it counts against limits."""
        return self.sub.rows or 1

    @property
    def shard(self) -> int:
        return shard_of(self.sub.id)

    @property
    def is_final(self) -> bool:
        return self.state in FINAL

    @property
    def station(self) -> tuple[str, str]:
        return self.sub.model, self.sub.version

    @property
    def overdue_ms(self) -> float:
        return self.created_us // 1000 + self.sub.deadline_ms

    def may_be_overdue(self, moment: Moment) -> bool:
        return self.overdue_ms <= moment.end_ms + SLACK_MS

    def is_overdue(self, moment: Moment) -> bool:
        return self.overdue_ms < moment.begin_ms - SLACK_MS

    def is_held(self, worker: str, attempt: int) -> bool:
        """Whether this is the job's current claim."""
        return (self.state, self.owner, self.attempt) == (State.RUNNING, worker, attempt)


class WebhookRecord(NamedTuple):
    """A parsed webhook record: its subscribed ends (none: all), and the headers for its receiver."""

    url: str
    events: list[str]
    headers: dict[str, str]


def read_webhook(hook: str) -> WebhookRecord:
    asked, _, headers = hook.partition("\n")
    _, url, *events = asked.split(" ")
    return WebhookRecord(url, events, orjson.loads(headers or "{}"))


class KnownIdempotencyKey(NamedTuple):
    """The request of an Idempotency-Key, and its minimum lifetime."""

    job_id: str
    digest: str
    until_ms: float


@dataclass(slots=True)
class Delivery:
    """One webhook message that must be delivered."""

    id: str
    tenant: str
    url: str
    state: str = "waiting"
    lease: int = 0  # number of the last flight seen
    flight_until_ms: float = 0
    settled_flight: int = 0
    tries: int = 0  # attempts that were written down
    sent: int = 0  # attempts that were read for sending
    job: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    is_asked_again: bool = False  # it was to be sent again while an attempt was under way


class Ledger:
    """Everything promised in one episode."""

    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}
        self.open: dict[str, Job] = {}
        self.ended: deque[str] = deque(maxlen=300)
        self.keys: dict[tuple[str, str], KnownIdempotencyKey] = {}
        self.claims: deque[tuple[str, ClaimedJob]] = deque(maxlen=120)  # current and stale ones
        self.deliveries: dict[str, Delivery] = {}
        self.counts: Counter[str] = Counter()  # as jobs/metrics/event_counters.py names them
        self.loads: Counter[tuple[int, str]] = Counter()  # (shard, field of `:open_totals`)
        self.letters: dict[int, list[Job]] = {}  # by shard, the oldest first
        self.lines_stored = 0  # of bulks that are over
        self.passed: Counter[tuple[str, str, int, str, str]] = Counter()  # rows given to others while one waited
        self.steps: Counter[str] = Counter()
        self.trace: deque[str] = deque(maxlen=60)

    def accept(self, job: Job) -> None:
        """Count a job that was accepted."""
        self.jobs[job.id] = self.open[job.id] = job
        self.counts[f"submitted:{job.sub.model}"] += 1
        self._weigh(job, 1)

    def end(self, job: Job) -> None:
        """Count a job that became final."""
        del self.open[job.id]
        self.ended.append(job.id)
        self.counts[f"outcomes:{job.sub.model}:{job.sub.version}:{job.state.value}"] += 1
        self._weigh(job, -1)

    def _weigh(self, job: Job, sign: int) -> None:
        for whose in (job.sub.model, f"@{job.sub.tenant}") if job.has_quota else (job.sub.model,):
            self.loads[job.shard, f"{whose}:jobs"] += sign * job.rows
            self.loads[job.shard, f"{whose}:bytes"] += sign * len(job.sub.input)

    def move(self, job: Job, state: State) -> None:
        """Make a transition of the lifecycle; fail if it is not in the table."""
        if state == job.state:
            return
        if (job.state, state) not in TRANSITIONS:
            raise Violation(f"job {job.id} went from {job.state.value} to {state.value}")
        job.state = state
