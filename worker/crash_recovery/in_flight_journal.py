"""In-flight journal: a file that records which jobs this process is executing, and that survives the process.

A job executes while a thread decodes or runs it, not while it waits. After a death these jobs are the suspects. A
record is a copy into a mapped page, without a system call. A machine crash may lose it; then no job is suspected.
"""

import mmap
import struct
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

Claim = tuple[str, int]

_HEAD: Final = struct.Struct("=32sI")  # worker id, bytes per slot
_LENGTH: Final = struct.Struct("=I")
_CLAIM_BYTES: Final = 34 + 1 + 10 + 1  # job id, space, attempt, space


class JournalContents(NamedTuple):
    """Content of a journal: the worker's id and the claims that it was executing."""

    worker: str
    claims: list[Claim]


class InFlightJournal:
    """The journal of one worker: one slot per thread, with the claims that the thread is executing."""

    def __init__(self, path: Path | None, worker_id: str, threads: int, max_jobs: int) -> None:
        """Create the file; without a path nothing is recorded.

        `threads`: number of threads that will record; `max_jobs`: most jobs of one thread at a time.
        """
        self._slot_bytes = _LENGTH.size + max_jobs * _CLAIM_BYTES
        self._local, self._slots_used, self._lock = threading.local(), 0, threading.Lock()
        self._map: mmap.mmap | None = None
        if path is not None:
            with path.open("wb+") as file:
                file.truncate(_HEAD.size + threads * self._slot_bytes)
                self._map = mmap.mmap(file.fileno(), 0)
            _HEAD.pack_into(self._map, 0, worker_id.encode(), self._slot_bytes)

    def record(self, claims: Iterable[Claim]) -> None:
        """Record the claims that this thread executes now, in place of earlier ones; each once, whatever its rows."""
        if self._map is None:
            return
        offset = self._slot()
        text = " ".join(f"{job_id} {attempt}" for job_id, attempt in dict.fromkeys(claims)).encode()
        # The length is cleared first and written last, so that a death in between leaves an empty slot, not a torn one.
        _LENGTH.pack_into(self._map, offset, 0)
        self._map[offset + _LENGTH.size : offset + _LENGTH.size + len(text)] = text
        _LENGTH.pack_into(self._map, offset, len(text))

    def clear(self) -> None:
        """Record that this thread executes nothing."""
        if self._map is not None:
            _LENGTH.pack_into(self._map, self._slot(), 0)

    def disable(self) -> None:
        """Clear the journal and stop recording: this process was asked to stop, so its end suspects no job."""
        if self._map is not None:
            journal, self._map = self._map, None
            journal[_HEAD.size :] = bytes(len(journal) - _HEAD.size)

    def _slot(self) -> int:
        offset: int | None = getattr(self._local, "offset", None)
        if offset is None:
            with self._lock:
                offset = self._local.offset = _HEAD.size + self._slots_used * self._slot_bytes
                self._slots_used += 1
        return offset


def read_journal(path: Path) -> JournalContents | None:
    """Return the content of a journal, or None if there is none."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    if len(data) < _HEAD.size:
        return None
    worker, slot_bytes = _HEAD.unpack_from(data)
    claims: list[Claim] = []
    for offset in range(_HEAD.size, len(data) - slot_bytes + 1, slot_bytes):
        (length,) = _LENGTH.unpack_from(data, offset)
        fields = data[offset + _LENGTH.size : offset + _LENGTH.size + length].decode().split()
        claims += zip(fields[::2], map(int, fields[1::2]), strict=True)
    return JournalContents(worker.rstrip(b"\0").decode(), claims)


def delete_journal(path: Path) -> None:
    """Delete a journal that has been processed."""
    path.unlink(missing_ok=True)
