"""The metrics of the whole queue after each event that they count."""

import os
import re
import time
from pathlib import Path

import pytest

from jobs.contract.job import Outcome
from jobs.contract.lifecycle import State
from jobs.metrics.cpu_time import CpuMeter
from jobs.store.maintenance import recover_dead_worker
from tests.support.gateways import GatewayProcess, Worker
from tests.support.servers import Server
from tests.support.service import ROOT
from tests.support.waiting import wait_until

PAGE = (ROOT / "docs" / "reference" / "metrics.md").read_text()


def metrics(gateway: GatewayProcess) -> dict[str, float]:
    lines = gateway.http.get("/metrics").text.splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))}


async def test_every_event_is_counted_by_its_kind(queue: Server, gateway: GatewayProcess, worker: Worker) -> None:
    for _ in range(4):
        gateway.submit()
    lost, retried, suspect = (await worker.claim(3))[:3]
    await recover_dead_worker(worker.store, "w1", [suspect.claim])  # it held all three
    with queue.client() as client:
        client.hincrby("jitney:{s00}:counts", "of a later release:m", 5)
    again = await worker.claim()
    assert {job.id for job in again} > {lost.id, retried.id}
    late = Outcome(lost.id, lost.attempt, State.SUCCEEDED, b"{}")
    later = [Outcome(job.id, job.attempt, State.QUEUED, b"", after_ms=60_000) for job in again if job.id == retried.id]
    await worker.store.finish("w1", [late, *later])
    await worker.fail([job for job in again if job.id == lost.id])
    await worker.succeed([job for job in again if job.id not in {lost.id, retried.id}])
    seen = metrics(gateway)
    assert {name: value for name, value in seen.items() if name.startswith(("jitney_jobs", "jitney_late"))} == {
        'jitney_jobs_submitted_total{model="m"}': 4,
        'jitney_jobs_failed_total{code="inference_failed",model="m"}': 1,
        'jitney_jobs_finished_total{model="m",outcome="failed"}': 1,
        'jitney_jobs_finished_total{model="m",outcome="succeeded"}': 1,
        'jitney_jobs_reclaimed_total{model="m"}': 3,
        'jitney_jobs_retried_total{model="m"}': 1,
        'jitney_late_results_total{model="m"}': 1,
    }
    waiting = {
        lane: seen[f'jitney_waiting_jobs{{lane="{lane}",model="m",version="1"}}'] for lane in ("bulk", "suspect")
    }
    assert waiting == {"bulk": 0, "suspect": 1}
    assert (seen["jitney_dead_letters"], seen["jitney_dead_letter_bytes"]) == (1, 8)


@pytest.mark.parametrize("path", ["/metrics", "/metrics/process"])
async def test_every_metric_is_documented_with_its_type_and_labels(
    gateway: GatewayProcess, worker: Worker, path: str
) -> None:
    of_queue, of_process = PAGE.split("## One gateway")
    page = of_queue if path == "/metrics" else of_process
    rows = re.findall(r"^\| `(jitney_\w+)` \| (\w+) \| (.*?) ?\| .+ \|$", page, re.MULTILINE)
    documented = {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}
    assert len(documented) == len(rows)
    gateway.submit()
    await worker.succeed(await worker.claim())
    reported = {"/metrics": "jitney_processes{", "/metrics/process": "jitney_gateway_processes 1"}[path]
    wait_until(lambda: reported in gateway.http.get(path).text, "it has reported")
    text = gateway.http.get(path).text
    rendered = dict(re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE))
    assert {name: kind for name, (kind, _) in documented.items()} == rendered
    seen = set()
    for name, labels in re.findall(r"^(\w+)(?:{(.+)})? \S+$", text, re.MULTILINE):
        family = name if name in rendered else re.sub("_(bucket|sum|count)$", "", name)
        assert set(re.findall(r'(\w+)="', labels)) - {"le"} == documented[family][1], name
        seen.add(family)
    expected = {
        "/metrics": {
            "jitney_jobs_finished_total",
            "jitney_waiting_jobs",
            "jitney_server_unsafe",
            "jitney_stage_seconds",
        }
        | {"jitney_processes"},
        "/metrics/process": documented.keys(),
    }
    assert expected[path] <= seen


async def test_cpu_time_of_workers_adds_up_and_counts_nothing_twice(gateway: GatewayProcess, worker: Worker) -> None:
    first, second = CpuMeter("worker"), CpuMeter("worker")
    for meter in (first, second, first, second):  # each stands for a process that has used what this one has
        await meter.flush(worker.connection)
    spent_s = time.process_time()
    told_s = metrics(gateway)['jitney_cpu_seconds_total{part="worker"}']
    assert 2 * spent_s * 0.9 < told_s <= 2 * spent_s


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the system does not say what a process has used")
def test_cpu_time_is_that_of_all_gateways_and_of_the_queues_server() -> None:
    queue, quick = Server(), {"JITNEY_METRICS_FLUSH_S": "0.1"}
    try:
        with GatewayProcess(queue, quick) as one, GatewayProcess(queue, quick) as other:
            assert queue.process is not None
            used_s = cpu_s(one.process.pid) + cpu_s(other.process.pid)
            server_s = cpu_s(queue.process.pid)

            def seconds(part: str) -> float:
                return metrics(one)[f'jitney_cpu_seconds_total{{part="{part}"}}']

            wait_until(lambda: seconds("gateway") >= used_s, "both gateways have told")
            assert seconds("gateway") <= cpu_s(one.process.pid) + cpu_s(other.process.pid) + 2 * STEPS_S
            assert server_s <= seconds("redis") + 0.001
            assert seconds("redis") <= cpu_s(queue.process.pid) + STEPS_S
            assert seconds("worker") == 0
    finally:
        queue.close()


STEPS_S = 0.025  # the system counts user and system time in whole steps of 10 ms, rounded down


def cpu_s(pid: int) -> float:
    """Return the CPU time that a process has used."""
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
