"""Fixtures: a whole Jitney with the models `times` and `other` that polls its folder often."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import models
from tests.support.rollout.steps import Models
from tests.support.service import Service

QUICK = {"JITNEY_MODELS_POLL_S": "0.2", "JITNEY_UNLOAD_AFTER_S": "0.5", "JITNEY_RESTART_LIMIT_S": "0.3"}


@pytest.fixture
def models_dir(tmp_path: Path) -> Path:
    models.times(tmp_path, 1)
    models.doubling(tmp_path, "other")
    return tmp_path


@pytest.fixture
def service(models_dir: Path) -> Iterator[Service]:
    with Service(models_dir, QUICK) as service:
        yield service


@pytest.fixture
def times(service: Service) -> Models:
    return Models(service)
