"""The dead-letter routes on a real queue; the test is the worker."""

from typing import Any

import pytest

from jobs.contract.ids import new_job_id
from jobs.contract.job import Outcome, Submission
from jobs.contract.lifecycle import State
from jobs.store.job_store import JobStore
from tests.support.gateways import PNG, GatewayProcess, Worker
from tests.support.servers import Server

DEAD = "/v1/deadletters"
RAW = b"0123456789abcdef"
NOBODY = "00" + "0" * 32


async def die(gateway: GatewayProcess, worker: Worker, count: int = 1, **headers: str) -> list[str]:
    """Create dead letters over HTTP; return their ids, oldest first."""
    ids = [gateway.submit(PNG + b"%d" % nth, **headers).json()["id"] for nth in range(count)]
    await worker.fail(await worker.claim(count))
    return ids


def listed(gateway: GatewayProcess, **filters: str) -> list[str]:
    answer = gateway.http.get(DEAD, params=filters)
    assert answer.status_code == 200, answer.text
    return [letter["id"] for letter in answer.json()["deadletters"]]


async def test_a_dead_letter_shows_its_job_and_its_failure(gateway: GatewayProcess, worker: Worker) -> None:
    (job_id,) = await die(gateway, worker)
    letter = gateway.http.get(f"{DEAD}/{job_id}").json()
    assert gateway.http.get(DEAD).json() == {"deadletters": [letter], "next_cursor": None}
    job: dict[str, Any] = gateway.http.get(f"/v1/jobs/{job_id}").json()
    urls = {name: f"{DEAD}/{job_id}{rest}" for name, rest in (("self", ""), ("input", "/input"), ("replay", "/replay"))}
    more = {
        "tenant": "default",
        "kind": "image",
        "parameters": {},
        "input_bytes": 9,
        "kills": 0,
        "losses": 0,
        "retries": 0,
    }
    assert letter == {**job, **more, "replayed_as": None, "urls": {**urls, "job": f"/v1/jobs/{job_id}"}}


async def test_the_input_comes_back_byte_for_byte(gateway: GatewayProcess, worker: Worker) -> None:
    tensor = {"datatype": "FP32", "shape": [4], "b64": "MDEyMzQ1Njc4OWFiY2RlZg=="}
    for body, content_type, wanted, name in (
        ({"content": PNG}, "image/png", "image/png", "png"),
        ({"content": RAW}, "application/octet-stream", "application/octet-stream", "bin"),
        ({"json": {"model": "m", "input": {"tensors": {"x": tensor}}}}, "", "application/octet-stream", "bin"),
    ):
        target = "/v1/jobs?model=m" if content_type else "/v1/jobs"
        headers = {"content-type": content_type} if content_type else {}
        job_id = gateway.http.post(target, headers=headers, **body).json()["id"]
        (claimed,) = await worker.claim()
        await worker.fail([claimed])
        answer = gateway.http.get(f"{DEAD}/{job_id}/input")
        assert (answer.status_code, answer.content) == (200, claimed.input)
        assert answer.headers["content-type"] == wanted
        assert answer.headers["content-disposition"] == f'attachment; filename="{job_id}.{name}"'
        assert answer.headers["x-content-type-options"] == "nosniff"


async def test_pages_and_filters(gateway: GatewayProcess, worker: Worker) -> None:
    ids = await die(gateway, worker, 5)
    ended = gateway.http.get(f"{DEAD}/{ids[0]}").json()["finished_at"]
    seen: list[str] = []
    cursor = ""
    while cursor is not None:
        page = gateway.http.get(DEAD, params={"limit": 2, **({"cursor": cursor} if cursor else {})}).json()
        seen += [letter["id"] for letter in page["deadletters"]]
        cursor = page["next_cursor"]
    assert (len(seen), set(seen)) == (5, set(ids))
    assert set(listed(gateway, since=ended, code="inference_failed", model="m", replayed="false")) == set(ids)
    assert listed(gateway, until=ended) == listed(gateway, model="other") == listed(gateway, replayed="true") == []
    assert listed(gateway, code="poison") == []


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("code=nope", "resource_exhausted"),
        ("since=yesterday", "RFC 3339"),
        ("until=2026-01-01T00:00:00", "time zone"),
        ("replayed=perhaps", "true"),
        ("cursor=1", "next_cursor"),
        ("limit=0", "greater than or equal to 1"),
        ("who=me", "unknown query field"),
    ],
)
async def test_a_wrong_filter_is_refused_with_what_is_allowed(
    gateway: GatewayProcess, worker: Worker, query: str, says: str
) -> None:
    del worker
    answer = gateway.http.get(f"{DEAD}?{query}")
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert says in answer.text


async def test_a_dead_letter_is_replayed_as_a_new_job(gateway: GatewayProcess, worker: Worker) -> None:
    await worker.announce(gateway, version="2")
    answer = gateway.http.post(
        '/v1/jobs?model=m&lane=bulk&parameters={"top_k":2}&metadata={"who":"me"}&deadline_ms=60000',
        content=PNG,
        headers={"content-type": "image/png"},
    )
    (claimed,) = await worker.claim(version="2")
    await worker.fail([claimed])
    await worker.announce(gateway, version="3")
    letter = f"{DEAD}/{answer.json()['id']}"
    again = gateway.http.post(f"{letter}/replay")
    job = again.json()
    assert (again.status_code, again.headers["location"]) == (202, f"/v1/jobs/{job['id']}")
    shown = [job[name] for name in ("status", "version", "lane", "metadata", "attempts")]
    assert shown == ["queued", "3", "bulk", {"who": "me"}, 0]
    (replayed,) = await worker.claim(version="3")
    assert (replayed.id, replayed.input, replayed.parameters) == (job["id"], claimed.input, b'{"top_k":2}')
    assert replayed.deadline_ms - replayed.claimed_us / 1000 > 86_000_000
    assert gateway.http.get(letter).json()["replayed_as"] == job["id"]
    change = f"replayed dead letter {claimed.id} of tenant default as job {job['id']}"
    assert f"audit no key of tenant default: {change}" in gateway.log()
    assert listed(gateway, replayed="false") == []
    await worker.fail([replayed])  # nothing is lost by a second failure
    assert set(listed(gateway)) == {claimed.id, replayed.id}


async def test_concurrent_replays_make_one_job_and_a_later_one_another(
    queue: Server, gateway: GatewayProcess, worker: Worker
) -> None:
    (job_id,) = await die(gateway, worker)
    first = gateway.http.post(f"{DEAD}/{job_id}/replay").json()["id"]
    with queue.client() as client:  # as if the gateway had died before it wrote this down
        client.hdel(f"jitney:{{s00}}:job:{job_id}", "replayed")
    assert gateway.http.post(f"{DEAD}/{job_id}/replay").json()["id"] == first
    second = gateway.http.post(f"{DEAD}/{job_id}/replay").json()["id"]
    assert len({job_id, first, second}) == 3
    assert gateway.http.get(f"{DEAD}/{job_id}").json()["replayed_as"] == second


async def test_a_key_makes_one_replay(gateway: GatewayProcess, worker: Worker) -> None:
    a, b = await die(gateway, worker, 2)
    answers = [gateway.http.post(f"{DEAD}/{a}/replay", headers={"idempotency-key": "k"}) for _ in range(3)]
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert [answer.headers.get("idempotent-replayed") for answer in answers] == [None, "true", "true"]
    other = gateway.http.post(f"{DEAD}/{b}/replay", headers={"idempotency-key": "k"})
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_mismatch")


async def test_a_replay_that_the_model_no_longer_accepts_is_refused(gateway: GatewayProcess, worker: Worker) -> None:
    (job_id,) = await die(gateway, worker)
    await worker.announce(gateway, version="4", kinds=["tensors"])
    answer = gateway.http.post(f"{DEAD}/{job_id}/replay")
    assert (answer.status_code, answer.json()["allowed"]) == (422, ["tensors"])
    bulk = gateway.http.post(f"{DEAD}/replay?all=true").json()
    assert (bulk["replayed"], bulk["refused"], bulk["more"]) == (0, {"invalid_input": 1}, False)


async def test_many_dead_letters_are_each_replayed_once(gateway: GatewayProcess, worker: Worker) -> None:
    ids = await die(gateway, worker, 5)
    gateway.http.post(f"{DEAD}/{ids[0]}/replay")
    answer = gateway.http.post(f"{DEAD}/replay?code=inference_failed").json()
    clean = {"refused": {}, "more": False, "next_cursor": None, "stopped": None}
    assert answer == {"replayed": 4, "skipped": 1, **clean}
    assert "audit no key of tenant default: replayed 4 dead letters by filter" in gateway.log()
    assert gateway.http.post(f"{DEAD}/replay?all=true").json() == {"replayed": 0, "skipped": 5, **clean}
    assert gateway.http.post(f"{DEAD}/replay?replayed=false").json() == {"replayed": 0, "skipped": 0, **clean}
    assert len(await worker.claim()) == 5


@pytest.mark.parametrize("query", ["", "all=false", "all=true&model=m", "model="])
async def test_replaying_all_must_be_explicit(gateway: GatewayProcess, worker: Worker, query: str) -> None:
    await die(gateway, worker)
    for answer in (gateway.http.post(f"{DEAD}/replay?{query}"), gateway.http.delete(f"{DEAD}?{query}")):
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
        assert "all=true" in answer.json()["allowed"]
    assert len(listed(gateway)) == 1


async def test_a_full_queue_stops_a_replay_of_many_and_reports_the_progress(queue: Server, worker: Worker) -> None:
    with GatewayProcess(queue, {"JITNEY_MAX_JOBS": "2"}) as narrow:
        await worker.announce(narrow)
        for _ in range(4):
            await die(narrow, worker)
        answer = narrow.http.post(f"{DEAD}/replay?all=true")
        done = answer.json()
        assert (answer.status_code, done["replayed"], done["more"]) == (200, 2, True)
        assert (done["stopped"]["code"], done["stopped"]["detail"]) == (
            "queue_full",
            "2 jobs of model m with 18 bytes of input are open; retry later",
        )
        assert int(answer.headers["retry-after"]) >= 1
        full = narrow.http.post(f"{DEAD}/replay?all=true")
        assert (full.status_code, full.json()["code"]) == (503, "queue_full")
        one = listed(narrow, replayed="false")[0]
        assert narrow.http.post(f"{DEAD}/{one}/replay").status_code == 503
        await worker.succeed(await worker.claim())
        rest = narrow.http.post(f"{DEAD}/replay?all=true&cursor={done['next_cursor']}").json()
        assert (rest["replayed"], rest["more"]) == (2, False)


async def test_dead_letters_are_purged_one_by_one_and_by_filter(gateway: GatewayProcess, worker: Worker) -> None:
    ids = await die(gateway, worker, 3)
    assert gateway.http.delete(f"{DEAD}/{ids[0]}").json() == {"purged": 1}
    assert gateway.http.delete(f"{DEAD}/{ids[0]}").status_code == 404
    assert set(listed(gateway)) == set(ids[1:])
    assert gateway.http.delete(f"{DEAD}?model=other").json()["purged"] == 0
    assert gateway.http.delete(f"{DEAD}?model=m").json() == {"purged": 2, "more": False, "next_cursor": None}
    for change in (f"purged dead letter {ids[0]} of tenant default", "purged 2 dead letters by filter {'model': 'm'}"):
        assert f"INFO audit no key of tenant default: {change}" in gateway.log()
    assert listed(gateway) == []
    assert gateway.http.get(f"/v1/jobs/{ids[1]}").json()["status"] == "failed"


async def test_unknown_and_foreign_dead_letters_get_the_same_404(gateway: GatewayProcess, worker: Worker) -> None:
    (queued,) = [gateway.submit().json()["id"]]
    foreign = await _foreign_letter(worker.store)
    details = set()
    for job_id in (queued, foreign, NOBODY, "..%2f..%2fx"):
        for method, rest in (("GET", ""), ("GET", "/input"), ("POST", "/replay"), ("DELETE", "")):
            answer = gateway.http.request(method, f"{DEAD}/{job_id}{rest}")
            if job_id.startswith(".."):
                assert answer.status_code == 404
            else:
                assert (answer.status_code, answer.json()["code"]) == (404, "dead_letter_not_found")
                details.add(answer.json()["detail"].replace(job_id, "ID"))
    assert len(details) == 1
    assert gateway.http.delete(f"{DEAD}?all=true").json()["purged"] == 0


async def _foreign_letter(store: JobStore) -> str:
    job = Submission(id=new_job_id(0), model="f", version="1", kind="raw", input=b"in", tenant="other")
    await store.submit([job])
    claimed = (await store.claim("f", "1", "w9", 1)).jobs
    body = b'{"code":"poison","message":"m","status":422}'
    await store.finish("w9", [Outcome(one.id, one.attempt, State.FAILED, body, dead=True) for one in claimed])
    return job.id


def test_the_openapi_description_names_every_route(gateway: GatewayProcess) -> None:
    paths = gateway.http.get("/openapi.json").json()["paths"]
    doors = {(path, method) for path in paths if path.startswith(DEAD) for method in paths[path]}
    one = f"{DEAD}/{{job_id}}"
    assert doors == {
        *{(DEAD, "get"), (DEAD, "delete"), (f"{DEAD}/replay", "post"), (one, "get"), (one, "delete")},
        *{(f"{one}/input", "get"), (f"{one}/replay", "post")},
    }


async def test_a_dead_letter_that_cannot_be_replayed_does_not_stop_the_others(
    gateway: GatewayProcess, worker: Worker
) -> None:
    """A replay of many used to stop at such a dead letter each time, with Retry-After."""
    big, small = gateway.submit(PNG + bytes(500)), gateway.submit(PNG)
    assert {big.status_code, small.status_code} == {202}
    await worker.fail(await worker.claim())
    with GatewayProcess(gateway.server, {"JITNEY_TENANT_BYTES": "400"}) as other:
        await worker.announce(other)
        answer = other.http.post(f"{DEAD}/replay?all=true")
        done = answer.json()
        assert (done["replayed"], done["refused"], done["stopped"]) == (1, {"body_too_large": 1}, None)
        assert (done["more"], "retry-after" in answer.headers) == (False, False)
        assert other.http.post(f"{DEAD}/{big.json()['id']}/replay").status_code == 413
