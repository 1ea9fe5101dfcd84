"""Which jobs this process has in hands right now, in a file that outlives it: after its death they are the suspects.

In hands is what a thread decodes or runs at this moment, not what waits. Writing costs a copy into a mapped page, no
call to the system; the page survives any death of the process, and after the machine's own nobody is suspected.
"""

import mmap
import struct
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

Claim = tuple[str, int]

_HEAD: Final = struct.Struct("=32sI")  # the worker's id, the size of a slot
_LENGTH: Final = struct.Struct("=I")
_CLAIM_BYTES: Final = 34 + 1 + 10 + 1  # an id, an attempt


class JournalContents(NamedTuple):
    """What a worker process left behind: its id, and the claims that it had in hands."""

    worker: str
    claims: list[Claim]


class InFlightJournal:
    """One slot per thread; each says what its thread has in hands."""

    def __init__(self, path: Path | None, worker_id: str, threads: int, max_jobs: int) -> None:
        """Without a path nothing is written. `threads`: how many will ever note something; `max_jobs`: at once."""
        self._slot_bytes = _LENGTH.size + max_jobs * _CLAIM_BYTES
        self._own, self._taken, self._lock = threading.local(), 0, threading.Lock()
        self._map: mmap.mmap | None = None
        if path is not None:
            with path.open("wb+") as file:
                file.truncate(_HEAD.size + threads * self._slot_bytes)
                self._map = mmap.mmap(file.fileno(), 0)
            _HEAD.pack_into(self._map, 0, worker_id.encode(), self._slot_bytes)

    def record(self, claims: Iterable[Claim]) -> None:
        """Note that this thread takes these in hands, and nothing else."""
        if self._map is None:
            return
        at = self._slot()
        text = " ".join(f"{job_id} {attempt}" for job_id, attempt in claims).encode()
        # The length comes last and goes first: a death in between leaves a slot that is empty, never a torn one.
        _LENGTH.pack_into(self._map, at, 0)
        self._map[at + _LENGTH.size : at + _LENGTH.size + len(text)] = text
        _LENGTH.pack_into(self._map, at, len(text))

    def clear(self) -> None:
        """Note that this thread has nothing in hands."""
        if self._map is not None:
            _LENGTH.pack_into(self._map, self._slot(), 0)

    def disable(self) -> None:
        """Suspect nobody any more: this process was asked to stop, and how it ends says nothing about its jobs."""
        if self._map is not None:
            held, self._map = self._map, None
            held[_HEAD.size :] = bytes(len(held) - _HEAD.size)

    def _slot(self) -> int:
        at: int | None = getattr(self._own, "at", None)
        if at is None:
            with self._lock:
                at = self._own.at = _HEAD.size + self._taken * self._slot_bytes
                self._taken += 1
        return at


def read_journal(path: Path) -> JournalContents | None:
    """Read what the last worker that wrote here left; None where none did."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    if len(data) < _HEAD.size:
        return None
    worker, slot_bytes = _HEAD.unpack_from(data)
    claims: list[Claim] = []
    for at in range(_HEAD.size, len(data) - slot_bytes + 1, slot_bytes):
        (length,) = _LENGTH.unpack_from(data, at)
        words = data[at + _LENGTH.size : at + _LENGTH.size + length].decode().split()
        claims += zip(words[::2], map(int, words[1::2]), strict=True)
    return JournalContents(worker.rstrip(b"\0").decode(), claims)


def delete_journal(path: Path) -> None:
    """Throw a black box away: what it tells is dealt with."""
    path.unlink(missing_ok=True)
