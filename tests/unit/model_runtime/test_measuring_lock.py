"""One process of a machine measures at a time; without a lock it measures all the same."""

import tempfile
from pathlib import Path

import pytest

from model_runtime.profiling.measuring_lock import measuring_alone


@pytest.fixture(autouse=True)
def temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_the_second_waits_for_the_lock_and_gives_up() -> None:
    with measuring_alone() as first, measuring_alone(0.02) as second:
        assert (first, second) == (True, False)
    with measuring_alone(0) as third:
        assert third


def test_a_folder_that_cannot_be_written_to_stops_no_worker(temporary_folder: Path) -> None:
    temporary_folder.rmdir()
    with measuring_alone() as has_lock:
        assert not has_lock
