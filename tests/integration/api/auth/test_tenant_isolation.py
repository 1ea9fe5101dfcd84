"""Tenants cannot see each other's data: foreign ids get the same bytes as unknown ones, on every route (P10)."""

import re
from collections.abc import Iterator

import httpx2
import pytest

from tests.support.api_keys import Caller, callers
from tests.support.gateways import PNG, GatewayProcess, Worker
from tests.support.servers import Server

UNKNOWN = "00" + "0" * 32
BY_ID = [
    ("GET", "/v1/jobs/{}"),
    ("GET", "/v1/jobs/{}?wait=1"),
    ("DELETE", "/v1/jobs/{}"),
    ("GET", "/v1/deadletters/{}"),
    ("GET", "/v1/deadletters/{}/input"),
    ("POST", "/v1/deadletters/{}/replay"),
    ("DELETE", "/v1/deadletters/{}"),
]


@pytest.fixture(scope="module")
def queue() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture
async def people(queue: Server, worker: Worker, gateway: GatewayProcess) -> list[Caller]:
    del worker
    return callers(queue, gateway, "acme", "bolt", "admin")


def shape(answer: httpx2.Response, job_id: str) -> tuple[int, dict[str, str], bytes]:
    """Return the whole response with the requested id removed."""
    headers = {name: value for name, value in answer.headers.items() if name not in {"date", "x-request-id"}}
    return answer.status_code, headers, answer.content.replace(job_id.encode(), b"ID")


@pytest.mark.parametrize(("method", "path"), BY_ID)
async def test_a_foreign_id_is_answered_as_an_unknown_one(
    people: list[Caller], worker: Worker, method: str, path: str
) -> None:
    acme, bolt, _ = people
    job_id = acme.submit(PNG).json()["id"]
    if "deadletters" in path:
        await worker.fail(await worker.claim())
    foreign, unknown = (shape(bolt.request(method, path.format(one)), one) for one in (job_id, UNKNOWN))
    assert foreign == unknown
    assert foreign[0] == 404
    assert acme.request(method, path.format(job_id)).status_code in {200, 202}


async def test_lists_hold_only_the_tenants_own_records(people: list[Caller], worker: Worker) -> None:
    acme, bolt, admin = people
    mine, theirs = acme.submit(PNG).json()["id"], bolt.submit(PNG).json()["id"]
    assert [[job["id"] for job in one.get("/v1/jobs").json()["jobs"]] for one in people] == [[mine], [theirs], []]
    await worker.fail(await worker.claim())

    def letters(caller: Caller, **query: str) -> list[str]:
        return sorted(one["id"] for one in caller.get("/v1/deadletters", params=query).json()["deadletters"])

    assert [letters(one) for one in people] == [[mine], [theirs], []]
    assert (letters(admin, tenant="*"), letters(admin, tenant="bolt")) == (sorted([mine, theirs]), [theirs])
    assert acme.get("/v1/deadletters?tenant=bolt").json()["code"] == "forbidden"
    assert acme.delete("/v1/deadletters?tenant=*&all=true").json()["code"] == "forbidden"
    assert admin.get(f"/v1/deadletters/{mine}").json()["tenant"] == "acme"
    assert bolt.delete("/v1/deadletters?all=true").json()["purged"] == 1
    assert letters(admin, tenant="*") == [mine]


async def test_an_admins_replay_belongs_to_the_tenant_of_the_dead_letter(people: list[Caller], worker: Worker) -> None:
    acme, _, admin = people
    mine = acme.submit(PNG).json()["id"]
    await worker.fail(await worker.claim())
    again = admin.post(f"/v1/deadletters/{mine}/replay").json()["id"]
    assert acme.get(f"/v1/jobs/{again}").json()["status"] == "queued"
    assert admin.get(f"/v1/jobs/{again}").status_code == 404


async def test_an_idempotency_key_belongs_to_its_tenant(people: list[Caller]) -> None:
    acme, bolt, _ = people
    first, second = (one.submit(PNG, {"idempotency-key": "same"}) for one in (acme, bolt))
    assert (first.status_code, second.status_code) == (202, 202)
    assert first.json()["id"] != second.json()["id"]
    other = bolt.submit(PNG + b"other", {"idempotency-key": "same"})
    assert other.json()["code"] == "idempotency_mismatch"
    assert re.search(acme.submit(PNG, {"idempotency-key": "same"}).json()["id"], first.text)
