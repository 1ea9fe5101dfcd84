"""A whole Jitney with the models `times` and `other`, quick to look at its folder."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import models
from tests.support.rollout.steps import Models
from tests.support.service import Service

QUICK = {"JITNEY_MODELS_POLL_S": "0.2", "JITNEY_UNLOAD_AFTER_S": "0.5", "JITNEY_RESTART_LIMIT_S": "0.3"}


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    models.times(tmp_path, 1)
    models.doubling(tmp_path, "other")
    return tmp_path


@pytest.fixture
def service(shelf: Path) -> Iterator[Service]:
    with Service(shelf, QUICK) as service:
        yield service


@pytest.fixture
def times(service: Service) -> Models:
    return Models(service)
