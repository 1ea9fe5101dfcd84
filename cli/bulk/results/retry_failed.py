"""`--retry-failed`: merges the rows of rerun lines from a second journal into the first, safely despite a kill.

The merge survives a kill at any point: its state file marks it as started once the merged journal is on disk,
and the next run finishes it.
"""

import os
from collections import Counter
from contextlib import suppress
from pathlib import Path

import orjson

from cli.bulk.results.results_journal import ResultsJournal, read_state, state_path, write_state
from cli.bulk.results.rows import read_rows

MERGING = "merging"


def retry_journal_path(journal: Path) -> Path:
    return journal.with_name(journal.name + ".retry.jsonl")


def merge_retried(journal: Path) -> None:
    """Replace the failed rows by the retried ones. Raises OSError."""
    retry = retry_journal_path(journal)
    retried = read_rows(retry)
    merged = _merged_path(journal)
    with merged.open("wb") as file, journal.open("rb") as lines:
        row = next(retried, None)
        for line in lines:
            if row is not None and orjson.loads(line)["line"] == row["line"]:
                file.write(orjson.dumps(row) + b"\n")
                row = next(retried, None)
            else:
                file.write(line)
        file.flush()
        os.fsync(file.fileno())
    if (state := read_state(retry)) is not None:
        state.ended = MERGING
        write_state(retry, state)
    finish_merge(journal)


def finish_merge(journal: Path) -> None:
    """Finish a merge that was started; do nothing if there is none."""
    retry = retry_journal_path(journal)
    retry_state, state = read_state(retry), read_state(journal)
    if retry_state is None or state is None or retry_state.ended != MERGING:
        return
    with suppress(FileNotFoundError):
        _merged_path(journal).replace(journal)
    state.bytes = journal.stat().st_size
    state.failed = dict(Counter(row["error"]["code"] for row in read_rows(journal) if row["error"]))
    write_state(journal, state)
    state_path(retry).unlink()
    retry.unlink(missing_ok=True)


def reload_merged_state(results: ResultsJournal) -> None:
    """Update the state of an open journal after a merge."""
    if (state := read_state(results.path)) is not None:
        results.state.bytes, results.state.failed = state.bytes, state.failed


def _merged_path(journal: Path) -> Path:
    return journal.with_name(journal.name + ".merged")
