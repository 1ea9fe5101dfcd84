"""The checks that run after every fault, once the cluster is whole again."""

from collections import Counter
from typing import Any

from tests.support import invariants
from tests.support.cluster.cluster import COUNTS, Cluster
from tests.support.cluster.history import FINAL, History, outcome_of
from tests.support.cluster.parts import ManagedGateway
from tests.support.waiting import wait_until


def check(cluster: Cluster, history: History, before: int = 0, timeout_s: float = 40) -> None:
    """Fail with every violation. `before`: the jobs submitted before this history began."""
    wait_until(lambda: not open_jobs(cluster), f"every job ends; open: {open_jobs(cluster)}", timeout_s)
    views = [_all_jobs(gateway, history) for gateway in cluster.gateways]
    wrong = list(history.faults)
    wrong += [f"{job_id} was not there for a while" for job_id in history.gone - history.forgiven]
    for job_id, expected in history.accepted.items():
        seen = [view.get(job_id) for view in views]
        wrong += _faults(job_id, expected, seen, history)
    keys = {key: ids for key, ids in history.ids_of_key.items() if len(ids) > 1 and not ids & history.forgiven}
    wrong += [f"key {key} made {sorted(ids)}" for key, ids in keys.items()]
    wrong += [f"{job_id} was read as {sorted(ends)}" for job_id, ends in history.ends.items() if len(ends) > 1]
    assert not wrong, "\n".join(wrong[:40])
    unknown = assert_counts_add_up(cluster) - before - len(history.accepted)
    assert unknown <= history.unknown_at_most(), f"{unknown} jobs that nobody asked for"
    with cluster.queue() as client:
        invariants.check(client)


def _faults(job_id: str, expected: str, seen: list[dict[str, Any] | None], history: History) -> list[str]:
    jobs = [job for job in seen if job is not None]
    if len(jobs) < len(seen):
        return [] if job_id in history.forgiven and not jobs else [f"{job_id} is lost"]
    faults = [f"{job_id} never ended: {job['status']}" for job in jobs if job["status"] not in FINAL]
    if expected and (answers := {outcome_of(job) for job in jobs}) != {expected}:
        faults.append(f"{job_id} answers {sorted(answers)} instead of {expected}")
    return faults


def _all_jobs(gateway: ManagedGateway, history: History) -> dict[str, dict[str, Any]]:
    """Read every job through one gateway, by pages and one by one; both must agree, but for the output."""
    listed: dict[str, dict[str, Any]] = {}
    found: dict[str, dict[str, Any]] = {}
    with gateway.client() as http:
        cursor = ""
        while True:
            page = http.get("/v1/jobs", params={"limit": 100} | ({"cursor": cursor} if cursor else {})).json()
            listed |= {job["id"]: job for job in page["jobs"]}
            cursor = page["next_cursor"]
            if not cursor:
                break
        for job_id in {**listed, **history.accepted}:
            answer = http.get(f"/v1/jobs/{job_id}")
            if answer.status_code != 200:
                history.missing(gateway.name, job_id)
                continue
            found[job_id] = answer.json()
            history.read(gateway.name, found[job_id])
            shown = {name: value for name, value in found[job_id].items() if name != "output"}
            if listed.get(job_id, shown) != shown:
                history.faults.append(f"{job_id} is listed as {listed[job_id]}, and read as {shown}")
    return found


def open_jobs(cluster: Cluster) -> dict[str, int]:
    """The jobs that are not final, by model."""
    with cluster.queue() as client:
        load: dict[bytes, bytes] = client.hgetall("jitney:{s00}:open_totals")
    return {name.decode()[:-5]: int(n) for name, n in load.items() if name.endswith(b":jobs")}


def assert_counts_add_up(cluster: Cluster) -> int:
    """Check that every submitted job has finished once; return how many."""
    submitted, finished = Counter[str](), Counter[str]()
    for name, count in cluster.counts().items():
        event, model, *_ = name.split(":")
        if event == "submitted":
            submitted[model] += count
        elif event == "finished":
            finished[model] += count
    assert submitted == finished, f"{COUNTS}: submitted {submitted}, finished {finished}"
    return submitted.total()
