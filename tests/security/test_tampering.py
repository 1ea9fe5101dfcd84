"""A17: data that an attacker writes into the queue cannot execute code or stop a process."""

import os
import pickle
import struct
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgpack
import pytest
import redis

from jobs.contract.ids import new_job_id
from jobs.contract.job import RECORD_VERSION
from tests.support import models, records
from tests.support.service import Service
from tests.support.waiting import wait_until

ROOT = "jitney:{s00}"
BODY = struct.pack("<4f", 1, 2, 3, 4)


def has_ended(client: "redis.Redis", job_id: str) -> bool:
    return records.read(client, job_id)["state"] not in {"queued", "running"}


class Touch:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self._path),)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    models_dir = tmp_path_factory.mktemp("tampering")
    models.doubling(models_dir)
    with Service(models_dir) as running:
        yield running


@pytest.fixture
def client(service: Service) -> Iterator["redis.Redis"]:
    path = wait_until(lambda: next(iter(service.folder.rglob("*.sock")), None), "the queue's socket")
    with redis.Redis(unix_socket_path=str(path)) as client:
        yield client


def test_a17_junk_in_the_queue_goes_to_the_dead_letters_and_the_worker_lives(
    service: Service, client: "redis.Redis", tmp_path: Path
) -> None:
    pid, trap = service.pid("worker"), tmp_path / "unpickled"
    pickled = pickle.dumps(Touch(trap))
    line = f"{ROOT}:queue:double:1:interactive:default"
    good: dict[str, Any] = {
        "v": RECORD_VERSION, "input_bytes": 16, "deadline_ms": 1 << 50, "created_us": 1, "kind": "raw",
        "model": "double", "version": "1", "lane": "interactive", "tenant": "default",
    }  # fmt: skip
    junk: list[dict[str, Any]] = [
        {"body": pickled, "input_bytes": len(pickled)},
        {"kind": "pickle", "body": pickled, "input_bytes": len(pickled)},
        {"kind": "tensors", "body": pickled, "input_bytes": len(pickled)},
        {"kind": "tensors", "body": b"\xff\xff\xff\x7f", "input_bytes": 4},
        {"facts": msgpack.packb({"parameters": pickled})},
        {"facts": msgpack.packb({"parameters": "[" * 5000})},
        {"facts": msgpack.packb({"metadata": "junk"})},
        {"facts": msgpack.packb([1])},
        {"facts": pickled},
        {"facts": b"\xc1"},
        {"input_bytes": "-1"},
        {"input_bytes": "many"},
        {"state": "queued 1e300 - -"},
        {"state": "queued"},
        {"created_us": "soon"},
        {"v": "0"},
        {"v": "nonsense"},
        {"deadline_ms": "never"},
        {"model": "../../etc"},
        {"version": "\0"},
        {"tenant": "a:b"},
        {"head": "junk"},
        {"head": b"\xff" * 20},
    ]
    ids = [new_job_id(0) for _ in junk]
    for job_id, fields in zip(ids, junk, strict=True):
        head = " ".join(str({**good, **fields}[name]) for name in good)
        record: Any = {"head": head, "state": "queued 0 - - -", "body": BODY}
        record |= {name: value for name, value in fields.items() if name not in good}
        client.hset(f"{ROOT}:job:{job_id}", mapping=record)
        client.zadd(f"{ROOT}:timers", {job_id: 1 << 50})
        client.zadd(line, {job_id: 1})
    for strange in ("", "no job", "x" * 10_000, new_job_id(0)):
        client.zadd(line, {strange: 2})
    client.rpush(f"{ROOT}:tenant_rotation:double:1:interactive", "default")
    client.publish("jitney:invalidation", "junk")
    client.hset(
        "jitney:models",
        mapping={"junk": pickled, "a b": b"{}", "../x 1": b'{"name":"../x","version":"1","seen":9e9,"kinds":[]}'},
    )
    answer = service.submit(BODY, "application/octet-stream", wait=20, model="double")
    assert answer.json()["status"] == "succeeded", f"{answer.text} {service.log()}"
    wait_until(lambda: client.zcard(line) == 0, "the line is empty")
    for job_id in ids:
        wait_until(partial(has_ended, client, job_id), "it ended")
    assert not trap.exists()
    assert service.pid("worker") == pid
    assert service.http.get("/v1/deadletters").status_code == 200
    assert service.http.get("/v1/jobs").status_code == 200
    assert service.http.get("/metrics").status_code == 200
    assert "../x" not in service.http.get("/v1/models").text
    after = service.submit(BODY, "application/octet-stream", wait=20, model="double")
    assert after.json()["output"]["tensors"]["y"]["data"] == [2, 4, 6, 8]


@pytest.mark.parametrize("junk", [b"", b"junk", b"[" * 5000, b'[["00", 1]]', pickle.dumps([1]), b"\xff" * 1000])
def test_a17_junk_notifications_are_survived(service: Service, client: "redis.Redis", junk: bytes) -> None:
    pids = [service.pid(part) for part in ("api", "worker", "background")]
    for channel in client.pubsub_channels("jitney:*"):
        client.publish(channel, junk)
    answer = service.submit(BODY, "application/octet-stream", wait=20, model="double")
    assert answer.json()["status"] == "succeeded", f"{answer.text} {service.log()}"
    assert [service.pid(part) for part in ("api", "worker", "background")] == pids
