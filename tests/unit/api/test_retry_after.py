"""Retry-after estimates follow from how fast jobs end; the clock is a plain number."""

import pytest

from api.gateway.retry_after import DEFAULT_RETRY_AFTER_S, MAX_RETRY_AFTER_S, MIN_RETRY_AFTER_S, RetryAfterEstimator


def test_there_is_no_estimate_before_a_job_has_ended() -> None:
    pace = RetryAfterEstimator()
    pace.observe({"submitted:m": 5}, now=0)
    pace.observe({"submitted:m": 50}, now=2)
    assert pace.retry_after_s("m", 1000) == DEFAULT_RETRY_AFTER_S


@pytest.mark.parametrize(("ended", "seconds"), [(10, 10 / 5), (1, MAX_RETRY_AFTER_S / 3), (100_000, MIN_RETRY_AFTER_S)])
def test_the_estimate_follows_the_rate(ended: int, seconds: float) -> None:
    pace = RetryAfterEstimator()
    pace.observe({"finished:m:succeeded": 7, "finished:m:failed": 3}, now=10)
    pace.observe({"finished:m:succeeded": 7 + ended, "finished:m:failed": 3}, now=12)
    assert pace.retry_after_s("m", 1000) == pytest.approx(seconds)


def test_decreasing_counts_give_no_negative_rate() -> None:
    pace = RetryAfterEstimator()
    pace.observe({"finished:m:succeeded": 100}, now=0)
    pace.observe({"finished:m:succeeded": 1}, now=2)  # the queue's data was lost
    assert pace.retry_after_s("m", 1000) == DEFAULT_RETRY_AFTER_S


def test_models_have_rates_of_their_own() -> None:
    pace = RetryAfterEstimator()
    pace.observe({"finished:a:succeeded": 0, "finished:b:succeeded": 0}, now=0)
    pace.observe({"finished:a:succeeded": 2, "finished:b:succeeded": 4}, now=1)
    assert pace.retry_after_s("a", 1000) == pytest.approx(5)
    assert pace.retry_after_s("b", 1000) == pytest.approx(2.5)
