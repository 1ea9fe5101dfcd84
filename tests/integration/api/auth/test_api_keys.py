"""API keys: who may call, how a key is sent, and how soon a revoked key is refused."""

import re
from collections.abc import Iterator

import httpx2
import orjson
import pytest

from jobs.tenants import api_keys
from tests.support.api_keys import Caller, callers, jitney_keys, make_key, wait_until_keys_are_asked_for
from tests.support.gateways import PNG, GatewayProcess, Worker
from tests.support.servers import Server
from tests.support.waiting import wait_until

PRIVATE = (
    "/v1/jobs",
    "/v1/models",
    "/v1/deadletters",
    "/metrics",
    "/openapi.json",
    "/v1/jobs/00" + "0" * 32,
    "/nowhere",
)


@pytest.fixture
def queue() -> Iterator[Server]:
    """A queue for each test, because keys of one test would lock out the others."""
    server = Server()
    yield server
    server.close()


@pytest.fixture
def gateway(queue: Server) -> Iterator[GatewayProcess]:
    with GatewayProcess(queue) as process:
        yield process


@pytest.fixture(scope="module")
def shared() -> Iterator[GatewayProcess]:
    """A gateway for all tests that need a key: nothing in it is open."""
    server = Server()
    with GatewayProcess(server) as process:
        callers(server, process, "other")
        yield process
    server.close()


def test_without_keys_a_gateway_on_loopback_is_open_and_says_so(gateway: GatewayProcess) -> None:
    assert {gateway.http.get(path).status_code for path in PRIVATE[:5]} == {200}
    assert "there are no API keys: anyone who can reach this port has full access" in gateway.log()


def test_once_a_key_exists_each_request_needs_one(queue: Server, gateway: GatewayProcess) -> None:
    assert 401 not in _submit_repeatedly(gateway.http)
    (caller,) = callers(queue, gateway, "acme")
    assert _submit_repeatedly(gateway.http) == {401}
    for path in PRIVATE:
        answer = gateway.http.get(path)
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized"), path
        assert answer.headers["www-authenticate"].startswith("Bearer")
    assert gateway.http.get("/healthz").status_code == 200
    assert gateway.http.get("/").status_code == 200
    assert gateway.http.get("/readyz").status_code == 200
    assert gateway.http.get("/readyz/models/m").status_code == 404
    assert gateway.http.post("/predict").json()["success"] is False
    assert caller.get("/v1/jobs").status_code == 200
    assert "callers need an API key" in gateway.log()


def _submit_repeatedly(caller: httpx2.Client) -> set[int]:
    """Submit with the same head, whose caller the gateway remembers; return the statuses."""
    head = {"content-type": "image/png"}
    return {caller.post("/v1/jobs?model=m", content=PNG, headers=head).status_code for _ in range(4)}


def test_metrics_need_the_role_admin(shared: GatewayProcess) -> None:
    (caller,) = callers(shared.server, shared, "acme")
    done = jitney_keys(shared.server.url, "create", "--tenant", "admin", "--admin")
    admin = Caller(shared, done.stdout.strip())
    wait_until(lambda: admin.get("/v1/jobs").status_code == 200, "the key is known")
    refused = caller.get("/metrics")
    assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
    assert admin.get("/metrics").status_code == 200


def test_a_key_with_the_role_metrics_reads_metrics_and_nothing_else(shared: GatewayProcess) -> None:
    done = jitney_keys(shared.server.url, "create", "--tenant", "ops", "--role", "metrics")
    assert "role metrics" in done.stderr
    scraper = Caller(shared, done.stdout.strip())
    wait_until(lambda: scraper.get("/metrics").status_code == 200, "the key is known")
    assert scraper.get("/metrics/process").status_code == 200
    for path in PRIVATE:
        if path != "/metrics":
            answer = scraper.get(path)
            assert (answer.status_code, answer.json()["code"]) == (403, "forbidden"), path
    assert scraper.submit(PNG).status_code == 403
    assert jitney_keys(shared.server.url, "create", "--tenant", "ops", "--role", "root").returncode == 2


def test_changing_models_needs_the_role_admin_and_reading_them_does_not(shared: GatewayProcess) -> None:
    caller, admin = callers(shared.server, shared, "acme", "admin")
    assert (caller.get("/v1/models").status_code, caller.get("/v1/models/m").status_code) == (200, 404)
    for verb in ("load", "unload", "share", "promote", "rollback", "follow", "of-a-later-release"):
        refused = caller.post(f"/v1/models/m/{verb}")
        assert (refused.status_code, refused.json()["code"]) == (403, "forbidden"), verb
    assert admin.post("/v1/models/m/promote").json()["code"] == "model_not_found"


@pytest.mark.parametrize(
    "name",
    ["Authorization: Bearer {}", "authorization: bearer {}", "Authorization: Key {}", "X-API-Key: {}", "api-key: {}"],
)
def test_a_key_is_accepted_in_all_the_ways_that_clients_send_it(shared: GatewayProcess, name: str) -> None:
    key = make_key(shared.server.url, "acme")
    wait_until_keys_are_asked_for(shared)
    header, _, form = name.partition(": ")
    headers = {header: form.format(key)}
    wait_until(lambda: shared.http.get("/v1/jobs", headers=headers).status_code == 200, "it is taken")


def test_an_unknown_key_is_refused(shared: GatewayProcess) -> None:
    key = make_key(shared.server.url, "acme")
    caller = Caller(shared, key)
    wait_until(lambda: caller.get("/metrics").status_code == 403, "the key is known")
    other_end = "A" if key[-2] != "A" else "B"
    tokens = [
        f"{key[:-2]}{other_end}{key[-1]}",
        f"{key}x",
        key.upper(),
        "k" * 50_000,
        f"jk_{'0' * 16}_{'A' * 43}",
        "\xff",
    ]
    for given in ("", "Bearer", f"Basic {key}", *(f"Bearer {token}" for token in tokens)):
        answer = shared.http.get("/v1/jobs", headers={b"authorization": given.encode("latin-1")})
        assert answer.status_code == 401, given[:80]
        assert key not in answer.text
    in_query = shared.http.get("/v1/jobs", params={"api_key": key})
    assert (in_query.status_code, "a key in the query is ignored" in in_query.json()["detail"]) == (401, True)
    assert key not in shared.log()


def test_a_revoked_key_is_refused_and_revoking_the_last_one_does_not_allow_anonymous(
    queue: Server, gateway: GatewayProcess
) -> None:
    (caller,) = callers(queue, gateway, "acme")
    listed = jitney_keys(queue.url, "list").stdout
    key_id = listed.splitlines()[1].split()[0]
    assert ("acme" in listed, caller.headers["authorization"].removeprefix("Bearer ") in listed) == (True, False)
    assert 401 not in _submit_repeatedly(caller)
    assert jitney_keys(queue.url, "revoke", key_id).returncode == 0
    wait_until(lambda: caller.get("/v1/jobs").status_code == 401, "it is revoked", 3)
    assert _submit_repeatedly(caller) == {401}
    assert gateway.http.get("/v1/jobs").status_code == 401
    assert jitney_keys(queue.url, "revoke", key_id).returncode == 1


def test_a_key_is_stored_only_as_a_hash(queue: Server) -> None:
    done = jitney_keys(queue.url, "create", "--tenant", "acme", "--note", "the cron job")
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"jk_[0-9a-f]{16}_[\w-]{43}\n", done.stdout)
    key = done.stdout.strip()
    with queue.client() as client:
        kept = client.hgetall("jitney:keys")
        assert key.encode() not in b"".join(kept.values())
        assert key.rpartition("_")[2].encode() not in b"".join(kept.values())
        (record,) = map(orjson.loads, kept.values())
    assert record["digest"] == api_keys.hash_key(key)
    assert (record["tenant"], record["role"], record["note"]) == ("acme", "caller", "the cron job")


def test_tenant_names_have_allowed_characters(queue: Server) -> None:
    for name in ("", "a:b", "A", "a b", "../a", "a" * 65, "é", "-a", "*"):
        done = jitney_keys(queue.url, "create", "--tenant", name)
        assert (done.returncode, done.stdout) == (2, ""), name
        assert "1 to 64 of a-z" in done.stderr or "expected one argument" in done.stderr


@pytest.mark.parametrize(
    ("listens", "open_to", "status"),
    [("0.0.0.0", "", 401), ("0.0.0.0", "anyone", 200), ("127.0.0.1", "nobody", 401), ("127.0.0.1", "", 200)],
)
def test_anonymous_callers_beyond_loopback_need_a_setting(
    queue: Server, listens: str, open_to: str, status: int
) -> None:
    with GatewayProcess(queue, {"JITNEY_HOST": listens, "JITNEY_ALLOW_ANONYMOUS": open_to}) as gateway:
        answer = gateway.http.get("/v1/jobs")
        assert answer.status_code == status
        assert ("jitney keys create" in answer.text) == (status == 401)
        says = (
            "JITNEY_ALLOW_ANONYMOUS refuses other callers"
            if status == 401
            else "anyone who can reach this port has full access"
        )
        assert gateway.log().count(says) == 1


def test_junk_in_place_of_a_key_admits_no_caller(queue: Server) -> None:
    with queue.client() as client:
        client.hset("jitney:keys", mapping={"a" * 16: b"junk", "b" * 16: orjson.dumps({"id": "b" * 16}), "": b"{}"})
    with GatewayProcess(queue) as gateway:
        for key in ("", f"jk_{'a' * 16}_{'A' * 43}", "junk"):
            assert Caller(gateway, key).get("/v1/jobs").status_code == 401
        assert "grant no access" in gateway.log()


def test_pages_of_other_sites_are_refused_where_no_keys_exist(gateway: GatewayProcess) -> None:
    for headers in ({"sec-fetch-site": "cross-site"}, {"host": "rebound.example.com"}, {"host": "a.b:8000"}):
        answer = gateway.http.post("/v1/jobs?model=m", content=PNG, headers={"content-type": "image/png", **headers})
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
    for host in ("localhost", "LOCALHOST:1", "127.0.0.1:1", "[::1]:8000", "[::1]", "box", "x.localhost"):
        assert gateway.http.get("/v1/jobs", headers={"host": host}).status_code == 200


async def test_checking_a_key_costs_the_queue_no_command(
    queue: Server, gateway: GatewayProcess, anyio_backend: str
) -> None:
    del anyio_backend
    worker = Worker(queue)
    await worker.announce(gateway)
    (caller,) = callers(queue, gateway, "acme")
    job_id = caller.submit(PNG).json()["id"]
    with queue.client() as client:
        client.config_resetstat()
        for _ in range(200):
            assert caller.get(f"/v1/jobs/{job_id}").status_code == 200
        assert client.info("commandstats")["cmdstat_hmget"]["calls"] >= 200
        assert client.info("commandstats").get("cmdstat_hgetall", {"calls": 0})["calls"] < 100  # the loops' own looks
    await worker.connection.aclose()
