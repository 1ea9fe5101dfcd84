"""The checks after a soak: every accepted job exists, with one correct end that every reader sees."""

import statistics

import orjson

from jobs.redis_client import keys
from jobs.store.raw_record import flatten
from tests.long.faults.kills import Killer
from tests.long.faults.mixed_load import MixedLoad
from tests.support import invariants
from tests.support.cluster import checker
from tests.support.cluster.cluster import Cluster
from tests.support.cluster.history import FINAL
from tests.support.waiting import wait_until

CHUNK = 1000


def judge(cluster: Cluster, load: MixedLoad, killer: Killer, before: dict[int, tuple[str, int, float]]) -> int:
    """Print the figures; returns the exit code."""
    try:
        wait_until(lambda: not checker.open_jobs(cluster), "every job ends", 120)
    except AssertionError:
        load.wrong.append(f"jobs are still open: {checker.open_jobs(cluster)}")
    lost, doubled, wrong = _count_violations(cluster, load)
    total = 0
    try:
        total = checker.assert_counts_add_up(cluster)
        with cluster.queue() as client:
            invariants.check(client)
        cluster.assert_no_growth(before)
    except AssertionError as error:
        load.wrong.append(str(error))
    unknown = total - len(load.accepted)
    if not 0 <= unknown <= load.unsure:
        load.wrong.append(f"{unknown} jobs are of no caller; at most {load.unsure} may be")
    stuck = sum(checker.open_jobs(cluster).values())
    print(f"jobs: {total}; lost {lost}, with two results {doubled}, wrong {wrong}, stuck {stuck}")
    print(f"counts: {cluster.counts()}")
    print(f"answers by status: {dict(sorted(load.statuses.items()))}; faults: {dict(killer.kinds)}")
    for kind, times in killer.recovered_s.items():
        print(f"{kind}: what it held had ended after p50 {statistics.median(times):.2f} s, max {max(times):.2f} s")
    for fault in load.wrong[:20]:
        print("BROKEN:", fault)
    return int(bool(load.wrong or lost or doubled or wrong or stuck))


def _count_violations(cluster: Cluster, load: MixedLoad) -> tuple[int, int, int]:
    """Count the accepted jobs that are lost, that have another end than their caller saw, and with a wrong answer."""
    lost = doubled = wrong = 0
    ids = [*load.accepted]
    with cluster.queue() as client:
        for some in (ids[at : at + CHUNK] for at in range(0, len(ids), CHUNK)):
            with client.pipeline(transaction=False) as pipe:
                for job_id in some:
                    pipe.hgetall(keys.job(job_id))
                found = pipe.execute()
            for job_id, record in zip(some, found, strict=True):
                if not record:
                    lost += 1
                    continue
                job = flatten(record)
                parts = [orjson.loads(record[part]) if part in record else None for part in (b"body", b"error")]
                end = orjson.dumps([job["state"], *parts, int(job["attempts"])])
                doubled += load.ends.get(job_id, end) != end
                expected = load.accepted[job_id]
                label = parts[0]["predictions"][0]["label"] if parts[0] else ""
                wrong += job["state"] not in FINAL or bool(expected and label != expected)
    return lost, doubled, wrong
