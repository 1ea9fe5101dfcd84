"""A service with small models, and both clients of it."""

import shutil
from collections.abc import AsyncIterator, Iterator

import pytest
from jitney_client import AsyncJitney, Jitney

from tests.support import models
from tests.support.service import ROOT, Service
from tests.support.waiting import wait_until


@pytest.fixture(scope="package")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Serve digits, double and slow."""
    folder = tmp_path_factory.mktemp("models")
    models.doubling(folder)
    models.slow(folder)
    shutil.copytree(ROOT / "models" / "digits", folder / "digits")
    with Service(folder) as service:
        wait_until(lambda: len(service.http.get("/v1/models").json()["models"]) == 3, "all models are served")
        yield service


@pytest.fixture
def jitney(served: Service) -> Iterator[Jitney]:
    with Jitney(served.url) as client:
        yield client


@pytest.fixture
async def async_jitney(served: Service, anyio_backend: str) -> AsyncIterator[AsyncJitney]:
    del anyio_backend
    async with AsyncJitney(served.url) as client:
        yield client
