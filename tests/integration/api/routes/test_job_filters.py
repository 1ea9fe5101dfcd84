"""Lists by filter, cancellation of many, and erased jobs over HTTP: who may, what is refused, and what is answered."""

import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.api_keys import Caller, callers
from tests.support.gateways import PNG, GatewayProcess, Worker
from tests.support.servers import Server

UNKNOWN = "00" + "0" * 32


@pytest.fixture(scope="module")
def queue() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture
async def people(queue: Server, worker: Worker, gateway: GatewayProcess) -> list[Caller]:
    del worker
    return callers(queue, gateway, "acme", "bolt", "admin")


def submit(caller: Caller, lane: str = "interactive", **metadata: str) -> str:
    job = {"model": "m", "input": {"image": "iVBORw0KGgo="}, "lane": lane, "metadata": metadata}
    return str(caller.post("/v1/jobs", json=job).json()["id"])


def listed(caller: Caller, **query: Any) -> list[str]:
    answer = caller.get("/v1/jobs", params={name.replace("__", "."): value for name, value in query.items()})
    assert answer.status_code == 200, answer.text
    return [job["id"] for job in answer.json()["jobs"]]


async def test_lists_by_filter(people: list[Caller], worker: Worker) -> None:
    acme, bolt, admin = people
    first, second = submit(acme, order="1"), submit(acme, "bulk", order="2")
    theirs = submit(bolt)
    await worker.fail([job for job in await worker.claim() if job.id == first])
    assert listed(acme, status="failed") == listed(acme, code="inference_failed") == [first]
    assert listed(acme, status="running") == [second]
    assert listed(acme, status="queued,running", lane="bulk") == [second]
    assert listed(acme, metadata__order="1") == [first]
    assert listed(acme, model="m", version="1") == [second, first]
    assert listed(acme, model="n") == []
    assert listed(admin, model="m") == []
    assert listed(admin, tenant="*") == [theirs, second, first]
    assert listed(admin, tenant="*", status="running") == [theirs, second]
    assert listed(admin, tenant="bolt", model="m") == [theirs]
    answer = admin.get("/v1/jobs", params={"tenant": "*", "limit": 2}).json()
    assert [job["tenant"] for job in answer["jobs"]] == ["bolt", "acme"]
    rest = admin.get("/v1/jobs", params={"tenant": "*", "cursor": answer["next_cursor"]}).json()
    assert [job["id"] for job in rest["jobs"]] == [first]
    assert (rest["scanned"], rest["scanned_to"], rest["next_cursor"]) == (1, rest["jobs"][0]["created_at"], None)
    since = answer["jobs"][0]["created_at"]
    assert theirs in listed(admin, tenant="*", since=since)
    assert theirs not in listed(admin, tenant="*", until=since)
    await worker.succeed(await worker.claim())


async def test_only_admins_read_cancel_and_erase_jobs_of_others(
    people: list[Caller], worker: Worker, gateway: GatewayProcess
) -> None:
    acme, bolt, admin = people
    job_id = submit(acme)
    for method, path in (("GET", f"/v1/jobs/{job_id}"), ("DELETE", f"/v1/jobs/{job_id}"), ("GET", "/v1/jobs")):
        for tenant in ("acme", "*"):
            assert bolt.request(method, path, params={"tenant": tenant}).json()["code"] == "forbidden", path
    assert bolt.post("/v1/jobs/cancel", json={"tenant": "*", "all": True}).json()["code"] == "forbidden"
    assert admin.get(f"/v1/jobs/{job_id}").status_code == 404
    assert admin.get(f"/v1/jobs/{job_id}?tenant=*").json()["status"] == "queued"
    assert admin.get(f"/v1/jobs/{job_id}?tenant=acme&wait=1").json()["id"] == job_id
    assert admin.get(f"/v1/jobs/{job_id}?tenant=bolt").status_code == 404
    assert admin.delete(f"/v1/jobs/{job_id}").status_code == 404
    assert admin.delete(f"/v1/jobs/{job_id}?tenant=*&purge=true").json()["code"] == "job_not_final"
    assert admin.delete(f"/v1/jobs/{job_id}?tenant=*").json()["status"] == "canceled"
    assert re.search(rf"INFO audit key \w+ of tenant admin: canceled job {job_id} of tenant acme", gateway.log())
    own_id = submit(acme)
    assert acme.delete(f"/v1/jobs/{own_id}?tenant=acme").json()["status"] == "canceled"
    assert f"canceled job {own_id}" not in gateway.log()
    assert bolt.delete(f"/v1/jobs/{job_id}?purge=true").status_code == 404
    assert acme.delete(f"/v1/jobs/{job_id}?purge=true").json() == {"purged": job_id}
    assert acme.get(f"/v1/jobs/{job_id}").status_code == 404
    assert acme.delete(f"/v1/jobs/{job_id}?purge=true").status_code == 404
    assert acme.delete(f"/v1/jobs/{UNKNOWN}?purge=maybe").status_code == 422
    assert listed(acme, status="canceled") == [own_id]
    del worker


async def test_many_are_canceled_by_filter(people: list[Caller], worker: Worker, gateway: GatewayProcess) -> None:
    acme, bolt, admin = people
    ids = [submit(acme, "bulk" if nth % 2 else "interactive", order=str(nth)) for nth in range(6)]
    theirs = submit(bolt)

    def cancel(caller: Caller, **fields: Any) -> dict[str, Any]:
        answer = caller.post("/v1/jobs/cancel", json=fields)
        assert answer.status_code == 200, answer.text
        body: dict[str, Any] = answer.json()
        return body

    counted = cancel(acme, lane="bulk", dry_run=True)
    assert (counted["matched"], counted["canceled"], counted["more"]) == (3, 0, False)
    assert cancel(acme, lane="bulk")["canceled"] == 3
    assert listed(acme, status="canceled") == [ids[5], ids[3], ids[1]]
    assert cancel(acme, metadata={"order": "2"})["canceled"] == 1
    (running, *_) = await worker.claim(1)
    assert cancel(acme, status="queued", model="m")["canceled"] == (1 if running.id in ids else 2)
    assert cancel(admin, all=True)["matched"] == 0
    assert cancel(admin, tenant="*", all=True)["canceled"] == (2 if running.id in ids else 1)
    assert bolt.get(f"/v1/jobs/{theirs}").json()["status"] == "canceled"
    assert "of tenant acme: canceled 3 jobs by filter {'lane': 'bulk'}" in gateway.log()


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"tenant": "acme"},
        {"model": "m", "all": True},
        {"status": "failed"},
        {"code": "canceled"},
        {"model": 1},
        {"metadata": {"a": 1}},
        {"metadata": []},
        {"all": 1},
        {"model": "m", "dry_run": "yes"},
        {"model": "m", "cursor": "x"},
        {"since": "yesterday"},
        {"order": "1"},
    ],
)
async def test_a_wrong_cancellation_is_refused(people: list[Caller], body: dict[str, Any]) -> None:
    answer = people[0].post("/v1/jobs/cancel", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


@pytest.mark.parametrize(
    "query",
    [
        {"status": "done"},
        {"lane": "fast"},
        {"version": "x"},
        {"model": "a b"},
        {"code": "oops"},
        {"since": "2026-01-01"},
        {"order": "1"},
        {"limit": "0"},
        *(
            {"cursor": cursor}
            for cursor in ("x", "1-", "1-x", "-1", "1" * 19, f"1-{UNKNOWN}0", f"1.{UNKNOWN}", f"é-{UNKNOWN}")
        ),
        *({"cursor": cursor, "status": "queued"} for cursor in ("x", "1-zz", f"1-{UNKNOWN.upper()}A")),
    ],
)
async def test_wrong_filters_and_tampered_cursors_are_refused(people: list[Caller], query: dict[str, str]) -> None:
    answer = people[0].get("/v1/jobs", params=query)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


async def test_a_list_of_a_cursor_without_filters_goes_on_as_before(people: list[Caller]) -> None:
    acme = people[0]
    ids = [submit(acme) for _ in range(3)]
    page = acme.get("/v1/jobs?limit=2").json()
    assert [job["id"] for job in page["jobs"]] == ids[:0:-1]
    assert page["next_cursor"].isdigit()
    assert listed(acme, cursor=page["next_cursor"]) == ids[:1]
    assert acme.post("/v1/jobs/cancel", json={"all": True}).json()["canceled"] == 3
    assert acme.submit(PNG).status_code == 202
    acme.post("/v1/jobs/cancel", json={"all": True})
