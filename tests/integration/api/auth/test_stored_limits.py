"""Limits of a tenant are stored in the queue by `jitney tenants`; all processes follow without a restart.

The row: they were in each process's environment, where gateways and workers could differ without a word.
"""

import asyncio
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator

import pytest

from jobs.store.job_store import JobStore
from jobs.store.settings import StoreSettings
from jobs.tenants import stored_limits
from jobs.tenants.stored_limits import StoredLimits
from tests.support.api_keys import callers
from tests.support.gateways import PNG, GatewayProcess, Worker
from tests.support.processes import ROOT
from tests.support.servers import Server
from tests.support.waiting import wait_until


@pytest.fixture(scope="module")
def gateway(queue: Server) -> Iterator[GatewayProcess]:
    """Only the notification can tell: the next refresh is an hour away."""
    env = {
        "JITNEY_API_KEY_REFRESH_S": "3600",
        "JITNEY_TENANT_JOBS": "100",
        "JITNEY_TENANTS": '{"dear": {"jobs": 1, "weight": 2}}',
    }
    with GatewayProcess(queue, env) as process:
        yield process


def jitney_tenants(queue: Server, *args: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "cli.main", "tenants", *args]
    env = {**os.environ, "JITNEY_REDIS_URL": queue.url}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=30)


def done(queue: Server, *args: str) -> str:
    ran = jitney_tenants(queue, *args)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def rows(queue: Server) -> dict[str, list[str]]:
    _, *lines = done(queue, "list").splitlines()
    return {line[:20].strip(): line[20:].split() for line in lines}


async def test_setting_and_removing_a_limit_take_effect_at_once(
    queue: Server, gateway: GatewayProcess, worker: Worker
) -> None:
    del worker
    acme, bolt, dear = callers(queue, gateway, "acme", "bolt", "dear")
    done(queue, "set", "acme", "--jobs", "2", "--weight", "3")
    done(queue, "set", "acme", "--bytes", "1000")
    wait_until(lambda: acme.submit(PNG).status_code == 429, "the limit holds")
    assert bolt.submit(PNG).status_code == 202
    (refused,) = [acme.submit(PNG)]
    assert (refused.json()["code"], refused.json()["limit_jobs"], refused.json()["limit_bytes"]) == (
        "quota_exceeded",
        2,
        1000,
    )
    wait_until(lambda: "?" not in rows(queue)["(all others)"], "the gateway has announced itself to the emptied queue")
    # weight, requests, jobs, bytes, running; then what is open. In brackets: as TENANT_* says.
    assert rows(queue) == {
        "acme": ["3", "(0)", "2", "1000", "(0)", "2", str(2 * len(PNG)), "-"],
        "(all others)": ["1", "0", "100", "0", "0"],
    }
    done(queue, "set", "acme", "--jobs", "0", "--bytes", "default")
    wait_until(lambda: acme.submit(PNG).status_code == 202, "the limit is gone")
    assert rows(queue)["acme"][:5] == ["3", "(0)", "0", "(0)", "(0)"]
    # A tenant that has limits in the queue has none of TENANTS.
    assert [dear.submit(PNG).status_code for _ in range(2)] == [202, 429]
    done(queue, "set", "dear", "--requests", "50")
    wait_until(lambda: dear.submit(PNG).status_code == 202, "its entry stands in place of the setting")
    done(queue, "unset", "dear")
    wait_until(lambda: dear.submit(PNG).status_code == 429, "the setting holds again")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("set", "acme"), "give at least one limit"),
        (("set", "Acme", "--jobs", "1"), "is not a tenant name: use 1 to 64 of a-z"),
        (("set", "acme", "--jobs", "1e3"), "must be an integer from 0 to 9007199254740991 (0 = no limit), or default"),
        (("set", "acme", "--jobs", "9" * 30), "must be an integer from 0 to"),
        (("set", "acme", "--weight", "0"), "must be an integer from 1 to 1000, or default"),
        (("set", "acme", "--jobz", "1"), "unrecognized arguments"),
        (("unset", "*"), "is not a tenant name"),
    ],
)
def test_an_invalid_limit_is_refused_with_what_is_allowed(queue: Server, args: tuple[str, ...], said: str) -> None:
    ran = jitney_tenants(queue, *args)
    assert (ran.returncode, ran.stdout, said in ran.stderr, "Traceback" in ran.stderr) == (2, "", True, False)


def test_a_tenant_without_limits_of_its_own_is_named(queue: Server) -> None:
    ran = jitney_tenants(queue, "unset", "nobody")
    assert (ran.returncode, "has no own limits" in ran.stderr) == (1, True)


async def test_a_worker_follows_weights_and_running_jobs(queue: Server, worker: Worker) -> None:
    store = JobStore(StoreSettings(redis_url=queue.url), worker.connection)
    limits = StoredLimits(worker.connection, store.tenants)
    await limits.check()
    assert store.tenants.shares == b""
    await stored_limits.update_limits(worker.connection, "a", {"running": 2, "weight": 5})
    await limits.refresh()
    jobs = [tuple(store.tenants.limits(name)) for name in ("a", "b")]
    assert jobs == [(5, 0, 0, 0, 2), (1, 0, 0, 0, 0)]
    assert store.tenants.quota("a") == "claimed"
    await stored_limits.update_limits(worker.connection, "a", {"running": None, "weight": None})
    await limits.refresh()
    assert (store.tenants.shares, await stored_limits.read_limits(worker.connection)) == (b"", {})


async def test_concurrent_changes_of_a_tenant_lose_nothing(worker: Worker) -> None:
    names = ("requests", "jobs", "bytes", "running")
    await asyncio.gather(*(stored_limits.update_limits(worker.connection, "a", {name: 7}) for name in names))
    assert Counter((await stored_limits.read_limits(worker.connection))["a"].model_dump().values()) == {7: 4, None: 1}


async def test_unreadable_limits_are_replaced_by_the_defaults(queue: Server, worker: Worker) -> None:
    store = JobStore(StoreSettings(redis_url=queue.url, tenant_jobs=9), worker.connection)
    with queue.client() as client:
        for name, text in {"a": "{", "b": '{"jobs": -1}', "C": "{}", b"\xff": "{}", "d": '{"jobs": 3}'}.items():
            client.hset("jitney:tenants", name, text)
    await StoredLimits(worker.connection, store.tenants).refresh()
    assert [store.tenants.limits(name).jobs for name in ("a", "b", "C", "d")] == [9, 9, 9, 3]
    await stored_limits.update_limits(worker.connection, "a", {"jobs": 4})
    assert (await stored_limits.read_limits(worker.connection))["a"].jobs == 4
