"""`POST /v1/jobs/query`: many jobs are read, or waited for, in one request."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import httpx2
import pytest

from jobs.contract.job import Outcome
from jobs.contract.lifecycle import State
from tests.support import records
from tests.support.api_keys import callers
from tests.support.gateways import GatewayProcess, Worker
from tests.support.servers import Server
from tests.support.waiting import wait_until

UNKNOWN = "00" + "0" * 32


def submit(gateway: GatewayProcess, count: int) -> list[str]:
    return [gateway.submit().json()["id"] for _ in range(count)]


def query(client: httpx2.Client, ids: Any, **fields: Any) -> httpx2.Response:
    return client.post("/v1/jobs/query", json={"ids": ids, **fields})


def states(answer: httpx2.Response) -> list[str]:
    """The state of each job, or the code of the entry."""
    assert answer.status_code == 200, answer.text
    return [one["error"]["code"] if "id" not in one else one["status"] for one in answer.json()["jobs"]]


async def test_jobs_are_answered_in_the_order_of_their_ids(gateway: GatewayProcess, worker: Worker) -> None:
    first, second = submit(gateway, 2)
    await worker.succeed(await worker.claim(1))
    answer = query(gateway.http, [second, UNKNOWN, first, "x" * 500, "99" + "0" * 32, second])
    missing = "job_not_found"
    assert states(answer) == ["queued", missing, "succeeded", missing, missing, "queued"]
    assert answer.headers["retry-after"] == "1"
    entries = answer.json()["jobs"]
    assert entries[2] == gateway.http.get(f"/v1/jobs/{first}").json()
    alone = gateway.http.get(f"/v1/jobs/{UNKNOWN}").json()
    assert entries[1] == {"error": {"code": missing, "message": alone["detail"], "status": 404}}
    assert len(entries[3]["error"]["message"]) < 200
    assert "retry-after" not in query(gateway.http, [first, UNKNOWN], wait=20).headers


async def test_a_wait_ends_with_the_last_job_or_with_as_many_as_were_asked_for(
    gateway: GatewayProcess, worker: Worker, queue: Server
) -> None:
    ids = submit(gateway, 5)
    with ThreadPoolExecutor() as pool, queue.client() as client:
        every = pool.submit(query, gateway.http, ids, wait=20)
        two = pool.submit(query, gateway.http, [*ids, ids[0]], wait=20, min_final=2)
        for job_id in ids:
            wait_until(lambda each=job_id: "watchers" in records.read(client, each), "it is awaited")  # type: ignore[misc]
        claimed = await worker.claim(5)
        await worker.succeed(claimed[:1])
        with pytest.raises(TimeoutError):
            two.result(timeout=0.2)
        await worker.fail(claimed[1:2])
        assert states(two.result(10)) == ["succeeded", "failed", "running", "running", "running", "succeeded"]
        await worker.succeed(claimed[2:4])
        with pytest.raises(TimeoutError):
            every.result(timeout=0.2)
        gateway.http.delete(f"/v1/jobs/{ids[4]}")
        assert states(every.result(10)) == ["succeeded", "failed", "succeeded", "succeeded", "canceled"]
    # What is final already counts, and so does an id that no job has.
    assert states(query(gateway.http, ids, wait=20))[0] == "succeeded"
    last = submit(gateway, 1)
    assert states(query(gateway.http, [*last, ids[0]], wait=20, min_final=1)) == ["queued", "succeeded"]
    assert states(query(gateway.http, [*last, UNKNOWN], wait=20, min_final=1)) == ["queued", "job_not_found"]


async def test_a_wait_that_is_over_answers_the_jobs_as_they_are(gateway: GatewayProcess, worker: Worker) -> None:
    ids = submit(gateway, 2)
    with ThreadPoolExecutor() as pool:
        waits = pool.submit(query, gateway.http, ids, wait=1)
        await worker.claim(1)
        assert states(waits.result(10)) == ["running", "queued"]


async def test_more_jobs_than_a_script_reads(gateway: GatewayProcess, worker: Worker) -> None:
    line = b'{"model":"m","input":{"image":"iVBORw0KGgo="}}'
    headers = {"content-type": "application/x-ndjson"}
    sent = gateway.http.post("/v1/jobs", content=b"\n".join([line] * 350), headers=headers).json()["jobs"]
    ids = [job["id"] for job in sent]
    with ThreadPoolExecutor() as pool:
        waits = pool.submit(query, gateway.http, ids, wait=20)
        while claimed := await worker.claim(100):
            await worker.succeed(claimed)
        answer = waits.result(20)
    assert states(answer) == ["succeeded"] * 350
    assert [job["id"] for job in answer.json()["jobs"]] == ids


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, "invalid_request"),
        ({"ids": []}, "invalid_request"),
        ({"ids": UNKNOWN}, "invalid_request"),
        ({"ids": [17]}, "invalid_request"),
        ({"ids": [UNKNOWN], "wait": -1}, "invalid_request"),
        ({"ids": [UNKNOWN], "wait": True}, "invalid_request"),
        ({"ids": [UNKNOWN], "wait": "5"}, "invalid_request"),
        ({"ids": [UNKNOWN], "min_final": 0}, "invalid_request"),
        ({"ids": [UNKNOWN], "until": "any"}, "invalid_request"),
        ([UNKNOWN], "invalid_request"),
        ({"ids": [UNKNOWN] * 1001}, "too_many_jobs"),
        ({"ids": ["x" * 70_000]}, "body_too_large"),
    ],
)
def test_a_query_that_is_wrong_is_refused(gateway: GatewayProcess, body: Any, code: str) -> None:
    content = json.dumps(body).encode()
    answer = gateway.http.post("/v1/jobs/query", content=content, headers={"content-type": "application/json"})
    assert answer.json()["code"] == code, answer.text
    form = gateway.http.post("/v1/jobs/query", content=content, headers={"content-type": "text/plain"})
    assert form.json()["code"] == "unsupported_media_type"


async def test_large_outputs_are_included_up_to_a_limit(gateway: GatewayProcess, worker: Worker) -> None:
    ids = submit(gateway, 3)
    body = b'{"text":"%s"}' % (b"x" * (12 << 20))
    for job in await worker.claim(3):
        await worker.store.finish("w1", [Outcome(job.id, job.attempt, State.SUCCEEDED, body)])
    entries = query(gateway.http, ids, wait=5).json()["jobs"]
    assert [job["output"] is None for job in entries] == [False, False, True]
    assert entries[2]["output_url"] == f"/v1/jobs/{ids[2]}"


@pytest.fixture(scope="module")
def small(queue: Server) -> Iterator[GatewayProcess]:
    with GatewayProcess(queue, {"JITNEY_MAX_JOBS_PER_REQUEST": "20", "JITNEY_MAX_WAITERS": "30"}) as process:
        yield process


async def test_waits_are_counted_and_foreign_ids_are_unknown(
    small: GatewayProcess, worker: Worker, queue: Server
) -> None:
    await worker.announce(small)
    acme, bolt = callers(queue, small, "acme", "bolt")
    ids = [acme.submit(b"\x89PNG\r\n\x1a\n").json()["id"] for _ in range(20)]
    for fields in ({}, {"wait": 5}):  # the same answer as for unknown ids, at once
        foreign, unknown = (query(bolt, [one], **fields).text.replace(one, "ID") for one in (ids[0], UNKNOWN))
        assert foreign == unknown
        assert "job_not_found" in foreign
    with ExitStack() as stack, ThreadPoolExecutor() as pool:
        waits = pool.submit(query, acme, ids, wait=20)
        client = stack.enter_context(queue.client())
        for job_id in ids:
            wait_until(lambda each=job_id: "watchers" in records.read(client, each), "it is awaited")  # type: ignore[misc]
        refused = query(acme, ids[:10], wait=20)
        assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
        assert "20 awaited jobs of this tenant" in refused.json()["detail"]
        assert states(query(acme, ids[:10])) == ["queued"] * 10
        claimed = await worker.claim(20)
        await worker.succeed(claimed)
        assert states(waits.result(10)) == ["succeeded"] * 20
    assert query(acme, [*ids, UNKNOWN]).json()["limit"] == 20
