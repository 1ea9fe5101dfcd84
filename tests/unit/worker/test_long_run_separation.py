"""Which workers leave long runs, and which leave short ones, to the others."""

import pytest

from worker.execution.long_run_separation import skipped_versions

RUN_S = {"slow 1": 2.0, "fast 1": 0.002, "middle 1": 0.03, "slow 2": 0.5}
BOTH = ["slow 1", "fast 1"]


def test_half_of_the_workers_claim_the_long_runs() -> None:
    workers = dict.fromkeys("abcd", BOTH)
    skipped = skipped_versions(workers, RUN_S, BOTH)
    assert skipped == {"a": {"slow 1"}, "b": {"slow 1"}, "c": {"fast 1"}, "d": {"fast 1"}}


@pytest.mark.parametrize(
    ("workers", "active"),
    [
        ({"a": BOTH}, BOTH),
        ({"a": BOTH, "b": BOTH}, ["slow 1"]),
        ({"a": BOTH, "b": BOTH}, ["fast 1"]),
        ({"a": BOTH, "b": ["slow 1"]}, BOTH),
        ({"a": ["fast 1"], "b": ["slow 1"]}, BOTH),
        ({"a": ["fast 1", "middle 1"], "b": ["fast 1", "middle 1"]}, ["fast 1", "middle 1"]),
        ({"a": ["slow 1", "slow 2"], "b": ["slow 1", "slow 2"]}, ["slow 1", "slow 2"]),
        ({"a": ["slow 1", "new 1"], "b": ["slow 1", "new 1"]}, ["slow 1", "new 1"]),
        ({}, []),
    ],
    ids=[
        *("one worker", "nobody sends short runs", "nobody sends long runs", "one worker serves both"),
        *("the owner decided", "no run is long", "all runs are long", "a version without runs", "nothing"),
    ],
)
def test_otherwise_every_worker_claims_everything(workers: dict[str, list[str]], active: list[str]) -> None:
    assert skipped_versions(workers, RUN_S, active) == {}


def test_a_version_that_no_other_worker_claims_is_not_left() -> None:
    workers = {"a": [*BOTH, "slow 2"], "b": [*BOTH, "middle 1"]}
    skipped = skipped_versions(workers, RUN_S, RUN_S)
    assert skipped == {"a": {"slow 1"}, "b": {"fast 1"}}


def test_each_version_is_claimed_by_some_worker() -> None:
    workers = {f"w{n}": [v for at, v in enumerate(RUN_S) if n >> at & 1] for n in range(16)}
    skipped = skipped_versions(workers, RUN_S, RUN_S)
    for version in RUN_S:
        assert any(version in served and version not in skipped.get(worker, ()) for worker, served in workers.items())
