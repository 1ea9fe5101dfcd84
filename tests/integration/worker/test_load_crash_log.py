"""A worker that died while it loaded a version: the next one tries once more, then leaves it alone."""

from pathlib import Path

import pytest

from tests.support.processes import program
from tests.support.waiting import wait_until
from worker.versions.load_crash_log import LoadCrashLog

DYING = """
import os
from pathlib import Path
from worker.versions.load_crash_log import LoadCrashLog
with LoadCrashLog(Path("notes")).loading("m 2", "as it was"):
    os.abort()
"""


def die(folder: Path) -> None:
    with program(DYING, folder / "log") as process:
        assert wait_until(process.poll, "it dies") < 0


def test_two_deaths_block_a_version_until_its_files_change(tmp_path: Path) -> None:
    die(tmp_path)
    notes = LoadCrashLog(tmp_path / "notes")
    assert (notes.is_suspect("m 2"), notes.is_blocked("m 2", "as it was")) == (True, False)
    die(tmp_path)
    notes = LoadCrashLog(tmp_path / "notes")
    assert notes.is_blocked("m 2", "as it was")
    assert not notes.is_blocked("m 2", "mended")
    assert not notes.is_suspect("m 1")
    assert LoadCrashLog(tmp_path / "notes").is_blocked("m 2", "as it was")  # other crashes in between change nothing


def test_a_version_that_loads_or_is_refused_is_unblocked(tmp_path: Path) -> None:
    die(tmp_path)
    notes = LoadCrashLog(tmp_path / "notes")
    with pytest.raises(RuntimeError), notes.loading("m 2", "as it was"):
        raise RuntimeError
    assert not LoadCrashLog(tmp_path / "notes").is_suspect("m 2")


@pytest.mark.parametrize("junk", [b"", b"{", b"[]", b'{"deaths": 3, "loading": []}', b'{"deaths": {"m": 3}}'])
def test_unreadable_notes_count_as_none(tmp_path: Path, junk: bytes) -> None:
    (tmp_path / "notes").write_bytes(junk)
    assert not LoadCrashLog(tmp_path / "notes").is_suspect("m")


def test_without_a_file_nothing_is_noted() -> None:
    with LoadCrashLog(None).loading("m 2", "as it was"):
        pass
