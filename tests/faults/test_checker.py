"""The checker finds the errors in a history that is wrong on purpose."""

from typing import Any

import pytest

from tests.support.cluster import checker
from tests.support.cluster.callers import digit
from tests.support.cluster.history import History
from tests.support.cluster.scenario import Scenario


def job(job_id: str, status: str = "succeeded", **more: Any) -> dict[str, Any]:
    return {"id": job_id, "status": status, "output": None, "error": None, "attempts": 1, "finished_at": "t", **more}


def test_a_missing_job_counts_as_lost(scenario: Scenario) -> None:
    history = History()
    history.submitted("gateway0", "", job("00" + "0" * 32))
    with pytest.raises(AssertionError, match="is lost"):
        checker.check(scenario.cluster, history)


def test_a_wrong_answer_is_found(scenario: Scenario) -> None:
    history = History()
    job_id = scenario.caller.submit(digit(scenario.random))
    history.submitted("gateway0", "", job(job_id), expected="no digit at all")
    with pytest.raises(AssertionError, match="instead of no digit at all"):
        checker.check(scenario.cluster, history)


def test_two_jobs_of_one_key_two_ends_and_a_backward_transition_are_found(scenario: Scenario) -> None:
    history = History()
    first, second = (scenario.caller.submit(digit(scenario.random)) for _ in range(2))
    for job_id in (first, second):
        history.submitted("gateway0", "same", job(job_id))
    history.read("gateway0", job(first, attempts=7))
    history.read("gateway1", job(first, "running"))
    with pytest.raises(AssertionError) as error:
        checker.check(scenario.cluster, history)
    assert "key same made" in str(error.value)
    assert "was read as [" in str(error.value)
    assert "was read as running after its end" in str(error.value)


def test_a_job_that_nobody_submitted_is_found(scenario: Scenario) -> None:
    scenario.final([scenario.caller.submit(digit(scenario.random))])
    with pytest.raises(AssertionError, match="1 jobs that nobody asked for"):
        checker.check(scenario.cluster, History(), scenario.submitted_before)
