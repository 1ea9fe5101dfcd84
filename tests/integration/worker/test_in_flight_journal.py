"""The in-flight journal names the executing jobs, however the process ended."""

from pathlib import Path

from tests.support.processes import program
from tests.support.waiting import wait_until
from worker.crash_recovery.in_flight_journal import InFlightJournal, delete_journal, read_journal

IDS = [f"00{n:032x}" for n in range(4)]

DYING = """
import ctypes, threading
from pathlib import Path
from worker.crash_recovery.in_flight_journal import InFlightJournal
journal = InFlightJournal(Path("journal"), "w1", 3, 2)
journal.record([("{0}", 1), ("{1}", 2)])
other = threading.Thread(target=lambda: (journal.record([("{2}", 1)]), journal.clear(), journal.record([("{3}", 12)])))
other.start()
other.join()
ctypes.string_at(0)
"""


def test_a_process_killed_by_a_signal_leaves_the_executing_jobs_of_each_thread(tmp_path: Path) -> None:
    with program(DYING.format(*IDS), tmp_path / "log") as process:
        assert wait_until(process.poll, "it dies") < 0
    left = read_journal(tmp_path / "journal")
    assert left is not None
    assert left.worker == "w1"
    assert left.claims == [(IDS[0], 1), (IDS[1], 2), (IDS[3], 12)]
    delete_journal(tmp_path / "journal")
    assert read_journal(tmp_path / "journal") is None


def test_a_disabled_journal_names_no_suspects(tmp_path: Path) -> None:
    journal = InFlightJournal(tmp_path / "journal", "w1", 1, 1)
    journal.record([(IDS[0], 1)])
    journal.disable()
    journal.record([(IDS[1], 1)])
    left = read_journal(tmp_path / "journal")
    assert left is not None
    assert left.claims == []


def test_a_journal_without_a_file_does_nothing(tmp_path: Path) -> None:
    journal = InFlightJournal(None, "w1", 1, 1)
    journal.record([(IDS[0], 1)])
    journal.clear()
    assert read_journal(tmp_path / "none") is None
