"""Fixtures for all tests."""

import gc
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from jobs.redis_client.client import RedisClient
from tests.support.servers import Server
from tests.support.service import Service

gc.disable()  # until all tests are collected: nothing of that is garbage
settings.register_profile("untimed", deadline=None)  # a busy machine may be slow
settings.load_profile("untimed")

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


def pytest_collection_finish() -> None:
    """Exclude modules and test items from garbage collection, which is slow over so many objects."""
    gc.freeze()
    gc.enable()


@pytest.fixture
def anyio_backend() -> str:
    """Run asynchronous tests on asyncio, which is what the product runs on."""
    return "asyncio"


@pytest.fixture(scope="session")
def service() -> Iterator[Service]:
    """Serve the bundled models, once for all read-only tests."""
    with Service() as running:
        yield running


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real models and photographs beside the checkout; skips where they are missing."""
    if not SHARED_DATA.is_dir():
        pytest.skip("no shared data beside the checkout")
    return SHARED_DATA


@pytest.fixture
async def own(anyio_backend: str) -> AsyncIterator[tuple[Server, RedisClient]]:
    """Start a server for this test alone, to be stopped and killed, and a connection to it."""
    del anyio_backend
    server = Server()
    connection = RedisClient(server.url, 0.5)
    yield server, connection
    await connection.aclose()
    server.close()
