"""What gateway and worker say to each other about a job: plain values.

Tuples, for every job makes several: a frozen dataclass takes five times as long to make.
"""

from typing import Final, Literal, NamedTuple

from jobs.contract.lifecycle import FINAL, State

Lane = Literal["interactive", "bulk"]
LANES: Final[tuple[Lane, ...]] = ("interactive", "bulk")
Kind = Literal["image", "tensors", "raw"]

RECORD_VERSION: Final = "1"


class Submission(NamedTuple):
    """A job as the gateway hands it in. `input` holds the bytes as they came; `parameters` and `metadata` are JSON.

    `webhook`: whom to tell of its end, and with which headers; empty = nobody (jobs/contract/webhook_request.py).
    `bulk`: the custom_id of a bulk's line, whose outcome goes to the bulk's log; empty = a job of its own.
    """

    id: str
    model: str
    version: str
    kind: Kind
    input: bytes
    tenant: str = "default"
    lane: Lane = "interactive"
    deadline_ms: int = 86_400_000
    parameters: bytes = b"{}"
    metadata: bytes = b"{}"
    idempotency_key: str = ""
    digest: str = ""
    webhook: str = ""
    bulk: str = ""


class Accepted(NamedTuple):
    """What submit answers: the job's id, and whether an Idempotency-Key found an earlier job."""

    id: str
    created_us: int
    replayed: bool


class ClaimedJob(NamedTuple):
    """A job under lease, as a worker gets it. Times are the Redis server's; `retries`: how often it was tried again.

    `tenant`: whose it is; workers prepare inputs in turns between tenants.
    """

    id: str
    attempt: int
    kind: str
    input: bytes
    parameters: bytes
    created_us: int
    claimed_us: int
    deadline_ms: int
    retries: int = 0
    tenant: str = ""

    @property
    def claim(self) -> tuple[str, int]:
        """Name this claim of the job: a later one has another attempt."""
        return self.id, self.attempt


class ClaimResult(NamedTuple):
    """What a claim took, and what it left."""

    jobs: list[ClaimedJob]
    more: bool = False  # it was cut short: the next finds more at once
    suspects: bool = False  # some wait for their trial
    bulk: int = 0  # how many of the jobs are bulk's
    held: bool = False  # seats stayed empty while bulk jobs wait, as was asked for

    @property
    def interactive(self) -> int:
        return len(self.jobs) - self.bulk

    def merged_with(self, other: "ClaimResult") -> "ClaimResult":
        """Join what was claimed of two shards."""
        return ClaimResult(
            self.jobs + other.jobs,
            self.more or other.more,
            self.suspects or other.suspects,
            self.bulk + other.bulk,
            self.held or other.held,
        )


class Handoff(NamedTuple):
    """What a worker is handed over without a claim."""

    jobs: list[ClaimedJob]
    free_slots: int | None  # None: none was free, the job is a guest
    bulk: int  # how many of the jobs are bulk's

    @property
    def interactive(self) -> int:
        return len(self.jobs) - self.bulk


class Outcome(NamedTuple):
    """How a job ended, in a worker's words. `body` is JSON: the output, or the error. Times in ms.

    State.QUEUED: it has not ended, and is to be tried again after `after_ms`. `dead`: it is kept as a dead letter.
    """

    id: str
    attempt: int
    state: State
    body: bytes
    decode_ms: float = 0.0
    batch_ms: float = 0.0
    infer_ms: float = 0.0
    batch_size: int = 0
    dead: bool = False
    after_ms: int = 0


class Job(NamedTuple):
    """A job as it stands, without its input. JSON parts stay bytes: the gateway passes them on as they are.

    `output_bytes`: the size of a large output, which is read only when it is asked for (JobStore.with_output).
    """

    id: str
    state: State
    model: str
    version: str
    lane: str
    tenant: str
    created_us: int
    attempts: int
    metadata: bytes
    started_us: int | None = None
    finished_us: int | None = None
    output: bytes | None = None
    error: bytes | None = None
    stages_ms: tuple[float, float, float] | None = None  # decode, batch, infer
    batch_size: int | None = None
    output_bytes: int | None = None

    @property
    def is_final(self) -> bool:
        return self.state in FINAL
