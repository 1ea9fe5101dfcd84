"""Both storage backends: a folder, and a real server with the S3 protocol; also on a full disk."""

import json
import resource
import urllib.request
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path

import pytest
from pydantic import ValidationError

from jobs.bulk.local_storage import LocalStorage
from jobs.bulk.open_storage import open_storage
from jobs.bulk.settings import BulkSettings
from jobs.bulk.storage import ImageStore, Storage, single_block
from jobs.contract.errors import Refused, RetryLater
from tests.integration.bulk.conftest import BulkStack
from tests.support import bulks
from tests.support.bulks import line
from tests.support.processes import program
from tests.support.servers import free_port
from tests.support.waiting import wait_until

MOTO = """
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer("127.0.0.1", {port})
server.start()
print("up", flush=True)
server._thread.join()
"""
pytestmark = pytest.mark.anyio
KEYS = {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any", "AWS_REGION": "us-east-1"}


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, str]]:
    """A server with the bucket `night`; returns the environment that points to it."""
    port = free_port()
    log = tmp_path_factory.mktemp("moto") / "log"
    with program(MOTO.format(port=port), log):
        wait_until(lambda: "up" in log.read_text(), "the object store answers", 30)
        url = f"http://127.0.0.1:{port}"
        request = urllib.request.Request(f"{url}/night", method="PUT")
        urllib.request.urlopen(request).close()
        yield {**KEYS, "AWS_ENDPOINT_URL": url}


@pytest.fixture(params=["folder", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Storage:
    if request.param == "folder":
        return open_storage(str(tmp_path))
    for name, value in request.getfixturevalue("s3").items():
        monkeypatch.setenv(name, value)
    return open_storage(f"s3://night/{tmp_path.name}")


async def read(storage: Storage, key: str, offset: int = 0) -> bytes:
    return b"".join([block async for block in storage.read(key, offset)])


async def blocks(count: int, size: int, *, breaks: bool = False) -> AsyncIterator[bytes]:
    for nth in range(count):
        yield bytes([nth % 256]) * size
    if breaks:
        raise Refused("malformed_request", "the caller hung up")


async def test_written_files_are_read_back(storage: Storage) -> None:
    assert await storage.write("files/a", blocks(40, 1 << 19)) == 20 << 20
    whole = await read(storage, "files/a")
    assert whole == b"".join([block async for block in blocks(40, 1 << 19)])
    assert await read(storage, "files/a", 12 << 20) == whole[12 << 20 :]
    assert await storage.write("files/a", single_block(b"next")) == 4
    assert await read(storage, "files/a") == b"next"


async def test_an_interrupted_write_leaves_no_file(storage: Storage) -> None:
    with pytest.raises(Refused, match="hung up"):
        await storage.write("files/b", blocks(30, 1 << 19, breaks=True))
    with pytest.raises(KeyError):
        await read(storage, "files/b")


async def test_removing_a_prefix_removes_everything_below(storage: Storage) -> None:
    for key in ("bulks/x/out/1.jsonl", "bulks/x/out/2.jsonl", "bulks/x/err/1.jsonl", "files/x"):
        await storage.write(key, single_block(b"1"))
    await storage.remove("bulks/x/out")
    await storage.remove("files/x")
    await storage.remove("files/never")
    assert await read(storage, "bulks/x/err/1.jsonl") == b"1"
    for key in ("bulks/x/out/1.jsonl", "bulks/x/out/2.jsonl", "files/x"):
        with pytest.raises(KeyError):
            await read(storage, key)


async def test_an_unreachable_store_is_a_temporary_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**KEYS, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{free_port()}"}.items():
        monkeypatch.setenv(name, value)
    storage = open_storage("s3://night/x")
    with pytest.raises(RetryLater, match="the storage of bulk files") as caught:
        await storage.write("files/a", single_block(b"1"))
    assert (caught.value.code, caught.value.status) == ("storage_unavailable", 503)


@pytest.mark.parametrize("key", ["../a", "a/../../b", "/etc/passwd", "", "a//b", ".", "a\0b", " a"])
async def test_a_key_cannot_escape_the_storage(tmp_path: Path, key: str) -> None:
    (tmp_path / "a").write_bytes(b"secret")
    with pytest.raises(Refused) as caught:
        await ImageStore(LocalStorage(tmp_path / "below")).read(key, 100)
    assert caught.value.code == "image_unavailable"


class TestInS3:
    @pytest.fixture
    def settings(self, s3: Mapping[str, str]) -> Mapping[str, str]:
        return {**s3, "JITNEY_BULK_STORE": "s3://night/jitney"}

    async def test_a_batch_in_an_object_store(self, plant: BulkStack) -> None:
        names = [f"line-{nth}" for nth in range(60)]
        done = await plant.run_all(bulks.start_batch(plant.ai, [*(line(name) for name in names), "broken"]))
        bulks.check_batch(plant.ai, done, names, broken=1)
        again = bulks.create_batch(plant.ai, done.input_file_id)  # the same file
        bulks.check_batch(plant.ai, await plant.run_all(again), names, broken=1)
        for file_id in (done.output_file_id, done.error_file_id):
            plant.ai.files.delete(str(file_id))


async def test_a_full_disk_stops_a_batch_until_there_is_room(plant: BulkStack) -> None:
    """No line is lost, and the batch says why it waits. A process without write space simulates the disk."""
    names = [f"line-{nth}" for nth in range(60)]
    batch = bulks.start_batch(plant.ai, [line(name) for name in names])
    wait_until(lambda: plant.jobs() == 40, "as many wait as may")
    process = plant.background_process.process.pid
    before = resource.prlimit(process, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    await plant.run_exactly(40)

    def stalled() -> str:
        return str(plant.gateway.http.get(f"/v1/batches/{batch.id}").json().get("stalled", ""))

    reason = wait_until(stalled, "it says why it stands still")
    assert reason.startswith("cannot use the storage of bulk files: File too large")
    resource.prlimit(process, resource.RLIMIT_FSIZE, before)
    done = await plant.run_all(batch)
    bulks.check_batch(plant.ai, done, names)
    assert "stalled" not in json.dumps(plant.gateway.http.get(f"/v1/batches/{batch.id}").json())


async def test_a_full_disk_refuses_an_upload(plant: BulkStack) -> None:
    process = plant.gateway.process.pid
    before = resource.prlimit(process, resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
    answer = plant.gateway.http.post(
        "/v1/files", data={"purpose": "batch"}, files={"file": ("lines", bytes(3_000_000))}
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "storage_unavailable")
    assert answer.headers["retry-after"] == "5"
    assert [path for path in plant.folder.rglob("*") if path.is_file()] == []
    resource.prlimit(process, resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("place", ["ftp://host/x", "s3://", "http://bucket"])
def test_an_invalid_storage_setting_is_reported_at_the_start(place: str) -> None:
    with pytest.raises(ValidationError, match="must be a folder, or s3://bucket/prefix"):
        BulkSettings(bulk_store=place)
