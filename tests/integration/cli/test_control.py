"""`jitney jobs`, `queues`, `workers`, `dead-letters`, `webhooks` and `tenants usage`: each verb against a gateway."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.api.conftest import gateway, queue, worker
from tests.support.gateways import GatewayProcess, Worker

ROOT = Path(__file__).parents[3]

__all__ = ["gateway", "queue", "worker"]


def jitney(gateway: GatewayProcess, *args: str, stdin: str = "", code: int = 0) -> str:
    """Run a verb; return what it prints."""
    command = [sys.executable, "-m", "cli.main", *args]
    env = {**os.environ, "JITNEY_URL": str(gateway.http.base_url)}
    done = subprocess.run(
        command, cwd=ROOT, env=env, input=stdin, capture_output=True, text=True, check=False, timeout=30
    )
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


def submit(gateway: GatewayProcess, lane: str = "interactive", webhook: str = "") -> str:
    job = {"model": "m", "input": {"image": "iVBORw0KGgo="}, "lane": lane, "metadata": {"order": lane}}
    job |= {"webhook": webhook} if webhook else {}
    return str(gateway.http.post("/v1/jobs", json=job).json()["id"])


async def test_jobs_are_listed_canceled_and_purged(gateway: GatewayProcess, worker: Worker) -> None:
    first, second = submit(gateway), submit(gateway, "bulk")
    listed = jitney(gateway, "jobs", "list", "--status", "queued", "--lane", "bulk").splitlines()
    assert listed[0].split()[:2] == ["id", "status"]
    assert [line.split()[0] for line in listed[1:]] == [second]
    found = json.loads(jitney(gateway, "jobs", "list", "--metadata", "order=interactive", "--json"))
    assert [job["id"] for job in found] == [first]
    assert jitney(gateway, "jobs", "cancel", "--model", "m", "--dry-run") == "2 jobs match\n"
    assert jitney(gateway, "jobs", "cancel", "--lane", "bulk") == "1 jobs are canceled\n"
    assert "job_not_final" not in jitney(gateway, "jobs", "purge", second)
    assert "has not ended" in jitney(gateway, "jobs", "purge", first, code=1)
    assert "select jobs by at least one filter" in jitney(gateway, "jobs", "cancel", code=1)
    assert jitney(gateway, "jobs", "cancel", "--all") == "1 jobs are canceled\n"
    assert "canceled" in jitney(gateway, "jobs", "list", "--code", "canceled", "--tenant", "*")
    assert "KEY=VALUE" in jitney(gateway, "jobs", "list", "--metadata", "order", code=2)
    del worker


async def test_queues_are_listed_paused_and_purged(gateway: GatewayProcess, worker: Worker) -> None:
    assert "new jobs: refuse" in jitney(gateway, "queues", "pause", "m", "--lane", "bulk", "--submits", "refuse")
    submit(gateway)
    lines = [line.split() for line in jitney(gateway, "queues", "list").splitlines()]
    assert [line[:4] for line in lines[1:]] == [["m", "1", "interactive", "1"], ["m", "1", "bulk", "0"]]
    assert "nothing is canceled" in jitney(gateway, "queues", "purge", "m", stdin="n\n", code=1)
    assert "1 jobs are canceled" in jitney(gateway, "queues", "purge", "m", stdin="m\n")
    assert jitney(gateway, "queues", "purge", "m", "--yes") == "0 jobs are canceled\n"
    assert "new jobs" not in jitney(gateway, "queues", "resume", "m")
    assert json.loads(jitney(gateway, "queues", "list", "--json"))["queues"][1]["paused"] is None
    assert "no model 'nobody'" in jitney(gateway, "queues", "pause", "nobody", code=1)
    del worker


async def test_workers_dead_letters_webhooks_and_usage(gateway: GatewayProcess, worker: Worker) -> None:
    assert "w1" in jitney(gateway, "workers", "list")
    assert "pausing" in jitney(gateway, "workers", "pause", "w1")
    assert "serving" in jitney(gateway, "workers", "resume", "w1")
    assert "no live worker" in jitney(gateway, "workers", "pause", "w2", code=1)
    ids = [submit(gateway, webhook="https://receiver.example/hook") for _ in range(2)]
    await worker.fail(await worker.claim())
    assert all(job_id in jitney(gateway, "dead-letters", "list") for job_id in ids)
    assert f"dead letter {ids[0]} is replayed as job" in jitney(gateway, "dead-letters", "replay", ids[0])
    assert jitney(gateway, "dead-letters", "replay", "--all").startswith("1 dead letters are replayed; 1 were before")
    assert jitney(gateway, "dead-letters", "purge", ids[0]) == f"dead letter {ids[0]} is purged\n"
    assert jitney(gateway, "dead-letters", "purge", "--model", "m") == "1 dead letters are purged\n"
    listed = jitney(gateway, "webhooks", "list", "--job", ids[0]).splitlines()
    assert listed[1].split()[2] == "waiting"
    assert "is due again" in jitney(gateway, "webhooks", "replay", listed[1].split()[0])
    assert jitney(gateway, "webhooks", "replay", "--all") == "2 deliveries are due again\n"
    assert "https://receiver.example" in jitney(gateway, "webhooks", "endpoints")
    assert "default" in jitney(gateway, "tenants", "usage")
    assert json.loads(jitney(gateway, "tenants", "usage", "default", "--json"))[0]["tenant"] == "default"
    jitney(gateway, "jobs", "cancel", "--all")


@pytest.mark.parametrize("verb", ["jobs", "queues", "workers", "dead-letters", "webhooks"])
def test_an_unreachable_gateway_is_reported(verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JITNEY_API_KEY", raising=False)
    command = [sys.executable, "-m", "cli.main", verb, "list", "--url", "http://127.0.0.1:9"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=30)
    assert (done.returncode, "Traceback" in done.stderr) == (69, False)
    assert f"jitney {verb}: cannot reach the gateway" in done.stderr
