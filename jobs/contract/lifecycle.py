"""The states of a job and the steps between them, as data. `docs/lifecycle.md` draws its picture from this table."""

from enum import StrEnum
from typing import Final


class State(StrEnum):
    """Where a job stands. A final state never changes."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"
    EXPIRED = "expired"


# (from, to) → the event on the arrow, which is the name of the script that takes the step.
TRANSITIONS: Final[dict[tuple[State, State], str]] = {
    (State.QUEUED, State.RUNNING): "claim",
    (State.QUEUED, State.CANCELED): "cancel",
    (State.QUEUED, State.EXPIRED): "expire, or claim after the deadline",
    (State.QUEUED, State.FAILED): "claim of a record nobody can read",
    (State.RUNNING, State.SUCCEEDED): "finish",
    (State.RUNNING, State.FAILED): "finish, or reclaim or bury after the last attempt",
    (State.RUNNING, State.CANCELED): "cancel",
    (State.RUNNING, State.EXPIRED): "expire, or finish after the deadline",
    (State.RUNNING, State.QUEUED): "reclaim, bury, release, or finish with a retry",
}

STARTS: Final = ("    [*] --> queued: submit", "    [*] --> running: submit, where a worker keeps seats free")
FINAL: Final = frozenset(State) - {source for source, _ in TRANSITIONS}


def draw_diagram() -> str:
    """Draw the table as a Mermaid state diagram."""
    arrows = [f"    {source} --> {target}: {event}" for (source, target), event in TRANSITIONS.items()]
    ends = [f"    {state} --> [*]" for state in State if state in FINAL]
    return "\n".join(["stateDiagram-v2", *STARTS, *arrows, *ends])
