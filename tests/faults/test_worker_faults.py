"""Workers are killed, frozen or disconnected in the middle of their work."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import models
from tests.support.cluster.callers import Input
from tests.support.cluster.cluster import Cluster, ask
from tests.support.cluster.scenario import BATCH, Scenario
from tests.support.waiting import wait_until

KILLS = 5
UNSURE = {"horse-cart.jpg", "grace_hopper.jpg"}  # the reference itself is in doubt there


@pytest.fixture
def photograph_model(whole_cluster: Cluster, models_dir: Path, shared_data: Path) -> Iterator[str]:
    """SqueezeNet, which every worker loads while the others serve."""
    file = "squeezenet1.1_fp32_dynbatch.derived.onnx"
    models.squeezenet(models_dir, shared_data, file, toml=f"max_batch = {BATCH}")  # measured, it would be 1 to 4
    loaded = {"1": len(whole_cluster.workers)}

    def is_served() -> bool:
        states = [ask(gateway, "/readyz/models/squeezenet") or {} for gateway in whole_cluster.gateways]
        return all(state.get("versions") == loaded for state in states)

    wait_until(is_served, "all workers serve SqueezeNet", 30)
    yield "squeezenet"
    shutil.rmtree(models_dir / "squeezenet")


@pytest.mark.timeout(150)
def test_each_job_of_a_killed_workers_batch_is_answered_once(scenario: Scenario) -> None:
    """F1: kill -9 of a worker with a full batch running, several times over."""
    for _ in range(KILLS):
        worker, held = scenario.full_batch()
        assert len(held) >= BATCH
        worker.kill()
        jobs = scenario.final(held)
        assert {job["status"] for job in jobs} == {"succeeded"}
        assert max(job["attempts"] for job in jobs) >= 2
        scenario.cluster.heal()


def test_photographs_of_a_killed_worker_get_their_reference_labels(
    photograph_model: str, scenario: Scenario, shared_data: Path
) -> None:
    """F1: kill -9 of a worker that decodes and runs real photographs, through a real network."""
    reference = json.loads((shared_data / "reference_top5.json").read_text())["images"]
    top = {name: entry["top5"][0] for name, entry in reference.items() if name not in UNSURE}
    photos = [
        Input(photograph_model, (shared_data / "photos" / name).read_bytes(), "image/jpeg", one["label"])
        for name, one in top.items()
        if one["p"] >= 0.6
    ]
    ids = scenario.submit_together(scenario.random.choices(photos, k=6 * BATCH))
    worker, held = wait_until(
        lambda: next(((w, held) for w, held in scenario.cluster.held().items() if len(held) >= BATCH), None),
        "some worker has a batch of photographs",
    )
    worker.kill()
    jobs = scenario.final(ids)
    assert {job["status"] for job in jobs} == {"succeeded"}
    assert max(job["attempts"] for job in jobs if job["id"] in held) >= 2


@pytest.mark.parametrize("end", ["killed", "healed"])
def test_a_written_result_stands_though_its_worker_got_no_reply(scenario: Scenario, end: str) -> None:
    """F2: the worker's write succeeds but its reply is lost; then it dies, or writes once more."""
    cluster = scenario.cluster
    worker, held = scenario.full_batch()
    worker.proxy.stall("answers")
    written = wait_until(
        lambda: [one for one in held if cluster.job(one)["state"] == "succeeded"], "the batch is written down"
    )
    if end == "killed":
        worker.kill()
    else:
        said = len(worker.log())
        wait_until(lambda: len(worker.log()) > said, "the worker gives up on an answer")
        worker.proxy.heal()
    jobs = {job["id"]: job for job in scenario.final(held)}
    assert {job["status"] for job in jobs.values()} == {"succeeded"}
    assert {jobs[one]["attempts"] for one in written} == {1}


def test_the_sweep_continues_after_a_sweeper_dies(scenario: Scenario) -> None:
    """F3: a gateway dies during its sweep. The lost worker is frozen, so that no other process sees its end."""
    first, other = scenario.cluster.gateways
    worker, held = scenario.full_batch()
    worker.freeze()
    said = len(first.log())
    first.proxy.stall("answers")
    wait_until(lambda: "cannot reach Redis" in first.log()[said:], "a sweep is under way, and its answer does not come")
    first.kill()
    jobs = scenario.final(held, through=other)
    assert {job["status"] for job in jobs} == {"succeeded"}
    assert max(job["attempts"] for job in jobs) >= 2


def test_a_worker_frozen_beyond_its_lease_cannot_write(scenario: Scenario) -> None:
    """F4: SIGSTOP beyond the lease; afterwards other workers hold its jobs, and its results are refused."""
    worker, held = scenario.full_batch()
    late = scenario.cluster.counts().get("late:slow", 0)
    worker.freeze()
    jobs = scenario.final(held)
    assert {job["status"] for job in jobs} == {"succeeded"}
    worker.thaw()
    wait_until(lambda: scenario.cluster.counts().get("late:slow", 0) > late, "late results are refused and counted")


def test_a_worker_cut_off_from_the_queue_is_replaced_and_cannot_write_late(scenario: Scenario) -> None:
    """F9: the connection of one worker is half open, longer than its leases; then its commands arrive."""
    worker, held = scenario.full_batch()
    worker.proxy.stall()
    jobs = scenario.final(held)
    assert {job["status"] for job in jobs} == {"succeeded"}
    assert max(job["attempts"] for job in jobs) >= 2
    worker.proxy.heal()
    wait_until(scenario.cluster.is_whole, "the worker is back", 20)
    more = scenario.final(scenario.submit(2 * BATCH))
    assert {job["status"] for job in more} == {"succeeded"}


def test_a_slow_connection_to_the_queue_costs_only_time(scenario: Scenario) -> None:
    """F13: every server reply is delayed by 200 ms; no live worker counts as dead, no caller is refused."""
    for part in scenario.cluster.parts:
        part.proxy.delay(0.1)
    wait_until(scenario.cluster.is_whole, "all parts have connected again, or waited")
    ids = scenario.submit(3 * BATCH)
    with scenario.load() as load:
        wait_until(lambda: load.done >= 20, "callers get answers", 30)
    assert {(job["status"], job["attempts"]) for job in scenario.final(ids)} == {("succeeded", 1)}
    assert scenario.history.refusals() == []
