"""The log of what callers did and saw; the checker verifies every promise from it."""

import hashlib
import json
import time
from collections import defaultdict
from pathlib import Path
from threading import Lock
from typing import Any

FINAL = {"succeeded", "failed", "canceled", "expired"}


class History:
    """Every submit and every read, in order, with its time. Any thread may write."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._began = time.monotonic()
        self.events: list[dict[str, Any]] = []
        self.accepted: dict[str, str] = {}  # id → what is expected of it, '' where nothing is known
        self.ids_of_key: dict[str, set[str]] = defaultdict(set)
        self.ends: dict[str, set[str]] = defaultdict(set)  # id → every final state and content that was ever read
        self._unsure: list[str] = []  # keys of submits whose fate was not told; '' = there was no key
        self.faults: list[str] = []
        self.gone: set[str] = set()  # ids that some gateway did not know
        self.forgiven: set[str] = set()  # ids that a fault may have destroyed, as is documented

    def note(self, what: str, **facts: Any) -> None:
        """Record an event."""
        with self._lock:
            self.events.append({"t": round(time.monotonic() - self._began, 4), "what": what, **facts})

    def submitted(self, gateway: str, key: str, job: dict[str, Any], expected: str = "") -> str:
        """Record an accepted job; return its id."""
        job_id: str = job["id"]
        self.note("accepted", gateway=gateway, key=key, id=job_id)
        with self._lock:
            self.accepted[job_id] = expected or self.accepted.get(job_id, "")
            if key:
                self.ids_of_key[key].add(job_id)
        return job_id

    def unsure(self, gateway: str, key: str, why: str) -> None:
        """Record a submit that its caller saw refused or unanswered; it may have been accepted."""
        self.note("unsure", gateway=gateway, key=key, why=why)
        with self._lock:
            self._unsure.append(key)

    def unknown_at_most(self) -> int:
        """The possible jobs unknown to callers: one per unanswered key, one per submit without a key."""
        with self._lock:
            keys = {key for key in self._unsure if key and key not in self.ids_of_key}
            return len(keys) + self._unsure.count("")

    def read(self, gateway: str, job: dict[str, Any]) -> bool:
        """Record the state of a job; return whether it is final."""
        job_id, state = job["id"], job["status"]
        end = digest(job)
        self.note("read", gateway=gateway, id=job_id, state=state, end=end, attempts=job["attempts"])
        with self._lock:
            if state in FINAL:
                self.ends[job_id].add(end)
            elif self.ends[job_id]:
                self.faults.append(f"{job_id} was read as {state} after its end {self.ends[job_id]}")
        return state in FINAL

    def missing(self, gateway: str, job_id: str) -> None:
        """Record that an accepted job was missing."""
        self.note("missing", gateway=gateway, id=job_id)
        with self._lock:
            self.gone.add(job_id)

    def forgive(self) -> None:
        """Mark all accepted jobs as possibly lost: the queue's data was destroyed."""
        with self._lock:
            self.forgiven |= set(self.accepted)

    def refusals(self) -> list[dict[str, Any]]:
        """List the submits that their callers saw refused or unanswered."""
        with self._lock:
            return [event for event in self.events if event["what"] == "unsure"]

    def write(self, path: Path) -> None:
        """Keep it as JSON lines."""
        with self._lock:
            path.write_text("".join(json.dumps(event) + "\n" for event in self.events))


def digest(job: dict[str, Any]) -> str:
    """The end of a job for its caller, in a few characters."""
    if job["status"] not in FINAL:
        return ""
    text = json.dumps([job["output"], job["error"], job["finished_at"], job["attempts"]], sort_keys=True)
    return f"{job['status']}:{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def outcome_of(job: dict[str, Any]) -> str:
    """The answer as a short string, to compare with the expected one."""
    output = job["output"] or {}
    if "predictions" in output:
        return str(output["predictions"][0]["label"])
    if "tensors" in output:
        return json.dumps(next(iter(output["tensors"].values()))["data"])
    return str((job["error"] or {}).get("code", job["status"]))
