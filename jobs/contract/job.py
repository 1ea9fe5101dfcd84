"""Values of a job: its record as read, and what gateway, store and worker exchange about it.

NamedTuples, because several are created per job and a frozen dataclass takes five times as long.
"""

from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

from jobs.contract.lifecycle import FINAL, State
from jobs.contract.request_context import RequestContext

Lane = Literal["interactive", "bulk"]
LANES: Final[tuple[Lane, ...]] = ("interactive", "bulk")
Kind = Literal["image", "audio", "tensors", "raw", "json", "bytes", "text"]

RECORD_VERSION: Final = "2"


class Submission(NamedTuple):
    """A job to submit. `input` holds the bytes as received; `parameters` and `metadata` are JSON.

    `webhook`: record of the webhook, empty if there is none (jobs/contract/webhook_request.py).
    `bulk`: custom_id of a bulk job's line, whose outcome goes to the bulk job's log; empty for a single job.
    `rows`: number of rows of the input, by which the job counts against limits; 0 = one item without a row dimension.
    `request_context`: of the request that it comes from, if its caller named it.
    """

    id: str
    model: str
    version: str
    kind: Kind
    input: bytes | memoryview
    tenant: str = "default"
    lane: Lane = "interactive"
    deadline_ms: int = 86_400_000
    parameters: bytes = b"{}"
    metadata: bytes = b"{}"
    idempotency_key: str = ""
    digest: str = ""
    webhook: str = ""
    bulk: str = ""
    rows: int = 0
    request_context: RequestContext | None = None


class Accepted(NamedTuple):
    """Result of a submit: the job's id, and whether an Idempotency-Key matched an earlier job."""

    id: str
    created_us: int
    replayed: bool


class ClaimedJob(NamedTuple):
    """A job under lease, as a worker gets it. Times are the Redis server's. `retries`: retries so far.

    `input` None: it is large and has not been read yet (jobs/store/inputs.py), or it is lost. `tenant`: workers
    preprocess inputs round robin between tenants. `rows`: as in Submission.
    """

    id: str
    attempt: int
    kind: str
    input: bytes | None
    parameters: bytes
    created_us: int
    claimed_us: int
    deadline_ms: int
    retries: int = 0
    tenant: str = ""
    rows: int = 0
    request_context: RequestContext | None = None

    @property
    def claim(self) -> tuple[str, int]:
        """Identity of this claim: a later claim of the job has another attempt."""
        return self.id, self.attempt


def count_rows(jobs: Sequence[ClaimedJob]) -> int:
    """Return the number of slots that jobs take in a worker: one for each row."""
    return len(jobs) + sum([job.rows - 1 for job in jobs if job.rows])


class ClaimResult(NamedTuple):
    """Jobs that a claim leased, and what it left."""

    jobs: list[ClaimedJob]
    more: bool = False  # the claim was cut short: another one finds more at once
    suspects: bool = False  # suspects wait for an isolated run
    bulk: int = 0  # rows of bulk jobs among them
    held: bool = False  # slots stayed free although bulk jobs wait, because of max_bulk

    @property
    def rows(self) -> int:
        return count_rows(self.jobs)

    @property
    def interactive(self) -> int:
        return self.rows - self.bulk

    def merged_with(self, other: "ClaimResult") -> "ClaimResult":
        """Combine the claims of two shards."""
        return ClaimResult(
            self.jobs + other.jobs,
            self.more or other.more,
            self.suspects or other.suspects,
            self.bulk + other.bulk,
            self.held or other.held,
        )


class Handoff(NamedTuple):
    """Jobs that submit assigned to a worker directly, without a claim."""

    jobs: list[ClaimedJob]
    free_slots: int  # left; negative if the worker was full and takes one overflow job
    bulk: int  # rows of bulk jobs among them

    @property
    def interactive(self) -> int:
        return count_rows(self.jobs) - self.bulk


class Outcome(NamedTuple):
    """Result of a job's run. `body` is JSON: the output or the error. Times in ms.

    `state` QUEUED: not finished, retry after `after_ms`. `dead`: keep the job as a dead letter. `chunks`: parts of a
    large output, to be written before the outcome (jobs/store/outputs.py), which then has their number and bytes.
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
    chunks: Sequence[bytes] = ()
    chunk_count: int = 0
    chunked_bytes: int = 0


class Job(NamedTuple):
    """A job's current record, without its input. JSON parts stay bytes that the gateway passes on unchanged.

    `output_bytes`: size of a large output, which `JobStore.with_output` reads on demand.
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
    owner: str = ""  # the worker that claimed it last; "" if none did, or it was returned to its queue
    request_context: RequestContext | None = None

    @property
    def is_final(self) -> bool:
        return self.state in FINAL
