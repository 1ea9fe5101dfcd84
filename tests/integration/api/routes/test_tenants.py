"""Usage and limits of tenants over HTTP: exact counts, changes that hold at once, pages by name."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest

from tests.support import invariants, models
from tests.support.api_keys import Caller, callers
from tests.support.gateways import PNG, GatewayProcess, Worker
from tests.support.servers import Server
from tests.support.waiting import wait_until
from tests.support.workers import WorkerProcess

EMPTY = {"jobs": 0, "rows": 0, "input_bytes": 0, "jobs_run": 0, "output_bytes": 0, "device_seconds": 0.0}
NO_LIMITS = {"weight": 1, "requests": 0, "jobs": 0, "bytes": 0, "running": 0}


@pytest.fixture(scope="module")
def queue() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture
async def people(queue: Server, worker: Worker, gateway: GatewayProcess) -> list[Caller]:
    del worker
    return callers(queue, gateway, "acme", "bolt", "admin")


async def test_limits_change_at_once_and_keep_the_others(people: list[Caller], worker: Worker) -> None:
    acme, _, admin = people
    path = "/v1/tenants/acme/limits"
    changed = admin.put(path, json={"jobs": 1, "weight": 3}).json()
    assert changed["limits"] == {**NO_LIMITS, "jobs": 1, "weight": 3}
    assert admin.put(path, json={"weight": None, "bytes": 5000}).json()["own_limits"] == {"jobs": 1, "bytes": 5000}
    assert acme.get("/v1/usage").json()["limits"] == {**NO_LIMITS, "jobs": 1, "bytes": 5000}
    assert [acme.submit(PNG).status_code for _ in range(2)] == [202, 429]
    assert admin.delete(path).json()["limits"] == NO_LIMITS
    assert acme.submit(PNG).status_code == 202
    for body in ({}, {"jobs": -1}, {"jobs": "1"}, {"weight": 0}, {"order": 1}, {"jobs": 1 << 60}):
        assert admin.put(path, json=body).status_code == 422, body
    assert admin.put("/v1/tenants/UPPER/limits", json={"jobs": 1}).status_code == 422
    await worker.succeed(await worker.claim())


async def test_tenants_are_listed_by_name_in_pages(people: list[Caller]) -> None:
    _, _, admin = people
    admin.put("/v1/tenants/zebra/limits", json={"jobs": 5})
    first = admin.get("/v1/tenants?limit=3").json()
    assert ([one["tenant"] for one in first["tenants"]], first["next_cursor"]) == (["acme", "admin", "bolt"], "bolt")
    rest = admin.get("/v1/tenants", params={"cursor": first["next_cursor"]}).json()
    assert ([one["tenant"] for one in rest["tenants"]], rest["next_cursor"]) == (["default", "zebra"], None)
    assert rest["tenants"][1]["own_limits"] == {"jobs": 5}
    assert admin.get("/v1/tenants?cursor=UPPER").status_code == 422
    assert admin.get("/v1/tenants/nobody").json()["usage"] == EMPTY
    admin.delete("/v1/tenants/zebra/limits")


def test_usage_has_the_jobs_bytes_and_device_time_of_a_known_run(tmp_path: Path) -> None:
    models.slow(tmp_path, "double")
    server, row = Server(), np.ones(4, dtype="<f4").tobytes()
    flush = {"JITNEY_METRICS_FLUSH_S": "0.1"}
    with GatewayProcess(server, flush) as gateway, WorkerProcess(server, tmp_path, flush) as worker:
        http = gateway.http
        wait_until(lambda: http.get("/readyz/models/double").status_code == 200, "the model is served", 30)
        outputs = [run(http, row), run(http, row), run(http, row * 3, rows=3)]

        def usage() -> dict[str, Any]:
            found: dict[str, Any] = http.get("/v1/usage").json()["usage"]
            return found

        wait_until(lambda: usage()["jobs_run"] == 3, "the worker has flushed its counts")
        wait_until(lambda: usage()["jobs"] == 3, "the gateway has flushed its counts")
        used = usage()
        assert (used["rows"], used["input_bytes"], used["output_bytes"]) == (5, 80, sum(outputs))
        assert 0.25 <= used["device_seconds"] < 0.5  # 50 ms for each row
        assert worker.stop() == 0
    with server.client() as client:
        invariants.check(client)
    server.close()


def run(http: httpx2.Client, body: bytes, rows: int = 0) -> int:
    """Run a job; return the bytes of its output."""
    headers = {"content-type": "application/octet-stream", "prefer": "wait=20"}
    path = f"/v1/jobs?model=double{f'&rows={rows}' if rows else ''}"
    job = http.post(path, content=body, headers=headers).json()
    assert job["status"] == "succeeded", job
    return len(http.get(f"/v1/jobs/{job['id']}/output").content)
