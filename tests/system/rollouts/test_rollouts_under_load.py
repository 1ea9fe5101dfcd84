"""A model is upgraded, canaried, promoted, rolled back and unloaded under 32 callers without a failure."""

from pathlib import Path

import pytest

from tests.support import models
from tests.support.rollout.callers import Callers
from tests.support.rollout.steps import Life
from tests.support.service import Service

QUICK = {"JITNEY_MODELS_POLL_S": "0.2", "JITNEY_UNLOAD_AFTER_S": "1", "JITNEY_WORKERS": "2", "JITNEY_GATEWAYS": "2"}


@pytest.mark.timeout(150)
def test_no_job_fails_and_none_is_answered_by_another_version(tmp_path: Path) -> None:
    models.times(tmp_path, 1)
    with Service(tmp_path, QUICK) as service, Callers(service.url) as callers:
        life = Life(service, callers, tmp_path)
        life.upgrade(2)
        share = life.canary(3, percent=25, beside=2)
        life.promote(3)
        life.roll_back(to=2)
        life.reload(2)
        life.unload(1)
        assert life.entry(3)["status"] in {"leaving", "available"}
        assert callers.faults == []
    assert callers.faults == []
    assert 12 <= share <= 38  # of 300 or more: five deviations away
    assert {answer.version for answer in callers.answers} == {"1", "2", "3"}
