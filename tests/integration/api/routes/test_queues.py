"""Queues and workers over HTTP: pause, resume and purge, with running workers and with one that starts later."""

import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest

from tests.support import invariants, models
from tests.support.api_keys import callers
from tests.support.gateways import GatewayProcess
from tests.support.servers import Server
from tests.support.waiting import wait_until
from tests.support.workers import WorkerProcess

ONES = np.ones(4, dtype="<f4").tobytes()
RAW = {"content-type": "application/octet-stream"}
QUICK = {"JITNEY_HEARTBEAT_S": "0.2"}


@pytest.fixture(scope="module")
def queue() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture(scope="module")
def gateway(queue: Server) -> Iterator[GatewayProcess]:
    with GatewayProcess(queue) as process:
        yield process


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    models.doubling(folder)
    return folder


@pytest.fixture(scope="module")
def running_worker(queue: Server, gateway: GatewayProcess, models_dir: Path) -> Iterator[WorkerProcess]:
    with WorkerProcess(queue, models_dir, QUICK) as process:
        wait_until(lambda: gateway.http.get("/readyz/models/double").status_code == 200, "the model is served", 30)
        yield process


@pytest.fixture
def http(queue: Server, gateway: GatewayProcess, running_worker: WorkerProcess) -> Iterator[httpx2.Client]:
    """Call the gateway; afterwards nothing is paused, and the data is checked."""
    del running_worker
    yield gateway.http
    gateway.http.post("/v1/queues/double/resume")
    for worker in gateway.http.get("/v1/workers").json()["workers"]:
        gateway.http.post(f"/v1/workers/{worker['id']}/resume")
    with queue.client() as client:
        wait_until(lambda: client.hlen("jitney:pauses") == 0, "nothing is paused")
        invariants.check(client)


def submit(http: httpx2.Client, lane: str = "interactive", key: str = "") -> httpx2.Response:
    headers = {**RAW, **({"idempotency-key": key} if key else {})}
    return http.post(f"/v1/jobs?model=double&lane={lane}", content=ONES, headers=headers)


def status_of(http: httpx2.Client, job_id: str, wait_s: int = 0) -> str:
    return str(http.get(f"/v1/jobs/{job_id}?wait={wait_s}").json()["status"])


def queue_of(http: httpx2.Client, lane: str) -> dict[str, Any]:
    (found,) = [one for one in http.get("/v1/queues").json()["queues"] if one["lane"] == lane]
    return dict(found)


def pause(http: httpx2.Client, worker: WorkerProcess, **fields: str) -> None:
    """Pause the queue, and wait until the worker has heard of it."""
    before = len(re.findall("paused:", worker.log()))
    assert http.post("/v1/queues/double/pause", json=fields).status_code == 200
    wait_until(lambda: len(re.findall("paused:", worker.log())) > before, "the worker knows of the pause")


def test_a_paused_model_runs_nothing_until_it_is_resumed(http: httpx2.Client, running_worker: WorkerProcess) -> None:
    """The worker's free slots are withdrawn: a submit hands nothing over to it."""
    assert status_of(http, submit(http).json()["id"], 10) == "succeeded"
    pause(http, running_worker)
    ids = [submit(http, lane).json()["id"] for lane in ("interactive", "bulk", "interactive")]
    assert [status_of(http, job_id, wait_s=int(nth == 0)) for nth, job_id in enumerate(ids)] == ["queued"] * 3
    shown = queue_of(http, "interactive")
    assert (shown["waiting"], shown["running"], shown["paused"]["submits"]) == (2, 0, "accept")
    assert shown["oldest_seconds"] > 0
    (model,) = http.get("/v1/queues").json()["models"]
    assert (model["open_rows"], model["waiting_rows"], model["open_bytes"]) == (3, 3, 48)
    ready = http.get("/readyz")
    assert (ready.status_code, ready.json()["paused"]) == (200, ["double bulk", "double interactive"])
    (version,) = http.get("/v1/models").json()["models"]
    assert version["paused"] == ["interactive", "bulk"]
    metrics = http.get("/metrics").text
    assert 'jitney_queue_paused{lane="bulk",model="double",submits="accept"} 1.0' in metrics
    http.post("/v1/queues/double/resume", json={"lane": "bulk"})
    assert status_of(http, ids[1], 10) == "succeeded"
    assert status_of(http, ids[0], 1) == "queued"
    http.post("/v1/queues/double/resume")
    assert {status_of(http, job_id, 10) for job_id in ids} == {"succeeded"}
    assert "paused" not in http.get("/readyz").json()


@pytest.mark.parametrize("paused", ["interactive", "bulk"])
def test_the_other_lane_of_a_model_goes_on(http: httpx2.Client, running_worker: WorkerProcess, paused: str) -> None:
    other = "bulk" if paused == "interactive" else "interactive"
    pause(http, running_worker, lane=paused)
    held, free = (submit(http, lane).json()["id"] for lane in (paused, other))
    assert status_of(http, free, 10) == "succeeded"
    assert status_of(http, held, 1) == "queued"
    assert (queue_of(http, paused)["paused"] is None, queue_of(http, other)["paused"]) == (False, None)
    http.post("/v1/queues/double/resume")
    assert status_of(http, held, 10) == "succeeded"


def test_a_pause_may_refuse_new_jobs(http: httpx2.Client, running_worker: WorkerProcess) -> None:
    first = submit(http, key="k").json()["id"]
    pause(http, running_worker, lane="interactive", submits="refuse")
    refused = submit(http)
    assert (refused.status_code, refused.json()["code"], refused.headers["retry-after"]) == (503, "queue_paused", "30")
    assert submit(http, key="new").json()["code"] == "queue_paused"
    again = submit(http, key="k")
    assert (again.status_code, again.json()["id"]) == (202, first)
    many = [
        {"model": "double", "lane": lane, "input": {"bytes": "AACAPwAAgD8AAIA/AACAPw=="}}
        for lane in ("interactive", "bulk")
    ]
    refusal, accepted = http.post("/v1/jobs", json=many).json()["jobs"]
    assert refusal["error"]["code"] == "queue_paused"
    assert status_of(http, accepted["id"], 10) == "succeeded"
    http.post("/v1/queues/double/resume")
    assert submit(http).status_code == 202


def test_a_worker_that_starts_later_and_a_restart_of_redis_keep_the_pause(tmp_path: Path) -> None:
    models.doubling(tmp_path)
    server = Server()
    with GatewayProcess(server) as gateway, WorkerProcess(server, tmp_path, QUICK) as first:
        http = gateway.http
        wait_until(lambda: http.get("/readyz/models/double").status_code == 200, "the model is served", 30)
        pause(http, first)
        job_id = submit(http).json()["id"]
        assert first.stop() == 0
        server.kill()
        server.start()
        with WorkerProcess(server, tmp_path, QUICK) as second:
            second.until("serves double")
            wait_until(lambda: http.get("/readyz").json()["status"] == "ready", "the gateway is back")
            assert queue_of(http, "interactive")["paused"] is not None
            assert status_of(http, job_id, 1) == "queued"
            http.post("/v1/queues/double/resume")
            assert status_of(http, job_id, 10) == "succeeded"
    server.close()


def test_a_paused_worker_serves_nothing_new_and_stays_alive(http: httpx2.Client, running_worker: WorkerProcess) -> None:
    (shown,) = http.get("/v1/workers").json()["workers"]
    assert (shown["status"], shown["paused"], [one["name"] for one in shown["models"]]) == ("serving", None, ["double"])
    assert shown["memory_bytes"] > 1 << 20
    assert 0 <= shown["heartbeat_age_seconds"] < 10
    path = f"/v1/workers/{shown['id']}"
    assert http.post(f"{path}/pause").json()["status"] in {"pausing", "paused"}

    def status() -> str:
        return str(http.get("/v1/workers").json()["workers"][0]["status"])

    wait_until(lambda: status() == "paused", "the worker has paused")
    job_id = submit(http).json()["id"]
    assert status_of(http, job_id, 1) == "queued"
    assert http.get("/v1/workers").json()["workers"][0]["heartbeat_age_seconds"] < 10
    assert http.get("/readyz/models/double").status_code == 200
    assert http.post(f"{path}/resume").json()["paused"] is None
    assert status_of(http, job_id, 10) == "succeeded"
    wait_until(lambda: status() == "serving", "the worker serves again")
    missing = http.post("/v1/workers/nobody/pause")
    assert (missing.status_code, missing.json()["code"]) == (404, "worker_not_found")
    del running_worker


def test_a_purge_needs_the_name_and_cancels_what_waits(
    http: httpx2.Client, running_worker: WorkerProcess, gateway: GatewayProcess
) -> None:
    pause(http, running_worker)
    ids = [submit(http, lane).json()["id"] for lane in ["interactive"] * 30 + ["bulk"] * 20]
    for body in ({}, {"confirm": "dooble"}, {"confirm": "double", "lane": "fast"}, {"confirm": "double", "order": "1"}):
        assert http.post("/v1/queues/double/purge", json=body).status_code == 422, body
    purged = http.post("/v1/queues/double/purge", json={"confirm": "double", "lane": "bulk"}).json()
    assert purged == {"canceled": 20, "more": False, "next_cursor": None}
    assert http.post("/v1/queues/double/purge", json={"confirm": "double", "version": "2"}).json()["canceled"] == 0
    assert http.post("/v1/queues/double/purge", json={"confirm": "double"}).json()["canceled"] == 30
    assert {status_of(http, job_id) for job_id in ids} == {"canceled"}
    assert "30 jobs canceled" in gateway.log()
    assert http.post("/v1/queues/nobody/purge", json={"confirm": "nobody"}).json()["code"] == "model_not_found"


def test_purges_and_cancellations_under_load_end_each_job_once(
    http: httpx2.Client, queue: Server, running_worker: WorkerProcess
) -> None:
    del running_worker
    line = b'{"model": "double", "input": {"bytes": "AACAPwAAgD8AAIA/AACAPw=="}, "lane": "%s"}'
    ended, done = dict[str, int](), threading.Event()
    before = finished(http)

    def load(nth: int) -> list[str]:
        lanes = (b"interactive", b"bulk")
        body = b"\n".join(line % lanes[(nth + k) % 2] for k in range(60))
        answer = http.post("/v1/jobs", content=body, headers={"content-type": "application/x-ndjson"})
        return [job["id"] for job in answer.json()["jobs"]]

    def cancel() -> None:
        while not done.is_set():
            http.post("/v1/queues/double/purge", json={"confirm": "double"}).raise_for_status()
            http.post("/v1/jobs/cancel", json={"model": "double", "lane": "bulk"}).raise_for_status()

    with ThreadPoolExecutor(5) as pool:
        canceling = pool.submit(cancel)
        ids = [job_id for part in pool.map(load, range(25)) for job_id in part]
        wait_until(lambda: sum(finished(http).values()) - sum(before.values()) == len(ids), "all jobs have ended", 60)
        done.set()
        canceling.result()
    for job_id in ids:
        status = status_of(http, job_id)
        ended[status] = ended.get(status, 0) + 1
    after = finished(http)
    assert ended == {name: count - before.get(name, 0) for name, count in after.items() if count > before.get(name, 0)}
    assert set(ended) <= {"succeeded", "canceled"}
    with queue.client() as client:
        assert client.zcard("jitney:{s00}:timers") == 0


def finished(http: httpx2.Client) -> dict[str, int]:
    """The jobs of the model that have ended, by outcome."""
    found = re.findall(
        r'jitney_jobs_finished_total\{model="double",outcome="(\w+)"\} ([\d.]+)', http.get("/metrics").text
    )
    return {outcome: int(float(count)) for outcome, count in found}


ADMIN_CALLS = [
    ("GET", "/v1/queues"),
    ("POST", "/v1/queues/double/pause"),
    ("POST", "/v1/queues/double/resume"),
    ("POST", "/v1/queues/double/purge"),
    ("GET", "/v1/workers"),
    ("POST", "/v1/workers/w1/pause"),
    ("POST", "/v1/workers/w1/resume"),
    ("GET", "/v1/tenants"),
    ("GET", "/v1/tenants/acme"),
    ("PUT", "/v1/tenants/acme/limits"),
    ("DELETE", "/v1/tenants/acme/limits"),
]


def test_only_admins_see_and_change_queues_workers_and_tenants() -> None:
    server = Server()
    with GatewayProcess(server) as gateway:
        acme, admin = callers(server, gateway, "acme", "admin")
        for method, path in ADMIN_CALLS:
            assert acme.request(method, path).json()["code"] == "forbidden", path
            assert admin.request(method, path).status_code != 403, path
        assert acme.get("/v1/usage").status_code == 200
    server.close()
