"""The parts of bulk jobs, with the test as the worker, beside the whole service."""

from tests.integration.bulk.conftest import plant, processes, settings

__all__ = ["plant", "processes", "settings"]
