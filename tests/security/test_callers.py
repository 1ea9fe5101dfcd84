"""A9 to A12, A16, A18 to A20: a caller cannot read, guess or exhaust the resources of another.

A13, poison as a weapon, is tests/faults (F16, F17): it takes workers that die.
"""

import itertools
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest

from jobs.contract.errors import CODES
from jobs.contract.ids import new_job_id
from tests.support.api_keys import Caller, callers, make_key, wait_until_keys_are_asked_for
from tests.support.gateways import PNG, GatewayProcess, Worker
from tests.support.servers import Server
from tests.support.sockets import cpu_s
from tests.support.waiting import wait_until

UNKNOWN = "00" + "0" * 32


@pytest.fixture
def queue() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture
def gateway(queue: Server) -> Iterator[GatewayProcess]:
    with GatewayProcess(
        queue, {"JITNEY_RESULT_TTL_S": "1", "JITNEY_TENANT_JOBS": "20", "JITNEY_TENANTS": '{"dear": {"running": 2}}'}
    ) as process:
        yield process


@pytest.fixture
async def worker(queue: Server, gateway: GatewayProcess, anyio_backend: str) -> AsyncIterator[Worker]:
    del anyio_backend
    worker = Worker(queue, result_ttl_s=1, tenants='{"dear": {"running": 2}}')
    await worker.announce(gateway)
    yield worker
    await worker.connection.aclose()


def commands_about(queue: Server, caller: Caller, method: str, job_id: str) -> list[str]:
    """Send a request about a job; return the server's commands that name the job. JOB replaces its id in them."""
    with queue.client() as client, client.monitor() as monitor:
        assert caller.request(method, f"/v1/jobs/{job_id}").status_code == 404
        client.echo("all sent")
        sent = itertools.takewhile(
            lambda command: command != "ECHO all sent", (one["command"] for one in monitor.listen())
        )
        return [
            command.replace(job_id, "JOB").replace(f"{{s{job_id[:2]}}}", "{SHARD}")
            for command in sent
            if job_id in command
        ]


async def test_a9_a_foreign_job_is_denied_by_the_same_commands_as_an_unknown_one(
    queue: Server, gateway: GatewayProcess, worker: Worker
) -> None:
    """test_tenant_isolation.py shows that the answers are equal, `make long NAME=denials` that the times are.

    Webhook logs and bulk files are not covered yet.
    """
    acme, bolt = callers(queue, gateway, "acme", "bolt")
    job_id = acme.submit(PNG).json()["id"]
    for method in ("GET", "DELETE"):
        assert bolt.request(method, f"/v1/jobs/{UNKNOWN}").status_code == 404  # the server knows the scripts now
        foreign, unknown = (commands_about(queue, bolt, method, one) for one in (job_id, UNKNOWN))
        assert foreign == unknown != []
    assert acme.get(f"/v1/jobs/{job_id}").json()["status"] == "queued"
    del worker


def test_a10_an_id_is_128_random_bits_and_says_nothing_else() -> None:
    ids = [new_job_id(0) for _ in range(20_000)]
    assert len({job_id[2:18] for job_id in ids}) == len({job_id[18:] for job_id in ids}) == len(ids)
    bits = [f"{int.from_bytes(bytes.fromhex(job_id[2:])):0128b}" for job_id in ids]
    for place in range(128):  # each bit is a coin: five standard deviations
        assert abs(sum(one[place] == "1" for one in bits) - 10_000) < 5 * 71
    same_as_next = sum(a == b for one, other in itertools.pairwise(bits) for a, b in zip(one, other, strict=True))
    assert abs(same_as_next - 64 * (len(ids) - 1)) < 5 * (128 * len(ids)) ** 0.5 / 2
    assert ids != sorted(ids)


async def test_a10_guesses_find_nothing_and_are_rate_limited(queue: Server, worker: Worker) -> None:
    del worker
    with GatewayProcess(queue, {"JITNEY_TENANT_REQUESTS": "500"}) as gateway:
        (acme,) = callers(queue, gateway, "acme")
        statuses = Counter(acme.get(f"/v1/jobs/{new_job_id(0)}").status_code for _ in range(1500))
    assert set(statuses) == {404, 429}
    assert statuses[404] < 1000


async def test_a11_a_flood_is_refused_with_429_and_the_others_are_served_next(
    queue: Server, gateway: GatewayProcess, worker: Worker
) -> None:
    """The long form, with times, is `make long NAME=fairness`."""
    flooding, calm = callers(queue, gateway, "flooding", "calm")
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: flooding.submit(PNG), range(200)))
    assert Counter(answer.status_code for answer in answers) == {202: 20, 429: 180}
    assert all(int(one.headers["retry-after"]) >= 1 for one in answers if one.status_code == 429)
    mine = calm.submit(PNG).json()["id"]
    assert mine in {job.id for job in await worker.claim(2)}  # one of the next two rows is its


async def test_a12_jobs_that_are_expensive_to_run_leave_rows_for_the_others(
    queue: Server, gateway: GatewayProcess, worker: Worker
) -> None:
    dear, calm = callers(queue, gateway, "dear", "calm")
    for _ in range(10):
        dear.submit(PNG)
    assert len(await worker.claim(32)) == 2
    mine = calm.submit(PNG).json()["id"]
    assert [job.id for job in await worker.claim(32)] == [mine]


def test_a16_a_bad_key_gets_401(queue: Server, gateway: GatewayProcess) -> None:
    """The time of each: `make long NAME=denials`."""
    key = make_key(queue.url, "acme")
    good = Caller(gateway, key)
    wait_until_keys_are_asked_for(gateway)
    wait_until(lambda: good.get("/v1/jobs").status_code == 200, "the key is known")

    def ask(text: str) -> httpx2.Response:
        return gateway.http.get("/v1/jobs", headers={"authorization": f"Bearer {text}"})

    near, far = key[:-1] + ("A" if key[-1] != "A" else "Q"), "jk_" + "f" * 16 + "_" + "A" * 43
    for text in (near, far, "A" * 60_000, key * 20, key + "=", "jk_", "jk_" + "0" * 16):
        assert ask(text).status_code == 401, text[:50]
    for path in (
        "/v1/jobs",
        "//v1/jobs",
        "/metrics",
        "/v1/jobs/",
        "/V1/JOBS",
        "/%761/jobs",
        "/v1/../metrics",
        "/healthz/../metrics",
    ):
        assert gateway.http.get(path).status_code == 401, path
    body_is_not_read = gateway.http.post("/v1/jobs", content=b"x" * 10_000_000, headers={"content-type": "image/png"})
    assert body_is_not_read.status_code == 401


async def test_a18_uncollected_results_expire(queue: Server, gateway: GatewayProcess, worker: Worker) -> None:
    (acme,) = callers(queue, gateway, "acme")
    with queue.client() as client:
        before = client.dbsize()
        ids = [acme.submit(PNG + bytes(1000), {"idempotency-key": str(n)}).json()["id"] for n in range(20)]
        await worker.succeed(await worker.claim())
        wait_until(lambda: acme.get(f"/v1/jobs/{ids[-1]}").status_code == 404, "the result is gone", 5)
        assert acme.get("/v1/jobs").json() == {"jobs": [], "next_cursor": None}
        expired = acme.submit(PNG + bytes(1000), {"idempotency-key": "3"})
        assert (expired.status_code, expired.json()["code"]) == (410, "result_expired")
        left = [key.decode() for key in client.scan_iter(count=1000) if b":job:" in key]
        assert left == []
        assert client.dbsize() - before < 20 + 12  # the keys' own, for a day, and sums


async def test_a19_a_poll_storm_costs_the_queue_two_commands_a_poll_and_a_wait_costs_one(
    queue: Server, gateway: GatewayProcess, worker: Worker
) -> None:
    (acme,) = callers(queue, gateway, "acme")
    job_id = acme.submit(PNG).json()["id"]
    polls, polled = 2000, f"/v1/jobs/{job_id}"
    assert acme.get(polled).headers["retry-after"] == "1"

    def commands() -> int:
        return sum(calls().values())

    def calls() -> Counter[str]:
        with queue.client() as client:
            found: dict[str, Any] = client.info("commandstats")
            return Counter({name: int(one["calls"]) for name, one in found.items()})

    before, begun = calls(), time.monotonic()
    with ThreadPoolExecutor(32) as pool:
        assert set(pool.map(lambda _: acme.get(polled).status_code, range(polls))) == {200}
    made, took_s = calls() - before, time.monotonic() - begun
    assert (min(polls, made["cmdstat_hmget"]), made["cmdstat_zrank"]) == (polls, polls)
    # The rest is what the gateway's own loops ask, at the short intervals of tests.
    assert made.total() - 2 * polls < 200 * took_s + 100
    spent_s = cpu_s(gateway.process.pid)
    asked = commands()
    with ThreadPoolExecutor(32) as pool:
        waiting = [pool.submit(acme.get, f"{polled}?wait=20") for _ in range(32)]
        wait_until(lambda: commands() - asked >= 32, "all wait")
        await worker.succeed(await worker.claim())
        assert {one.result().json()["status"] for one in waiting} == {"succeeded"}
    assert cpu_s(gateway.process.pid) - spent_s < 2


async def test_a20_names_invented_by_callers_create_no_metrics_or_log_lines(
    queue: Server, gateway: GatewayProcess, worker: Worker
) -> None:
    del worker
    acme, admin = callers(queue, gateway, "acme", "admin")

    def series() -> set[str]:
        lines = admin.get("/metrics").text.splitlines()
        return {line.rpartition(" ")[0] for line in lines if not line.startswith("#")}

    acme.submit(PNG)
    before, log = series(), gateway.log()
    for n in range(300):
        acme.post(f'/v1/jobs?model=m{n}"}}%0a', content=PNG, headers={"content-type": "image/png"})
        acme.get(f"/v1/jobs/{n:034d}")
        acme.get(f"/nowhere/{n}", headers={"user-agent": f"agent\t{n}", "authorization": f"Bearer jk_{n}"})
        acme.submit(PNG, {"idempotency-key": f'k{n}"}}'})
    wait_until(lambda: 'jitney_refusals_total{code="job_not_found"}' in series(), "the refusals are written")
    codes = {f'jitney_refusals_total{{code="{code}"}}' for code in CODES}  # fixed words
    assert series() - before - codes == set()
    assert re.search(r"nowhere|agent|m299|jk_1", admin.get("/metrics/process").text) is None
    assert len(gateway.log()) - len(log) < 2000
    assert re.search(r"nowhere|agent|m299", gateway.log()) is None
