"""`--retry-failed`: the lines that failed run again into a journal of their own, and then take their rows' places.

The exchange is finished after a kill at any point of it: once the new journal is whole on the disk, the retry's state
says so, and whoever comes next does the rest.
"""

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import orjson

from cli.bulk.inputs.items import Item
from cli.bulk.results.results_journal import ResultsJournal, read_state, state_path, write_state
from cli.bulk.results.rows import read_rows

MERGING = "merging"


def retry_journal_path(journal: Path) -> Path:
    """Name the journal of the lines that are tried again."""
    return journal.with_name(journal.name + ".retry.jsonl")


def list_failed_lines(journal: Path) -> set[int]:
    """List the lines that did not succeed."""
    return {row["line"] for row in read_rows(journal) if row["status"] != "succeeded"}


def select_lines(items: Iterator[Item], lines: set[int]) -> Iterator[Item]:
    """Give those items whose line is wanted."""
    return (item for item in items if item.line in lines)


def merge_retried(journal: Path) -> None:
    """Put the retried rows in place of the failed ones; raises OSError."""
    retry = retry_journal_path(journal)
    again = read_rows(retry)
    part = _part(journal)
    with part.open("wb") as file, journal.open("rb") as before:
        row = next(again, None)
        for line in before:
            if row is not None and orjson.loads(line)["line"] == row["line"]:
                file.write(orjson.dumps(row) + b"\n")
                row = next(again, None)
            else:
                file.write(line)
        file.flush()
        os.fsync(file.fileno())
    if (state := read_state(retry)) is not None:
        state.ended = MERGING
        write_state(retry, state)
    finish_merge(journal)


def finish_merge(journal: Path) -> None:
    """Do what is left of a merge; nothing where there is none."""
    retry = retry_journal_path(journal)
    merged, state = read_state(retry), read_state(journal)
    if merged is None or state is None or merged.ended != MERGING:
        return
    with suppress(FileNotFoundError):
        _part(journal).replace(journal)
    state.bytes = journal.stat().st_size
    state.failed = dict(Counter(row["error"]["code"] for row in read_rows(journal) if row["error"]))
    write_state(journal, state)
    state_path(retry).unlink()
    retry.unlink(missing_ok=True)


def adopt_merge(ledger: ResultsJournal) -> None:
    """Let a ledger that is open know what the merge made of its journal."""
    if (state := read_state(ledger.journal)) is not None:
        ledger.state.bytes, ledger.state.failed = state.bytes, state.failed


def _part(journal: Path) -> Path:
    return journal.with_name(journal.name + ".merged")
