"""Fixtures: a gateway with tight limits, and a whole Jitney with a model."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import models
from tests.support.gateways import GatewayProcess
from tests.support.servers import Server
from tests.support.service import ROOT, Service

BODY_BYTES = 1_000_000
TIGHT = {
    "JITNEY_HEADER_TIMEOUT_S": "2",
    "JITNEY_BODY_TIMEOUT_S": "3",
    "JITNEY_SEND_TIMEOUT_S": "2",
    "JITNEY_MAX_BODY_BYTES": str(BODY_BYTES),
}


@pytest.fixture(scope="module")
def queue() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture(scope="module")
def tight(queue: Server) -> Iterator[GatewayProcess]:
    """A gateway with short timeouts."""
    with GatewayProcess(queue, TIGHT) as process:
        yield process


@pytest.fixture(scope="package")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Serve digits (an image model) and double (a tensor model) by a real worker."""
    models_dir = tmp_path_factory.mktemp("models")
    models.doubling(models_dir)
    (models_dir / "digits").symlink_to(ROOT / "models" / "digits")
    with Service(Path(models_dir)) as service:
        yield service
