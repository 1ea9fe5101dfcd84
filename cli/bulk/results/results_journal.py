"""The results as they grow, and how far they are known to be good: a run that is killed loses and doubles nothing.

Rows are appended in the order of the lines. The state beside them, `NAME.state`, says how many lines and bytes are safe
on the disk; what lies behind that is cut off when the run goes on, and made again.
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

SYNC_INTERVAL_S: Final = 0.5  # between two states; each costs two waits for the disk
LOCK_ATTEMPTS: Final = 5  # somebody who asks for the status holds the journal for a moment


@dataclass
class RunState:
    """How far a run is. `name` is that of its last line; `ended`: finished, interrupted or canceled, else it runs.

    `run`, `generation` and `chunk` are what its Idempotency-Keys are made of.
    """

    given: list[str] = field(default_factory=list)
    where: str = ""
    model: str = ""
    run: str = field(default_factory=lambda: secrets.token_hex(8))
    generation: int = 1  # counts cancellations: what was canceled is sent under another key
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
        """How many rode together, on average over batches."""
        return self.ran / self.batches if self.batches else 0.0

    @property
    def failures(self) -> int:
        return sum(self.failed.values())


def read_state(journal: Path) -> RunState | None:
    """Read how far a run is; None where there is none. Raises CannotRun."""
    path = state_path(journal)
    try:
        told: dict[str, Any] = orjson.loads(path.read_bytes())
        return RunState(**{one.name: told[one.name] for one in fields(RunState)})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CannotRun(
            f"{path} is no state of a run: {error!r}; remove it and {journal.name} to begin anew"
        ) from error


def write_state(journal: Path, state: RunState) -> None:
    """Put the state on the disk, whole or not at all; raises OSError."""
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
    """Name the state of a journal."""
    return journal.with_name(journal.name + ".state")


def is_locked(journal: Path) -> bool:
    """Whether a run writes there at this moment."""
    try:
        with journal.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


class ResultsJournal:
    """One run's results, held by one process until it is closed."""

    def __init__(self, journal: Path, begins: RunState) -> None:
        """Go on where the last run stopped, else begin; raises CannotRun."""
        self.journal = journal
        self._file = _lock_journal(journal)
        try:
            known = read_state(journal)
            self.state = begins if known is None else known
            self._cut(is_new=known is None)
            self.state.pid, self.state.ended = os.getpid(), ""
            write_state(journal, self.state)  # before the first row: whose it is must be known
        except OSError as error:
            self._file.close()
            raise CannotRun(f"{state_path(journal)} can not be written: {error.strerror}") from error
        except BaseException:
            self._file.close()
            raise
        self._failed = Counter(self.state.failed)
        self._began_at = time.monotonic() - self.state.seconds
        self._wrote_at = 0.0

    def _cut(self, *, is_new: bool) -> None:
        size = self._file.seek(0, os.SEEK_END)
        if is_new and size:
            raise CannotRun(f"{self.journal} exists, and no run wrote it: name another -o, or remove it")
        if size < self.state.bytes:
            what = f"{self.journal} has {size} bytes, and the run wrote {self.state.bytes}"
            raise CannotRun(f"{what}: remove it and {state_path(self.journal).name} to begin anew")
        self._file.truncate(self.state.bytes)

    def commit(self, rows: Sequence[ResultRow]) -> None:
        """Append rows; twice a second they, and that they are there, are put on the disk. Raises OSError."""
        data = b"".join(row.json_line() for row in rows)
        left = memoryview(data)
        while left:  # a disk that fills up takes some, and then says so
            left = left[self._file.write(left) :]
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
        if time.monotonic() - self._wrote_at >= SYNC_INTERVAL_S:
            self.save()

    def save(self) -> None:
        """Put everything on the disk; raises OSError."""
        os.fsync(self._file.fileno())
        self.state.failed = dict(self._failed)
        self.state.seconds = time.monotonic() - self._began_at
        write_state(self.journal, self.state)
        self._wrote_at = time.monotonic()

    def close(self, ended: str) -> None:
        """Say how it ended, and let go."""
        self.state.ended = ended
        self.save()
        self.drop()

    def drop(self) -> None:
        """Let go, with the state as it was put down last."""
        self._file.close()

    @property
    def is_dropped(self) -> bool:
        return self._file.closed


def _lock_journal(journal: Path) -> BinaryIO:
    try:
        file = journal.open("ab", buffering=0)
    except OSError as error:
        raise CannotRun(f"{journal} can not be written: {error.strerror}") from error
    for _ in range(LOCK_ATTEMPTS):
        with suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file
        time.sleep(0.02)
    file.close()
    raise CannotRun(f"another run writes {journal}; --status tells how far it is, --cancel ends it")
