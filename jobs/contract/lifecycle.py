"""States of a job and the transitions between them, as a table; docs/explanation/lifecycle.md shows it."""

from enum import StrEnum
from typing import Final


class State(StrEnum):
    """State of a job. A final state never changes."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"
    EXPIRED = "expired"


# (from, to) → the operations that make the transition.
TRANSITIONS: Final[dict[tuple[State, State], str]] = {
    (State.QUEUED, State.RUNNING): "claim",
    (State.QUEUED, State.CANCELED): "cancel",
    (State.QUEUED, State.EXPIRED): "expire, or claim after the deadline",
    (State.QUEUED, State.FAILED): "claim of an unreadable record",
    (State.RUNNING, State.SUCCEEDED): "finish",
    (State.RUNNING, State.FAILED): "finish, or reclaim or recover after the last attempt",
    (State.RUNNING, State.CANCELED): "cancel",
    (State.RUNNING, State.EXPIRED): "expire, or finish after the deadline",
    (State.RUNNING, State.QUEUED): "reclaim, recover, release, or finish with a retry",
}

STARTS: Final = {State.QUEUED: "submit", State.RUNNING: "submit, if a worker has free slots"}
FINAL: Final = frozenset(State) - {source for source, _ in TRANSITIONS}


def markdown_table() -> str:
    """Return the transitions as rows of a Markdown table: from, to, operations."""
    starts = [f"| new | {target} | {event} |" for target, event in STARTS.items()]
    later = [f"| {source} | {target} | {event} |" for (source, target), event in TRANSITIONS.items()]
    return "\n".join([*starts, *later])
