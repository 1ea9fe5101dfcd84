"""Limits of a tenant: request rate and open jobs, the remaining quota, and Retry-After."""

from collections.abc import Iterator

import pytest

from api.auth.rate_limiter import RateLimiter
from tests.support.api_keys import callers
from tests.support.gateways import PNG, GatewayProcess, Worker
from tests.support.servers import Server


@pytest.fixture(scope="module")
def queue() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture
def gateway(queue: Server) -> Iterator[GatewayProcess]:
    limits = {
        "JITNEY_TENANT_JOBS": "3",
        "JITNEY_TENANTS": '{"hasty": {"requests": 5}}',
        "JITNEY_TENANT_WINDOW_S": "600",
    }
    with GatewayProcess(queue, limits) as process:
        yield process


def test_request_quota_refills_evenly() -> None:
    rates = RateLimiter(window_s=60)
    at_once = [rates.take("a", 6, now=0) for _ in range(7)]
    assert [one.is_allowed for one in at_once] == [True] * 6 + [False]
    assert [one.remaining for one in at_once] == [5, 4, 3, 2, 1, 0, 0]
    assert (at_once[-1].retry_after_s, at_once[-1].reset_in_s) == (10, 60)
    assert rates.take("b", 6, now=0).remaining == 5
    assert not rates.take("a", 6, now=9.9).is_allowed
    assert rates.take("a", 6, now=10).is_allowed
    assert rates.take("a", 6, now=1000).remaining == 5


async def test_the_remaining_requests_are_reported_before_a_refusal(
    queue: Server, gateway: GatewayProcess, worker: Worker
) -> None:
    del worker
    hasty, calm = callers(
        queue, gateway, "hasty", "calm"
    )  # the quota holds the requests that asked whether they are known
    left = [int(hasty.get("/v1/jobs").headers["ratelimit"].split("r=")[1].split(";")[0]) for _ in range(3)]
    assert left == sorted(left, reverse=True)
    while (answer := hasty.get("/v1/jobs")).status_code == 200:
        assert answer.headers["ratelimit-policy"] == '"requests";q=5;w=600'
    assert (answer.status_code, answer.json()["code"], answer.json()["limit"]) == (429, "rate_limited", 5)
    assert 0 < int(answer.headers["retry-after"]) <= 120
    assert answer.headers["ratelimit"].startswith('"requests";r=0;t=')
    for refused in (
        hasty.submit(PNG),
        hasty.post("/predict", files={"image": PNG}),
        hasty.get("/v1/jobs/00" + "0" * 32),
    ):
        assert (refused.status_code, "retry-after" in refused.headers) == (429, True)
    for _ in range(10):
        assert "ratelimit" not in calm.get("/v1/jobs").headers
    assert hasty.get("/healthz").status_code == 200


async def test_too_many_open_jobs_are_refused_and_the_others_are_not(
    queue: Server, gateway: GatewayProcess, worker: Worker
) -> None:
    acme, bolt = callers(queue, gateway, "acme", "bolt")
    assert [acme.submit(PNG).status_code for _ in range(4)] == [202, 202, 202, 429]
    refused = acme.submit(PNG)
    assert (refused.json()["code"], refused.json()["limit_jobs"]) == ("quota_exceeded", 3)
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert bolt.submit(PNG).status_code == 202
    many = b'{"model":"m","input":{"image":"iVBORw0KGgo="}}\n' * 4
    entries = bolt.post("/v1/jobs", content=many, headers={"content-type": "application/x-ndjson"}).json()["jobs"]
    assert [(entry["error"] or {}).get("code", "taken") for entry in entries] == [
        *("taken", "taken", "quota_exceeded", "quota_exceeded")
    ]
    await worker.succeed(await worker.claim(1))
    assert acme.submit(PNG).status_code == 202
