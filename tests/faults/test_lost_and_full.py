"""The queue server loses its data, runs out of memory, or is replaced by its replica."""

import resource
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest

from tests.support.cluster.callers import digit, four
from tests.support.cluster.cluster import Cluster
from tests.support.cluster.proxy import Proxy
from tests.support.cluster.scenario import BATCH, Scenario
from tests.support.servers import Server
from tests.support.waiting import check_during, wait_until

SPARE_BYTES = 30_000


def flush(cluster: Cluster) -> None:
    with cluster.queue() as client:
        client.flushall()


def restart_empty(cluster: Cluster) -> None:
    cluster.server.kill()
    shutil.rmtree(cluster.server.folder / "appendonlydir")
    cluster.server.start()


@pytest.mark.timeout(120)
@pytest.mark.parametrize("lose", [flush, restart_empty])
def test_after_the_loss_of_all_data_no_caller_hangs_and_work_continues(
    scenario: Scenario, lose: Callable[[Cluster], None]
) -> None:
    """F10: all data of the queue is lost under load; waiting callers get a 404."""
    cluster = scenario.cluster
    with scenario.load() as load:
        wait_until(lambda: load.done >= 50, "callers get answers")
        ids = scenario.submit(12 * BATCH)
        with ThreadPoolExecutor(1) as pool, cluster.gateways[0].client(60) as http:
            waiting = pool.submit(http.get, f"/v1/jobs/{ids[-1]}", params={"wait": 50})
            wait_until(lambda: cluster.job(ids[-1]).get("watchers"), "a caller waits for a job far behind")
            lose(cluster)
            began, done = time.monotonic(), load.done
            assert waiting.result(30).status_code == 404
            assert time.monotonic() - began < 10
        wait_until(lambda: load.done >= done + 50, "callers get answers again")
    scenario.history.forgive()
    wait_until(cluster.is_whole, "every worker is known again")
    more = scenario.final(scenario.submit(2 * BATCH))
    assert {(job["status"], job["attempts"]) for job in more} == {("succeeded", 1)}


def test_a_gateway_remembers_its_models_when_the_queue_loses_them(scenario: Scenario) -> None:
    """F10: until workers have registered again, a submit is deferred or accepted; the model stays known."""
    cluster = scenario.cluster
    for worker in cluster.workers:
        worker.freeze()
    flush(cluster)
    check_during(lambda: None, 1.5)  # every gateway has looked at the models meanwhile
    for gateway in cluster.gateways:
        answer = scenario.caller.send(digit(scenario.random), gateway)
        assert answer.status_code in {202, 503}, answer.text


def test_a_queue_without_memory_refuses_at_once_and_ends_accepted_jobs(scenario: Scenario) -> None:
    """F11: maxmemory is reached; accepted jobs still run and are written, and no process dies."""
    cluster, pids = scenario.cluster, [part.pid for part in scenario.cluster.parts]
    ids = scenario.submit(3 * BATCH)
    with cluster.queue() as client:
        client.config_set("maxmemory", 1)
        for gateway in cluster.gateways * 3:
            refused = scenario.caller.send(digit(scenario.random), gateway)
            assert (refused.status_code, refused.json()["code"]) == (503, "queue_full")
            assert int(refused.headers["retry-after"]) >= 1
            assert refused.elapsed.total_seconds() < 5
        assert {job["status"] for job in scenario.final(ids)} == {"succeeded"}
        check_during(lambda: None, 2)  # several beats of every worker fall into it
        client.config_set("maxmemory", 0)
    wait_until(cluster.is_whole, "every worker is known again")
    assert [part.pid for part in cluster.parts] == pids
    wait_until(lambda: _sent(scenario, 6) == 6 * [(202, "")], "jobs are taken again")


def test_a_full_disk_gives_503_until_there_is_room(scenario: Scenario) -> None:
    """F12: the append-only file cannot grow; submits are refused meanwhile, and recovery is automatic."""
    cluster = scenario.cluster
    server = cluster.server.process
    assert server is not None
    # Gateways look at the server's memory now and then, and it may have been full before.
    wait_until(lambda: _sent(scenario, 20) == [(202, "")] * 20, "jobs are taken everywhere")
    largest = max(file.stat().st_size for file in _append_only_files(cluster.server.folder))
    resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (largest + SPARE_BYTES, resource.RLIM_INFINITY))
    try:
        answer = wait_until(
            lambda: next((a for a in _sent(scenario, 20) if a != (202, "")), None), "the disk is full", 20
        )
        assert answer == (503, "store_unavailable")
        for gateway in cluster.gateways:
            refused = scenario.caller.send(digit(scenario.random), gateway)
            assert (refused.status_code, refused.json()["code"]) == (503, "store_unavailable")
    finally:
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    wait_until(lambda: _sent(scenario, 1) == [(202, "")], "jobs are taken again, with no help", 10)
    assert server.poll() is None


def _append_only_files(folder: Path) -> list[Path]:
    return list((folder / "appendonlydir").iterdir())


def _sent(scenario: Scenario, count: int) -> list[tuple[int, str]]:
    answers = [scenario.caller.send(digit(scenario.random), scenario.caller.any_gateway()) for _ in range(count)]
    return [(answer.status_code, answer.json().get("code", "")) for answer in answers]


@pytest.mark.timeout(120)
def test_after_a_failover_surviving_jobs_end_and_keys_restore_the_others(scenario: Scenario) -> None:
    """F14: the replica takes over without the latest writes; acknowledged jobs may be lost, none is stuck."""
    cluster, replica = scenario.cluster, Server()
    way = Proxy(cluster.network, cluster.server.socket)
    with cluster.queue() as primary, replica.client() as client:
        primary.config_set("repl-diskless-sync-delay", 0)
        client.execute_command("REPLICAOF", "127.0.0.1", way.port)
        wait_until(lambda: client.info("replication").get("master_link_status") == "up", "the replica follows", 20)
        asked = {f"failover-{n}": four(scenario.random, "double") for n in range(60)}
        keys = list(asked)
        slow = scenario.submit(3 * BATCH)
        for key in keys[:30]:
            scenario.caller.submit(asked[key], key=key)
        wait_until(
            lambda: client.exists("jitney:{s00}:idempotency:default:failover-29"), "the replica has heard of them"
        )
        way.cut()
        for key in keys[30:]:
            scenario.caller.submit(asked[key], key=key)
        scenario.history.forgive()
        client.execute_command("REPLICAOF", "NO", "ONE")
        cluster.server.kill()
        cluster.move_to(replica)
    ids = [scenario.caller.submit_until_taken(asked[key], key, Event()) for key in keys]
    assert {job["status"] for job in scenario.final(ids)} == {"succeeded"}
    assert {job["status"] for job in scenario.final(slow)} == {"succeeded"}
