"""The checkpoint file: truncation, refusals and a full disk."""

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from cli.bulk.errors import CannotRun
from cli.bulk.inputs.items import Item
from cli.bulk.results.results_journal import ResultsJournal, RunState, is_locked, read_state, state_path
from cli.bulk.results.retry_failed import finish_merge, merge_retried, retry_journal_path
from cli.bulk.results.rows import ResultRow, failed_row
from tests.support import bulk
from tests.support.service import DIGITS, ROOT


def item(line: int) -> Item:
    return Item(line, f"n{line}", 0, lambda: b"")


def good(*lines: int) -> list[ResultRow]:
    return [ResultRow(item(line), "succeeded", b'{"x":1}', None, 4) for line in lines]


def test_rows_behind_the_checkpoint_are_cut_off(tmp_path: Path) -> None:
    journal = tmp_path / "r.jsonl"
    ledger = ResultsJournal(journal, RunState())
    ledger.commit([*good(1, 2), failed_row(item(3), "invalid_image", "no")])
    ledger.close("interrupted")
    with journal.open("ab") as file:
        file.write(b'{"line":4,"input":"n4"}\n{"line":5,"inp')
    ledger = ResultsJournal(journal, RunState())
    assert (ledger.state.lines, ledger.state.failed, ledger.state.mean_batch) == (3, {"invalid_image": 1}, 4)
    ledger.commit(good(4))
    ledger.close("finished")
    assert [row["line"] for row in bulk.read_rows(journal)] == [1, 2, 3, 4]


def test_foreign_result_files_are_left_alone(tmp_path: Path) -> None:
    journal = tmp_path / "r.jsonl"
    journal.write_text("a year's work\n")
    with pytest.raises(CannotRun, match="was not written by a run"):
        ResultsJournal(journal, RunState())
    assert journal.read_text() == "a year's work\n"


@pytest.mark.parametrize("text", ["", "{}", "[1]", "\x00", '{"lines": 3}'])
def test_an_invalid_checkpoint_is_named(tmp_path: Path, text: str) -> None:
    state_path(tmp_path / "r.jsonl").write_text(text)
    with pytest.raises(CannotRun, match="is not a state file"):
        ResultsJournal(tmp_path / "r.jsonl", RunState())


def test_a_run_does_not_resume_on_shortened_results(tmp_path: Path) -> None:
    journal = tmp_path / "r.jsonl"
    ledger = ResultsJournal(journal, RunState())
    ledger.commit(good(1, 2))
    ledger.close("interrupted")
    journal.write_bytes(journal.read_bytes()[:20])
    with pytest.raises(CannotRun, match="has 20 bytes, but the run wrote"):
        ResultsJournal(journal, RunState())


def test_only_one_run_at_a_time_is_allowed(tmp_path: Path) -> None:
    journal = tmp_path / "r.jsonl"
    ledger = ResultsJournal(journal, RunState())
    assert is_locked(journal)
    with pytest.raises(CannotRun, match="another run is writing"):
        ResultsJournal(journal, RunState())
    ledger.close("finished")
    assert not is_locked(journal)


def retried(journal: Path) -> None:
    """A run with two failed lines, and their retry at its end."""
    ledger = ResultsJournal(journal, RunState())
    ledger.commit(
        [*good(1), failed_row(item(2), "invalid_image", "no"), *good(3), failed_row(item(4), "invalid_image", "no")]
    )
    ledger.close("finished")
    retry = ResultsJournal(retry_journal_path(journal), RunState())
    retry.commit([*good(2), failed_row(item(4), "body_too_large", "no")])
    retry.close("finished")


@pytest.mark.parametrize("last", ["nothing", "renamed", "told"])
def test_a_replacement_of_rows_is_finished_after_a_kill_at_any_point(tmp_path: Path, last: str) -> None:
    """Return the files after one step of the replacement, as a kill leaves them."""
    journal = tmp_path / "r.jsonl"
    retried(journal)
    kept = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    merge_retried(journal)
    done = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert sorted(done) == ["r.jsonl", "r.jsonl.state"]
    state = json.loads(kept["r.jsonl.retry.jsonl.state"]) | {"ended": "merging"}
    (tmp_path / "r.jsonl.retry.jsonl.state").write_text(json.dumps(state))
    (tmp_path / "r.jsonl.retry.jsonl").write_bytes(kept["r.jsonl.retry.jsonl"])
    if last == "nothing":
        (tmp_path / "r.jsonl.merged").write_bytes(done["r.jsonl"])
        (tmp_path / "r.jsonl").write_bytes(kept["r.jsonl"])
    if last != "told":
        (tmp_path / "r.jsonl.state").write_bytes(kept["r.jsonl.state"])
    finish_merge(journal)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == done
    assert [(row["line"], row["status"]) for row in bulk.read_rows(journal)] == [
        *((n, "succeeded") for n in (1, 2, 3)),
        (4, "failed"),
    ]
    told = read_state(journal)
    assert told is not None
    assert (told.failed, told.bytes) == ({"body_too_large": 1}, journal.stat().st_size)


def test_a_disk_that_fills_up_ends_the_run_and_costs_no_line(tmp_path: Path) -> None:
    bulk.digits_table(tmp_path / "in.jsonl", 2000)
    results = tmp_path / "r.jsonl"
    args = [str(tmp_path / "in.jsonl"), "-o", str(results), "--local", str(bulk.DIGITS_MODEL)]
    full = subprocess.run(
        [sys.executable, "-m", "cli.main", "bulk", "run", *args],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
    )
    assert full.returncode == 2, full
    assert "cannot be written: File too large; synced results stay" in full.stderr
    assert 0 < results.stat().st_size <= 100_000
    done = bulk.run(*args)
    assert done.code == 0, done
    bulk.read_complete_rows(results, 2000)


def test_a_different_or_changed_input_is_refused(tmp_path: Path) -> None:
    given = tmp_path / "in"
    given.mkdir()
    for number in range(5):
        (given / f"{number}.png").write_bytes(DIGITS[0].read_bytes())
    args = ("-o", tmp_path / "r.jsonl", "--local", bulk.DIGITS_MODEL)
    assert bulk.run(given, *args).code == 0
    other = bulk.run(DIGITS[0].parent, *args)
    assert other.code == 2
    assert "belongs to a run with the INPUT" in other.said
    (given / "4.png").unlink()
    assert "has 4 lines, and 5 were run before" in bulk.run(given, *args).said
    (given / "40.png").write_bytes(DIGITS[0].read_bytes())
    assert "has changed: line 5 was 4.png, now 40.png" in bulk.run(*args).said  # the INPUT is known
    (given / "40.png").rename(given / "4.png")
    (given / "5.png").write_bytes(DIGITS[1].read_bytes())
    assert bulk.run(given, *args).code == 0  # more is no change
    bulk.read_complete_rows(tmp_path / "r.jsonl", 6)
