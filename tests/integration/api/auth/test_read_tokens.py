"""Read tokens: what a token opens, what it does not, and when it ends."""

import re
import time
from base64 import b64decode
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from api.auth.job_tokens import write_token
from jobs.tenants import api_keys
from tests.support.api_keys import Caller, callers, jitney_keys, make_key
from tests.support.gateways import PNG, GatewayProcess, Worker
from tests.support.servers import Server
from tests.support.waiting import wait_until

PAGE = {"origin": "https://app.example", "sec-fetch-site": "cross-site"}


@pytest.fixture(scope="module")
def gateway(queue: Server) -> Iterator[GatewayProcess]:
    limits = {"JITNEY_TENANTS": '{"hasty": {"requests": 4}}', "JITNEY_TENANT_WINDOW_S": "600"}
    with GatewayProcess(queue, {"JITNEY_SSE_KEEPALIVE_S": "0.2", "JITNEY_LOG_LEVEL": "debug", **limits}) as process:
        yield process


def ask(caller: Caller, job_id: str, **fields: Any) -> dict[str, Any]:
    """Ask for a token, and return the answer."""
    answer = caller.post(f"/v1/jobs/{job_id}/token", json=fields) if fields else caller.post(f"/v1/jobs/{job_id}/token")
    assert answer.status_code == 200, answer.text
    made: dict[str, Any] = answer.json()
    return made


def code(answer: httpx2.Response) -> tuple[int, str]:
    return answer.status_code, answer.json().get("code", "")


async def test_a_token_reads_its_job(queue: Server, gateway: GatewayProcess, worker: Worker) -> None:
    (acme,) = callers(queue, gateway, "acme")
    job_id = acme.submit(PNG).json()["id"]
    made, page = ask(acme, job_id), Caller(gateway, "")
    queued = page.get(made["urls"]["self"], headers=PAGE)
    assert (queued.status_code, queued.json()["status"]) == (200, "queued")
    assert (queued.headers["referrer-policy"], queued.headers["cache-control"]) == ("no-referrer", "no-store")
    await worker.succeed(await worker.claim())
    final = page.get(made["urls"]["self"] + "&wait=5").json()
    assert final == acme.get(f"/v1/jobs/{job_id}").json()
    assert page.get(f"/v1/jobs/{job_id}", params={"wait": 0, "token": made["token"]}).json() == final
    assert page.get(made["urls"]["output"]).json() == final["output"]
    assert page.head(made["urls"]["self"]).status_code == 200
    events = page.get(made["urls"]["events"]).text
    assert re.findall("event: (.+)", events) == ["queued", "running", "succeeded"]
    assert page.get(made["urls"]["events"], headers={"last-event-id": "3"}).status_code == 204
    assert made["token"] not in gateway.log()


async def test_a_token_opens_nothing_else(queue: Server, gateway: GatewayProcess, worker: Worker) -> None:
    acme, bolt = callers(queue, gateway, "acme", "bolt")
    job_id, other_id = (acme.submit(PNG).json()["id"] for _ in range(2))
    token, page = ask(acme, job_id)["token"], Caller(gateway, "")
    for method, path in (
        ("DELETE", f"/v1/jobs/{job_id}"),
        ("POST", f"/v1/jobs/{job_id}/token"),
        ("PUT", f"/v1/jobs/{job_id}/webhook"),
        ("POST", f"/v1/jobs/{job_id}"),
        ("GET", f"/v1/jobs/{job_id}/"),
        ("GET", f"/v1/jobs/{job_id}/token"),
        ("GET", f"/v1/jobs/{job_id}/events/x"),
        ("GET", f"/v1/jobs/{other_id}"),
        ("GET", f"/v1/jobs/{other_id}/events"),
        ("GET", f"/v1/jobs/{other_id}%2F..%2F{job_id}"),
        ("GET", "/v1/jobs"),
        ("GET", "/v1/jobs/"),
        ("POST", "/v1/jobs"),
        ("GET", "/v1/events"),
        ("GET", "/v1/models"),
        ("GET", f"/v1/deadletters/{job_id}"),
        ("GET", "/metrics"),
    ):
        assert code(page.request(method, path, params={"token": token})) == (401, "unauthorized"), (method, path)
    refused = page.delete(f"/v1/jobs/{job_id}", params={"token": token}).json()["detail"]
    assert refused.startswith("a read token only reads its job: GET ")
    assert [job.status_code for job in (acme.get(f"/v1/jobs/{job_id}"), bolt.get(f"/v1/jobs/{job_id}"))] == [200, 404]
    assert code(page.get(f"/v1/jobs/{job_id}", headers={"authorization": f"Bearer {token}"})) == (401, "unauthorized")
    assert code(acme.get("/v1/jobs", params={"token": token})) == (422, "invalid_request")  # with a key: as any field
    await worker.succeed(await worker.claim())


async def test_only_an_unchanged_token_is_valid(queue: Server, gateway: GatewayProcess, worker: Worker) -> None:
    acme, bolt = callers(queue, gateway, "acme", "bolt")
    job_id = acme.submit(PNG).json()["id"]
    token, page = ask(acme, job_id)["token"], Caller(gateway, "")
    _, expiry, key_id, signature = token.split("_", 3)
    bolts = ask(bolt, bolt.submit(PNG).json()["id"])["token"].split("_")[2]
    changed = [
        f"jt_{int(expiry) + 1}_{key_id}_{signature}",
        f"jt_0{expiry}_{key_id}x_{signature}",
        f"jt_{expiry}_{bolts}_{signature}",
        f"jt_{expiry}__{signature}",
        f"jt_{expiry}_{key_id}_{signature[:-1]}",
        f"jt_{expiry}_{key_id}_{'A' * 43}",
        f"jt_{expiry}_{'0' * 16}_{signature}",
        f"{token}%00",
        f"{token}é",
        f"{token}&token={token}",
        write_token(api_keys.hash_key(""), "", job_id, int(expiry)),  # as of a service without keys
        write_token(api_keys.hash_key(""), key_id, job_id, int(expiry)),
        write_token("", key_id, job_id, int(expiry)),
        "",
    ]
    for text in changed:
        for caller in (page, acme):  # the token decides, whatever key comes with it
            assert code(caller.get(f"/v1/jobs/{job_id}?token={text}")) == (401, "unauthorized"), text
    assert page.get(f"/v1/jobs/{job_id}?token={token}").status_code == 200
    unknown = f"/v1/jobs/{'00' + '0' * 32}"
    assert code(page.get(f"{unknown}?token={token}")) == (401, "unauthorized")  # also for a job that does not exist
    key = bolt.headers["authorization"].removeprefix("Bearer ")
    own = write_token(api_keys.hash_key(key), api_keys.parse_key_id(key), job_id, int(expiry))
    assert code(page.get(f"/v1/jobs/{job_id}?token={own}")) == (404, "job_not_found")  # signed by another tenant's key
    await worker.succeed(await worker.claim())


async def test_a_token_expires(queue: Server, gateway: GatewayProcess, worker: Worker) -> None:
    (acme,) = callers(queue, gateway, "acme")
    job_id = acme.submit(PNG).json()["id"]
    made, page, began = ask(acme, job_id, ttl_s=1), Caller(gateway, ""), time.monotonic()
    with page.stream("GET", made["urls"]["events"]) as events:
        assert "event: queued" in "".join(events.iter_text())  # a stream of a job that runs on ends too
    assert 0.5 < time.monotonic() - began < 10
    for url in made["urls"].values():
        assert code(page.get(url)) == (401, "token_expired")
    assert acme.get(f"/v1/jobs/{job_id}").json()["status"] == "queued"
    await worker.succeed(await worker.claim())


async def test_a_token_ends_with_its_key(queue: Server, gateway: GatewayProcess, worker: Worker) -> None:
    (acme,) = callers(queue, gateway, "acme")
    key = make_key(queue.url, "acme")
    second = Caller(gateway, key)
    wait_until(lambda: second.get("/v1/jobs").status_code == 200, "the key is known")
    job_id = acme.submit(PNG).json()["id"]
    urls, kept, page = ask(second, job_id)["urls"], ask(acme, job_id)["urls"], Caller(gateway, "")
    with page.stream("GET", urls["events"]) as events:
        assert jitney_keys(queue.url, "revoke", api_keys.parse_key_id(key)).returncode == 0
        events.read()  # the stream ends
    assert code(page.get(urls["self"])) == (401, "unauthorized")
    assert page.get(kept["self"]).status_code == 200
    await worker.succeed(await worker.claim())


async def test_tokens_are_made_for_own_jobs_and_a_bounded_time(
    queue: Server, gateway: GatewayProcess, worker: Worker
) -> None:
    acme, bolt, admin = callers(queue, gateway, "acme", "bolt", "admin")
    job_id = acme.submit(PNG).json()["id"]
    for caller in (bolt, admin):
        assert code(caller.post(f"/v1/jobs/{job_id}/token")) == (404, "job_not_found")
    for unknown in ("00" + "0" * 32, "x", "99" + "0" * 32):
        assert code(acme.post(f"/v1/jobs/{unknown}/token")) == (404, "job_not_found")
    for ttl_s in (0, -1, 86_401, 1.5, "60", True, None, 1 << 70):
        assert code(acme.post(f"/v1/jobs/{job_id}/token", json={"ttl_s": ttl_s})) == (422, "invalid_request"), ttl_s
    for body, status in ((b"{", 400), (b"[]", 422), (b'{"ttl": 5}', 422), (b"x" * 5000, 413)):
        assert acme.post(f"/v1/jobs/{job_id}/token", content=body).status_code == status
    with queue.client() as client:
        now_s = client.time()[0]
    for fields, ttl_s in (({}, 3600), ({"ttl_s": 86_400}, 86_400)):
        assert 0 <= int(ask(acme, job_id, **fields)["token"].split("_")[1]) - now_s - ttl_s <= 5
    await worker.succeed(await worker.claim())


async def test_requests_with_a_token_count_for_its_tenant(
    queue: Server, gateway: GatewayProcess, worker: Worker
) -> None:
    acme = callers(queue, gateway, "acme")[0]
    hasty = Caller(gateway, make_key(queue.url, "hasty"))
    wait_until(lambda: hasty.get("/v1/jobs").status_code == 200, "the key is known")
    job_id = hasty.submit(PNG).json()["id"]
    url, page = ask(hasty, job_id)["urls"]["self"], Caller(gateway, "")
    answers = [page.get(url) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 429]
    assert answers[0].headers["ratelimit"].startswith('"requests";r=0')
    assert acme.get("/v1/jobs").status_code == 200
    await worker.succeed(await worker.claim())


async def test_tokens_work_without_keys(anyio_backend: str) -> None:
    """A token opens no more than the caller of a service without keys has: pages of other sites stay refused."""
    del anyio_backend
    queue = Server()
    with GatewayProcess(queue) as gateway:
        worker = Worker(queue)
        await worker.announce(gateway)
        job_id = gateway.submit().json()["id"]
        urls = ask(Caller(gateway, ""), job_id)["urls"]
        assert gateway.http.get(urls["self"]).status_code == 200
        assert code(gateway.http.get(urls["self"] + "x")) == (401, "unauthorized")
        assert code(gateway.http.get(urls["self"], headers=PAGE)) == (403, "forbidden")
        assert code(gateway.http.get(urls["self"], headers={"host": "rebound.example"})) == (403, "forbidden")
        (acme,) = callers(queue, gateway, "acme")
        assert code(gateway.http.get(urls["self"])) == (401, "unauthorized")  # there are keys now
        assert acme.get("/v1/jobs").status_code == 200
        await worker.connection.aclose()
    queue.close()


async def test_a_token_is_valid_at_every_gateway(queue: Server, gateway: GatewayProcess, worker: Worker) -> None:
    (acme,) = callers(queue, gateway, "acme")
    made = ask(acme, acme.submit(PNG).json()["id"])
    with GatewayProcess(queue) as second:
        wait_until(lambda: second.http.get("/v1/jobs").status_code == 401, "it knows the keys")
        assert second.http.get(made["urls"]["self"]).status_code == 200
    assert len(b64decode(made["token"].split("_", 3)[3] + "==", altchars="-_")) >= 31
    await worker.succeed(await worker.claim())
