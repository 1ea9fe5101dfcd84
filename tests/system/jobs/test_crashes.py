"""Kill -9 at the worst moment: no acknowledged job is lost, and none ends twice."""

import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis

from jobs.metrics import event_counters
from jobs.redis_client import keys
from tests.support import invariants, models, records
from tests.support.service import Service
from tests.support.waiting import wait_until

BODY = struct.pack("<4f", 1, 2, 3, 4)
LINE = b'{"model":"slow","input":{"tensors":{"x":{"datatype":"FP32","shape":[4],"data":[1,2,3,4]}}}}\n'
DOUBLED = [2.0, 4.0, 6.0, 8.0]


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[Service]:
    models.slow(tmp_path / "models")
    with Service(tmp_path / "models") as service:
        yield service


def submit(service: Service, count: int) -> list[str]:
    """Submit jobs in one request, which takes less time than a batch of them."""
    answer = service.submit(LINE * count, "application/x-ndjson")
    assert answer.status_code == 202
    return [job["id"] for job in answer.json()["jobs"]]


def queue(service: Service) -> "redis.Redis":
    return redis.Redis(unix_socket_path=str(service_socket(service)))


def service_socket(service: Service) -> Path:
    return wait_until(lambda: next(iter(service.folder.rglob("*.sock")), None), "the queue's socket")


def totals(client: Any, model: str) -> tuple[int, int]:
    """How many jobs of a model were submitted, and how many succeeded."""
    found = event_counters.sum_shard_counts(client.hgetall(keys.counts(0)), client.hgetall(keys.open_totals(0)))
    return found[f"submitted:{model}"], found[f"finished:{model}:succeeded"]


def assert_all_done_once(service: Service, ids: list[str]) -> None:
    jobs = [service.final(job_id) for job_id in ids]
    assert {job["status"] for job in jobs} == {"succeeded"}, service.log()
    assert [job["output"]["tensors"]["y"]["data"] for job in jobs] == [DOUBLED] * len(ids)
    with queue(service) as client:
        assert totals(client, "slow") == (len(ids), len(ids))
        invariants.check(client)


def test_jobs_of_a_killed_worker_finish_each_once(slow: Service) -> None:
    ids = submit(slow, 24)
    wait_until(lambda: slow.http.get(f"/v1/jobs/{ids[8]}").json()["status"] == "running", "a full batch runs")
    slow.kill("worker")
    assert_all_done_once(slow, ids)
    assert max(slow.final(job_id)["attempts"] for job_id in ids) == 2


def test_acknowledged_jobs_survive_a_kill_of_the_queue(slow: Service) -> None:
    ids = submit(slow, 24)
    with queue(slow) as client:  # while a slow disk syncs, the server delays writes of its file for up to 2 s
        wait_until(lambda: client.info("persistence")["aof_buffer_length"] == 0, "the file has all writes")
    slow.kill("server")
    wait_until(slow.serves, "the model is served again", 20)
    assert_all_done_once(slow, ids)


def test_callers_get_503_soon_while_the_queue_is_away(tmp_path: Path) -> None:
    models.doubling(tmp_path / "models")
    with Service(tmp_path / "models", {"JITNEY_REDIS_URL": "unix:///nowhere/jitney.sock"}, ready=False) as service:
        answer = service.submit(BODY, "application/octet-stream", model="double")
        assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable")
        read = service.http.get("/v1/jobs/00" + "0" * 32)
        assert (read.status_code, read.json()["code"]) == (503, "store_unavailable")
        assert read.elapsed.total_seconds() < 5
        assert int(read.headers["retry-after"]) >= 1
        assert service.http.get("/healthz").status_code == 200
        assert service.http.get("/readyz").json()["status"] == "unready"


def test_queued_jobs_survive_a_restart(slow: Service) -> None:
    ids = submit(slow, 40)
    assert slow.stop() == 0
    assert slow.pid("worker") == slow.pid("api") == slow.pid("server") == 0
    slow.start()
    assert_all_done_once(slow, ids)


def test_a_waiting_caller_is_answered_on_shutdown(slow: Service) -> None:
    (*_, last) = submit(slow, 200)
    with ThreadPoolExecutor(1) as caller, queue(slow) as client:
        waiting = caller.submit(slow.http.get, f"/v1/jobs/{last}", params={"wait": 30})
        wait_until(lambda: "watchers" in records.read(client, last), "the caller waits")
        slow.process.terminate()
        answer = waiting.result(timeout=10)
    assert (answer.status_code, answer.json()["status"]) == (200, "queued")
