"""Job lists over HTTP have no outputs and are paged; responses about many jobs are bounded in size.

The row: `GET /v1/jobs?limit=100` over 50 results of 10 MB was one answer, built in one read.
"""

import json

import pytest

from jobs.contract.job import Outcome
from jobs.contract.lifecycle import State
from tests.support.gateways import PNG, GatewayProcess, Worker

pytestmark = pytest.mark.anyio

LARGE = b'"%s"' % (b"x" * (17 << 20))
IMAGE = {"content-type": "image/png"}


async def finish(worker: Worker, count: int, body: bytes) -> None:
    claimed = await worker.claim(count)
    assert len(claimed) == count
    await worker.store.finish("w1", [Outcome(job.id, job.attempt, State.SUCCEEDED, body) for job in claimed])


async def test_a_listed_job_has_everything_but_its_output(gateway: GatewayProcess, worker: Worker) -> None:
    http = gateway.http
    job = http.post("/v1/jobs?model=m", content=PNG, headers=IMAGE).json()["id"]
    await finish(worker, 1, b'{"y":"tell-tale"}')
    read = http.get(f"/v1/jobs/{job}").json()
    (listed,) = http.get("/v1/jobs").json()["jobs"]
    assert read.pop("output") == {"y": "tell-tale"}
    assert listed == read
    described = http.get("/openapi.json").json()["components"]["schemas"]
    assert "output" not in described["ListedJob"]["properties"]
    assert set(listed) == set(described["ListedJob"]["properties"])


async def test_pages_of_expired_results_are_short_and_continue(gateway: GatewayProcess, worker: Worker) -> None:
    http = gateway.http
    oldest = http.post("/v1/jobs?model=m", content=PNG, headers=IMAGE).json()["id"]
    with gateway.server.client() as client:
        client.zadd("jitney:{s00}:tenant_jobs:default", {f"00{nth:032x}": (1 << 51) + nth for nth in range(1100)})
    found, cursor, pages = [], "", 0
    while cursor is not None:
        answer = http.get("/v1/jobs", params={"limit": 1, "cursor": cursor}).json()
        found += [job["id"] for job in answer["jobs"]]
        cursor, pages = answer["next_cursor"], pages + 1
    assert (found, pages <= 4) == ([oldest], True)
    await finish(worker, 1, b"{}")


async def test_a_response_about_many_jobs_omits_outputs_beyond_its_bound(
    gateway: GatewayProcess, worker: Worker
) -> None:
    http = gateway.http
    line = json.dumps({"model": "m", "input": {"image": "iVBORw0KGgo="}}).encode()
    keyed = {"content-type": "application/x-ndjson", "idempotency-key": "k", "prefer": "wait=30"}
    sent = {**keyed, "prefer": "wait=0"}
    assert http.post("/v1/jobs", content=b"\n".join([line] * 3), headers=sent).status_code == 202
    await finish(worker, 2, LARGE)
    await finish(worker, 1, b'"small"')
    answer = http.post("/v1/jobs", content=b"\n".join([line] * 3), headers=keyed)
    first, second, third = answer.json()["jobs"]
    assert (answer.status_code, {job["status"] for job in (first, second, third)}) == (200, {"succeeded"})
    assert (len(first["output"]), third["output"]) == (17 << 20, "small")
    assert (second["output"], second["output_url"]) == (None, f"/v1/jobs/{second['id']}")
    assert len(http.get(second["output_url"]).json()["output"]) == 17 << 20
    assert "output_url" not in first


async def test_a_large_output_is_waited_for_as_a_small_one_is(gateway: GatewayProcess, worker: Worker) -> None:
    body = b'{"y":"%s"}' % (b"x" * 100_000)
    http = gateway.http
    job = http.post("/v1/jobs?model=m", content=PNG, headers=IMAGE).json()["id"]
    await finish(worker, 1, body)
    for path in (f"/v1/jobs/{job}", f"/v1/jobs/{job}?wait=5"):
        assert len(http.get(path).json()["output"]["y"]) == 100_000
    events = http.get(f"/v1/jobs/{job}/events").text
    assert "x" * 100_000 in events
