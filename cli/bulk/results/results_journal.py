"""The results journal of a bulk run: a killed run resumes without lost or duplicate rows.

Rows are appended in input order. The state file, `NAME.state`, records how many lines and bytes are synced to disk.
A resumed run truncates the journal to that length and continues from there.
"""

import fcntl
import os
import secrets
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, BinaryIO, Final

import orjson

from cli.bulk.errors import CannotRun
from cli.bulk.results.rows import ResultRow

SYNC_INTERVAL_S: Final = 0.5  # between two state files; each costs two fsyncs
LOCK_ATTEMPTS: Final = 5  # --status locks the journal for a moment


@dataclass
class RunState:
    """The progress of a run.

    `name`: the input of its last line. `ended`: finished, interrupted or canceled; empty while it runs.
    `run`, `generation` and `chunk` make up its Idempotency-Keys.
    """

    inputs: list[str] = field(default_factory=list)
    where: str = ""
    model: str = ""
    run: str = field(default_factory=lambda: secrets.token_hex(8))
    generation: int = 1  # counts cancellations: lines whose jobs were canceled are sent under a new key
    chunk: int = 0
    total: int | None = None
    lines: int = 0
    bytes: int = 0
    name: str = ""
    failed: dict[str, int] = field(default_factory=dict)
    ran: int = 0
    batches: float = 0.0
    seconds: float = 0.0
    pid: int = 0
    ended: str = ""

    @property
    def mean_batch(self) -> float:
        """The mean size of the batches in which lines ran."""
        return self.ran / self.batches if self.batches else 0.0

    @property
    def failures(self) -> int:
        return sum(self.failed.values())


def read_state(journal: Path) -> RunState | None:
    """Read the state of a run; None if there is none. Raises CannotRun."""
    path = state_path(journal)
    try:
        values: dict[str, Any] = orjson.loads(path.read_bytes())
        return RunState(**{field.name: values[field.name] for field in fields(RunState)})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CannotRun(f"{path} is not a state file ({error!r}): to restart, remove it and {journal.name}") from error


def write_state(journal: Path, state: RunState) -> None:
    """Write and sync the state file, atomically. Raises OSError."""
    path = state_path(journal)
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        file.write(orjson.dumps(asdict(state)))
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def state_path(journal: Path) -> Path:
    return journal.with_name(journal.name + ".state")


def is_locked(journal: Path) -> bool:
    """Return whether a run is writing the journal."""
    try:
        with journal.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


class ResultsJournal:
    """The journal of one run, locked by one process until it is closed."""

    def __init__(self, path: Path, initial: RunState) -> None:
        """Resume the run of this journal, or start one from `initial`. Raises CannotRun."""
        self.path = path
        self._file = _lock_journal(path)
        try:
            stored = read_state(path)
            self.state = initial if stored is None else stored
            self._truncate(is_new=stored is None)
            self.state.pid, self.state.ended = os.getpid(), ""
            write_state(path, self.state)  # before the first row, so that no journal lacks a state
        except OSError as error:
            self._file.close()
            raise CannotRun(f"{state_path(path)} cannot be written: {error.strerror}") from error
        except BaseException:
            self._file.close()
            raise
        self._failed = Counter(self.state.failed)
        self._began_at = time.monotonic() - self.state.seconds
        self._saved_at = 0.0

    def _truncate(self, *, is_new: bool) -> None:
        size = self._file.seek(0, os.SEEK_END)
        if is_new and size:
            raise CannotRun(f"{self.path} exists and was not written by a run: use another -o, or remove it")
        if size < self.state.bytes:
            reason = f"{self.path} has {size} bytes, but the run wrote {self.state.bytes}"
            raise CannotRun(f"{reason}: to restart, remove it and {state_path(self.path).name}")
        self._file.truncate(self.state.bytes)

    def commit(self, rows: Sequence[ResultRow]) -> None:
        """Append rows; sync them and the state twice a second. Raises OSError."""
        data = b"".join(row.json_line() for row in rows)
        rest = memoryview(data)
        while rest:  # a disk that fills up accepts a part first
            rest = rest[self._file.write(rest) :]
        state = self.state
        state.lines += len(rows)
        state.bytes += len(data)
        state.name = rows[-1].item.name
        for row in rows:
            if row.error:
                self._failed[row.error[0]] += 1
            if row.batch_size:
                state.ran += 1
                state.batches += 1 / row.batch_size
        if time.monotonic() - self._saved_at >= SYNC_INTERVAL_S:
            self.save()

    def save(self) -> None:
        """Sync the rows and the state to disk. Raises OSError."""
        os.fsync(self._file.fileno())
        self.state.failed = dict(self._failed)
        self.state.seconds = time.monotonic() - self._began_at
        write_state(self.path, self.state)
        self._saved_at = time.monotonic()

    def close(self, ended: str) -> None:
        """Record how the run ended, and release the journal."""
        self.state.ended = ended
        self.save()
        self.release()

    def release(self) -> None:
        """Release the journal without saving the state."""
        self._file.close()

    @property
    def is_released(self) -> bool:
        return self._file.closed


def _lock_journal(journal: Path) -> BinaryIO:
    try:
        file = journal.open("ab", buffering=0)
    except OSError as error:
        raise CannotRun(f"{journal} cannot be written: {error.strerror}") from error
    for _ in range(LOCK_ATTEMPTS):
        with suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file
        time.sleep(0.02)
    file.close()
    raise CannotRun(f"another run is writing {journal}; --status shows its progress, --cancel stops it")
