"""Many jobs in one request: each gets the response that it would get alone."""

import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest

from tests.integration.api.gateway.test_memory_watermark import Ballast
from tests.support.gateways import PNG, GatewayProcess, Worker
from tests.support.servers import Server
from tests.support.waiting import wait_until, wait_until_async

NDJSON = "application/x-ndjson"
JSON = "application/json"
PATH = "/v1/jobs?model=m"


def job(first: float = 1.0, **fields: Any) -> dict[str, Any]:
    """Describe a job of four numbers."""
    x = {"datatype": "FP32", "shape": [4], "data": [first, 2, 3, 4]}
    return {"input": {"tensors": {"x": x}}, **fields}


def lines(*jobs: Any) -> bytes:
    return "\n".join(one if isinstance(one, str) else json.dumps(one) for one in jobs).encode()


def post(gateway: GatewayProcess, body: bytes, kind: str = NDJSON, path: str = PATH, **headers: str) -> httpx2.Response:
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return gateway.http.post(path, content=body, headers={"content-type": kind, **headers})


def codes(answer: httpx2.Response) -> list[str]:
    """Return the refusal code or the state of each entry."""
    return [one["error"]["code"] if one.get("error") else one["status"] for one in answer.json()["jobs"]]


def ids(answer: httpx2.Response) -> list[str]:
    return [one["id"] for one in answer.json()["jobs"] if "id" in one]


@pytest.mark.parametrize("kind", [NDJSON, JSON])
async def test_each_job_is_answered_as_it_would_be_alone(gateway: GatewayProcess, worker: Worker, kind: str) -> None:
    jobs = [job(0.0, metadata={"order": "17"}), job(1.0, model="m", lane="bulk"), job(2.0, deadline_ms=5000)]
    answer = post(gateway, lines(*jobs) if kind == NDJSON else json.dumps(jobs).encode(), kind)
    assert (answer.status_code, answer.headers["retry-after"]) == (202, "1")
    assert "location" not in answer.headers
    taken = answer.json()["jobs"]
    alone = post(gateway, json.dumps(job(model="m")).encode(), JSON, "/v1/jobs").json()
    assert [one.keys() for one in taken] == [alone.keys()] * 3
    assert [one["lane"] for one in taken] == ["interactive", "bulk", "interactive"]
    assert taken[0]["metadata"] == {"order": "17"}
    claimed = await worker.claim()
    assert {one.id for one in claimed} == {*ids(answer), alone["id"]}
    assert [one.id for one in claimed if one.id in (ids(answer)[0], ids(answer)[2])] == [*ids(answer)[::2]]  # in order
    await worker.succeed(claimed)
    assert gateway.http.get(taken[2]["urls"]["self"]).json()["status"] == "succeeded"


async def test_query_parameters_are_the_defaults_of_each_job(gateway: GatewayProcess, worker: Worker) -> None:
    await worker.announce(gateway, name="other")
    body = lines(job(), job(model="m"), job(lane="interactive"), job(model=""))
    answer = post(gateway, body, path="/v1/jobs?model=other&lane=bulk")
    seen = [(one["model"], one["lane"]) for one in answer.json()["jobs"]]
    assert seen == [("other", "bulk"), ("m", "bulk"), ("other", "interactive"), ("other", "bulk")]
    for path in ("/v1/jobs?lane=fast", "/v1/jobs?metadata={}"):
        assert (post(gateway, body, path=path).status_code, "jobs" in post(gateway, body, path=path).json()) == (
            422,
            False,
        )


async def test_a_bad_line_does_not_fail_its_neighbours(gateway: GatewayProcess, worker: Worker) -> None:
    # An earlier test had one model more.
    wait_until(lambda: post(gateway, lines(job(model="none"))).json()["allowed"] == ["m"], "only m is known")
    broken = (job(), "", "{broken", "  ", [1], job(model="none"), job(color="red"), job(deadline_ms=0))
    unusable_reason = {"input": {"tensors": {"x": {"datatype": "FP32", "shape": [4], "data": [1]}}}}
    answer = post(gateway, lines(*broken, unusable_reason, job(2.0), "\r"))
    assert answer.status_code == 202
    refused = ["malformed_request", "invalid_request", "model_not_found", "invalid_request", "invalid_request"]
    assert codes(answer) == ["queued", *refused, "invalid_input", "queued"]
    errors = [one["error"] for one in answer.json()["jobs"] if "id" not in one]
    assert [error["status"] for error in errors] == [400, 422, 404, 422, 422, 422]
    assert errors[0]["message"].startswith("line 3 is not valid JSON: ")
    assert errors[1]["message"] == "line 5 must be a JSON object"
    assert errors[2]["allowed"] == ["m"]
    assert [one.id for one in await worker.claim()] == ids(answer)


async def test_the_first_refusal_is_the_response_where_no_job_was_accepted(
    gateway: GatewayProcess, worker: Worker
) -> None:
    del worker
    answer = post(gateway, lines("{", job(model="none")), prefer="wait=5")
    assert (answer.status_code, answer.headers["content-type"]) == (400, "application/problem+json")
    body = answer.json()
    assert (body["code"], codes(answer)) == ("malformed_request", ["malformed_request", "model_not_found"])


@pytest.mark.parametrize(
    ("kind", "body", "code"),
    [
        (NDJSON, b"", "invalid_request"),
        (NDJSON, b"\n \r\n", "invalid_request"),
        (JSON, b"[]", "invalid_request"),
        (JSON, b" [1", "malformed_request"),
        (NDJSON, b"\n" * 9000, "too_many_jobs"),
    ],
)
async def test_a_request_without_a_job_says_so(
    gateway: GatewayProcess, worker: Worker, kind: str, body: bytes, code: str
) -> None:
    del worker
    answer = post(gateway, body, kind)
    assert (answer.json()["code"], answer.headers["content-type"]) == (code, "application/problem+json")
    assert "jobs" not in answer.json()


async def test_a_thousand_jobs_are_ten_scripts_and_more_are_refused(
    queue: Server, gateway: GatewayProcess, worker: Worker
) -> None:
    with queue.client() as client:
        client.config_resetstat()
        answer = post(gateway, lines(*(job(float(nth)) for nth in range(1000))))
        seen = client.info("commandstats")
    assert (answer.status_code, set(codes(answer)), len(set(ids(answer)))) == (202, {"queued"}, 1000)
    assert seen["cmdstat_hset"]["calls"] < 1020
    assert seen["cmdstat_zadd"]["calls"] < 40  # in each script one for each key that its jobs share
    claimed = [one for _ in range(10) for one in await worker.claim(100)]
    assert [one.id for one in claimed] == ids(answer)
    counts = await worker.store.counts()
    assert counts["submitted:m"] == 1000
    for body, kind in ((lines(*[job()] * 1001), NDJSON), (json.dumps([job()] * 1001).encode(), JSON)):
        answer = post(gateway, body, kind)
        assert (answer.status_code, answer.json()["code"], answer.json()["limit"]) == (413, "too_many_jobs", 1000)
    assert await worker.store.counts() == counts


@pytest.fixture(scope="module")
def narrow(queue: Server) -> Iterator[GatewayProcess]:
    env = {
        "JITNEY_MAX_JOBS": "10",
        "JITNEY_MAX_JOBS_PER_REQUEST": "20",
        "JITNEY_MAX_BODY_BYTES": "9000",
        "JITNEY_MAX_BUFFERED_BODY_BYTES": "9000",
    }
    with GatewayProcess(queue, env) as process:
        yield process


async def test_jobs_that_still_fit_into_the_queue_are_accepted(narrow: GatewayProcess, worker: Worker) -> None:
    await worker.announce(narrow)
    answer = post(narrow, lines(*[job(lane="bulk")] * 10, *[job()] * 2))
    assert (answer.status_code, codes(answer)) == (202, [*["queued"] * 9, "queue_full", "queued", "queue_full"])
    error = answer.json()["jobs"][-1]["error"]
    assert (error["status"], error["limit_jobs"], error["retry_after_s"] > 0) == (503, 10, True)
    answer = post(narrow, lines(job(), job()))
    assert (answer.status_code, codes(answer)) == (503, ["queue_full"] * 2)
    assert int(answer.headers["retry-after"]) > 0
    assert len(await worker.claim()) == 10


async def test_the_limits_of_a_request_are_named(narrow: GatewayProcess, worker: Worker) -> None:
    await worker.announce(narrow)
    answer = post(narrow, lines(*[job()] * 21))
    assert (answer.status_code, answer.json()["limit"]) == (413, 20)
    answer = post(narrow, lines(*[job(metadata={"a": "x" * 500})] * 20))
    assert (answer.status_code, answer.json()["code"], answer.json()["limit_bytes"]) == (413, "body_too_large", 9000)


async def test_the_same_request_with_the_same_key_makes_no_job_twice(gateway: GatewayProcess, worker: Worker) -> None:
    jobs = [job(0.0), job(model="none"), job(2.0)]
    first = post(gateway, lines(*jobs), idempotency_key="k")
    assert "idempotent-replayed" not in first.headers
    again = post(gateway, json.dumps(jobs).encode(), JSON, idempotency_key="k")
    assert (again.status_code, again.headers["idempotent-replayed"]) == (202, "true")
    assert (ids(again), codes(again)) == (ids(first), ["queued", "model_not_found", "queued"])
    other = post(gateway, lines(job(9.0), job(1.0), job(2.0), job(3.0)), idempotency_key="k")
    assert codes(other) == ["idempotency_mismatch", "queued", "queued", "queued"]
    assert "idempotent-replayed" not in other.headers
    assert ids(other)[1] == ids(first)[1]
    assert len(await worker.claim()) == 4
    alone = post(gateway, json.dumps(job(9.0, model="m")).encode(), JSON, "/v1/jobs", idempotency_key="k")
    assert "idempotent-replayed" not in alone.headers  # a key of one job is another
    assert post(gateway, lines(job()), idempotency_key="a b").json()["code"] == "invalid_request"


async def test_a_key_whose_results_have_expired_runs_nothing_again(
    queue: Server, gateway: GatewayProcess, worker: Worker
) -> None:
    first = post(gateway, lines(job(0.0), job(1.0)), idempotency_key="gone")
    await worker.succeed(await worker.claim())
    with queue.client() as client:
        client.delete(f"jitney:{{s00}}:job:{ids(first)[0]}")  # as its expiry does
    again = post(gateway, lines(job(0.0), job(1.0)), idempotency_key="gone", prefer="wait=5")
    assert (again.status_code, codes(again)) == (200, ["result_expired", "succeeded"])
    assert await worker.claim() == []


async def test_a_waiting_caller_gets_all_results_at_once(gateway: GatewayProcess, worker: Worker) -> None:
    with ThreadPoolExecutor() as callers:
        body = lines(job(0.0), "{", *(job(float(nth)) for nth in range(1, 100)))
        waiting = callers.submit(post, gateway, body, prefer="wait=20", idempotency_key="w")
        await queued(worker, 100)
        second = callers.submit(post, gateway, body, prefer="wait=20", idempotency_key="w")  # hears of the same ends
        claimed = await worker.claim(60)
        await worker.succeed(claimed)
        rest = await worker.claim(60)
        await worker.fail(rest[:1])
        assert not waiting.done()
        await worker.succeed(rest[1:])
        for answer in (waiting.result(), second.result()):
            assert (answer.status_code, answer.headers["preference-applied"]) == (200, "wait=20")
            assert codes(answer) == [
                "succeeded", "malformed_request", *["succeeded"] * 59, "inference_failed", *["succeeded"] * 39
            ]  # fmt: skip
        assert second.result().headers["idempotent-replayed"] == "true"
        third = post(gateway, body, prefer="wait=20", idempotency_key="w")
        assert (third.status_code, ids(third)) == (200, ids(waiting.result()))


async def test_a_wait_that_times_out_returns_all_current_states(gateway: GatewayProcess, worker: Worker) -> None:
    with ThreadPoolExecutor() as callers:
        waiting = callers.submit(post, gateway, lines(job(0.0), job(1.0)), prefer="wait=1")
        await queued(worker, 2)
        await worker.succeed(await worker.claim(1))
        await worker.claim(1)
        answer = waiting.result()
    assert (answer.status_code, codes(answer)) == (202, ["succeeded", "running"])
    assert (answer.headers["preference-applied"], answer.headers["retry-after"]) == ("wait=1", "1")


async def test_accepted_jobs_are_returned_though_the_queue_went_away(
    queue: Server, gateway: GatewayProcess, worker: Worker
) -> None:
    with ThreadPoolExecutor() as callers:
        waiting = callers.submit(post, gateway, lines(job(), job()), prefer="wait=2")
        await queued(worker, 2)
        queue.kill()
        answer = waiting.result()
        queue.start()
    assert (answer.status_code, codes(answer)) == (202, ["queued"] * 2)
    wait_until(lambda: gateway.http.get("/readyz").status_code == 200, "the queue is back")


async def test_a_disconnect_cancels_no_job_of_many(gateway: GatewayProcess, worker: Worker) -> None:
    body = lines(job(), job())
    head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Type: {NDJSON}\r\nContent-Length: {len(body)}\r\n"
    with socket.create_connection(("127.0.0.1", gateway.port)) as caller:  # before the last byte: nothing is taken
        caller.sendall(head.encode() + b"\r\n" + body[:-1])
    with socket.create_connection(("127.0.0.1", gateway.port)) as caller:
        caller.sendall(head.encode() + b"Prefer: wait=1\r\n\r\n" + body)
        await queued(worker, 2)
    assert await worker.states() == ["queued"] * 2
    await worker.succeed(await worker.claim())
    assert post(gateway, body, prefer="wait=0").status_code == 202
    assert "Traceback" not in gateway.log()
    await worker.claim()


async def test_a_full_server_still_finds_the_jobs_of_a_key(
    queue: Server, gateway: GatewayProcess, worker: Worker
) -> None:
    first = post(gateway, lines(job(0.0), job(1.0)), idempotency_key="full")
    ballast = Ballast(queue, gateway)
    ballast.fill(0.9)
    try:
        again = post(gateway, lines(job(0.0), job(1.0), job(2.0)), idempotency_key="full")
        assert (codes(again), ids(again)) == (["queued", "queued", "queue_full"], ids(first))
        assert "bytes of memory" in again.json()["jobs"][2]["error"]["message"]
        assert post(gateway, lines(job())).status_code == 503
    finally:
        ballast.fill(None)
    await worker.claim()


async def test_a_single_job_in_json_takes_no_query(gateway: GatewayProcess, worker: Worker) -> None:
    del worker
    answer = post(gateway, json.dumps(job()).encode(), JSON)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    image = gateway.submit(PNG)
    assert image.status_code == 202


async def queued(worker: Worker, count: int) -> None:
    async def are_queued() -> bool:
        return await worker.states() == ["queued"] * min(count, 100)

    await wait_until_async(are_queued, f"{count} jobs are queued")
