"""The parts of bulk jobs, with the test as the worker, beside the whole service."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack

import pytest

from tests.integration.bulk.conftest import Processes, plant, settings, start_processes

__all__ = ["plant", "settings"]


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Mapping[str, str]], Processes]]:
    """A function that starts the processes once for all tests of a module that have the same settings."""
    known: dict[tuple[tuple[str, str], ...], Processes] = {}
    with ExitStack() as held:

        def start(settings: Mapping[str, str]) -> Processes:
            key = tuple(sorted(settings.items()))
            if key not in known:
                known[key] = held.enter_context(start_processes(settings, tmp_path_factory.mktemp("bulk")))
            return known[key]

        yield start


@pytest.fixture
def processes(started: Callable[[Mapping[str, str]], Processes], settings: Mapping[str, str]) -> Processes:
    """Begin with an empty queue and no files."""
    found = started(settings)
    with found.server.client() as client:
        client.flushall()
    for path in found.folder.iterdir():
        shutil.rmtree(path)
    return found
