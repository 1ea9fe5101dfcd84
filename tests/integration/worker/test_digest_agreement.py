"""A worker compares its files of a version with the served ones: loaded, refused, overruled, changed."""

import dataclasses
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from jobs.models import worker_registry
from jobs.models.worker_registry import WorkerReport
from jobs.redis_client.client import RedisClient
from model_runtime.repository.repository import ModelFolder, list_models
from tests.support import models
from tests.support.servers import Server
from tests.support.waiting import wait_until_async
from worker.versions.digest_agreement import DigestAgreement

pytestmark = pytest.mark.anyio
NAME = "times 1"


@pytest.fixture(scope="module")
def queue() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


class Host:
    """A worker with a folder of its own."""

    def __init__(self, queue: Server, folder: Path, name: str, ttl_s: float = 60) -> None:
        self.connection, self.folder, self.name = RedisClient(queue.url, 5), folder / name, name
        self.files = DigestAgreement(self.connection, name, ttl_s)
        self.woken = 0
        self.files.on_overruled = self._woken
        self.lay(2)

    def lay(self, factor: float) -> None:
        """Use these files from now on."""
        models.times(self.folder / str(factor), 1, factor=factor)
        (found,) = list_models(self.folder / str(factor))
        assert isinstance(found, ModelFolder)
        self.found, self.fingerprint = found, str(factor)

    async def may_load(self) -> bool:
        may = await self.files.may_load(NAME, self.fingerprint, self.found)
        if may:
            await self.files.loaded(NAME, succeeded=True)
        report = WorkerReport(self.name, 1, f"host-{self.name}", digests=dict(self.files.announced))
        await worker_registry.register_worker(
            self.connection, dataclasses.replace(report, models=[*self.files.running]), [], 60
        )
        return may

    def _woken(self) -> None:
        self.woken += 1


@pytest.fixture
async def hosts(queue: Server, tmp_path: Path, anyio_backend: str) -> AsyncIterator[list[Host]]:
    del anyio_backend
    with queue.client() as client:
        client.flushall()
    hosts = [Host(queue, tmp_path, name) for name in ("a", "b")]
    yield hosts
    for host in hosts:
        await host.connection.aclose()


async def test_differing_files_are_refused_by_name_until_they_are_equal(hosts: list[Host]) -> None:
    a, b = hosts
    assert await a.may_load()
    b.lay(3)
    assert not await b.may_load()
    reason = b.files.refused[NAME]
    assert "times version 1 is not served by this worker" in reason
    assert all(word in reason for word in ("on host-a", a.files.announced[NAME], b.files.announced[NAME]))
    b.lay(2.0)
    assert await b.may_load()
    assert b.files.refused == {}


async def test_files_that_fail_to_load_give_way_to_others(hosts: list[Host]) -> None:
    a, b = hosts
    assert await a.files.may_load(NAME, a.fingerprint, a.found)
    await a.files.loaded(NAME, succeeded=False)
    b.lay(3)
    assert await b.may_load()


async def test_a_changed_shared_folder_is_loaded_again_by_all_workers_without_a_pause(hosts: list[Host]) -> None:
    a, b = hosts
    assert [await a.may_load(), await b.may_load()] == [True, True]
    for host in hosts:
        host.lay(3)
    assert not await a.may_load()  # the other has not seen it yet
    assert "this worker continues with the loaded ones" in a.files.refused[NAME]
    assert await b.may_load()
    assert (a.files.overruled(), b.files.overruled()) == (set(), set())
    assert await a.may_load()
    assert (a.woken, b.woken) == (0, 0)


async def test_a_worker_that_is_silent_for_too_long_loses_its_say(
    queue: Server, hosts: list[Host], tmp_path: Path
) -> None:
    silent, other = Host(queue, tmp_path, "silent", ttl_s=0.05), hosts[0]
    assert await silent.may_load()
    other.lay(3)

    async def has_taken_over() -> bool:
        return await other.may_load()

    await wait_until_async(has_taken_over, "the files of the silent one are served no more")
    await silent.files.renew()
    assert (silent.files.overruled(), silent.woken) == ({NAME}, 1)
    await silent.files.forget([NAME])
    assert silent.files.overruled() == set()
    await silent.connection.aclose()


async def test_unreadable_files_are_left_to_the_loader(hosts: list[Host]) -> None:
    broken = hosts[0].found._replace(path=hosts[0].folder / "nowhere")
    assert await hosts[0].files.may_load(NAME, "gone", broken)
    assert hosts[0].files.announced == {}
