"""Gateways die, or their responses are lost, while callers wait."""

import time
from concurrent.futures import ThreadPoolExecutor
from signal import SIGTERM

import httpx2
import pytest

from jobs.store.raw_record import flatten
from tests.support.cluster.callers import Caller, digit, four
from tests.support.cluster.scenario import Scenario
from tests.support.service import DIGITS
from tests.support.waiting import check_during, wait_until

CUTS = 40
KILLS = 4
ANSWER_BYTES = 300  # less than any answer to a submit has


def test_a_submit_whose_response_was_lost_makes_one_job(scenario: Scenario) -> None:
    """F5: the connection breaks before or within the answer; the same key, sent elsewhere, gives the same job."""
    gateway, other = scenario.cluster.gateways
    proxy, door = scenario.cluster.before(gateway)
    ids = set()
    for number in range(CUTS):
        what, key = digit(scenario.random), f"cut-{number}"
        proxy.cut_after(scenario.random.randrange(ANSWER_BYTES))
        with pytest.raises(httpx2.HTTPError):
            scenario.caller.send(what, door, key)
        again = scenario.caller.send(what, other, key)
        assert (again.status_code, again.headers["idempotent-replayed"]) == (202, "true")
        ids.add(again.json()["id"])
        with pytest.raises(httpx2.HTTPError):
            scenario.caller.send(what, door)  # without a key: one job that nobody knows, which ends like any other
    assert len(ids) == CUTS


@pytest.mark.timeout(120)
def test_a_gateway_killed_during_submit_loses_and_duplicates_nothing(scenario: Scenario) -> None:
    """F5: kill -9 of a gateway at random moments; callers send their key again until somebody takes it."""
    with scenario.load(callers=8) as load:
        for _ in range(KILLS):
            done = load.done
            wait_until(lambda done=done: load.done >= done + 20, "callers get answers")  # type: ignore[misc]
            check_during(lambda: None, scenario.random.uniform(0, 0.2))
            gateway = scenario.caller.any_gateway()
            gateway.kill()
            gateway.start()
        done = load.done
        wait_until(lambda: load.done >= done + 20, "callers get answers still")


def test_a_gateway_cut_off_from_the_queue_reports_it_soon_and_recovers(scenario: Scenario) -> None:
    """F9: the connection of one gateway is half open. Its late commands make no second job."""
    gateway, other = scenario.cluster.gateways
    wait_until(lambda: scenario.caller.submit(digit(scenario.random), gateway), "the gateway takes jobs")
    gateway.proxy.stall()
    for number in range(3):
        what, key = four(scenario.random, "double"), f"stalled-{number}"
        refused = scenario.caller.send(what, gateway, key)
        assert (refused.status_code, refused.json()["code"]) == (503, "store_unavailable")
        assert refused.elapsed.total_seconds() < 5
        assert scenario.caller.send(what, other, key).status_code == 202
    gateway.proxy.heal()
    wait_until(scenario.cluster.is_whole, "the gateway is back")
    scenario.caller.submit(digit(scenario.random), gateway)


def test_the_death_of_a_gateway_disconnects_its_caller_but_not_the_job(scenario: Scenario) -> None:
    """F6: kill -9 of a gateway while one caller waits for a job and another for `/predict`."""
    cluster, (gateway, _) = scenario.cluster, scenario.cluster.gateways
    for worker in cluster.workers:
        worker.freeze()
    (job_id,) = scenario.submit(1)
    image = DIGITS[0]

    def waited_for() -> int:
        with cluster.queue() as client:
            jobs = [flatten(client.hgetall(key)) for key in client.scan_iter("jitney:*:job:*")]
        return len([1 for job in jobs if "watchers" in job])

    with ThreadPoolExecutor(2) as pool, gateway.client() as http:
        polling = pool.submit(http.get, f"/v1/jobs/{job_id}", params={"wait": 30})
        files = {"image": (image.name, image.read_bytes())}
        asking = pool.submit(http.post, "/predict", data={"model": "digits"}, files=files)
        wait_until(lambda: waited_for() == 2, "both callers wait")
        gateway.kill()
        for call in (polling, asking):
            with pytest.raises(httpx2.HTTPError):
                call.result(10)
    scenario.history.unsure(gateway.name, "", "POST /predict was cut off")
    cluster.heal()
    (job,) = scenario.final([job_id])
    assert job["status"] == "succeeded"
    assert cluster.counts()["finished:digits:succeeded"] >= 1


@pytest.mark.timeout(150)
def test_a_rolling_restart_under_load_refuses_nobody(scenario: Scenario) -> None:
    """F21: SIGTERM to one part after the other; a caller whose gateway is closed asks the next one."""
    cluster = scenario.cluster
    with scenario.load(callers=6, models=("digits", "double", "slow")) as load:
        for part in cluster.parts:
            done = load.done
            wait_until(lambda done=done: load.done >= done + 20, "callers get answers")  # type: ignore[misc]
            began = time.monotonic()
            assert part.terminate() in {0, -SIGTERM}  # uvicorn tells its parent which signal it has obeyed
            assert time.monotonic() - began < 15
            part.start()
            wait_until(cluster.is_whole, f"{part.name} is back", 30)
    refused = [event for event in scenario.history.refusals() if event["why"][:3].isdigit()]
    assert refused == []
    assert {end.partition(":")[0] for ends in scenario.history.ends.values() for end in ends} == {"succeeded"}


def test_a_model_that_cannot_be_loaded_is_shown_and_affects_no_other(scenario: Scenario) -> None:
    """F22: one model file is truncated; every gateway reports it, and all workers serve the others."""
    for gateway in scenario.cluster.gateways:
        with gateway.client() as http:
            shown = {model["name"]: model for model in http.get("/v1/models").json()["models"]}
            assert (shown["truncated"]["status"], shown["truncated"]["workers"]) == ("failed", 0)
            assert "model.onnx" in shown["truncated"]["reason"]
            assert {shown[name]["workers"] for name in ("digits", "double", "slow")} == {3}
            assert http.get("/readyz").json()["models"]["truncated"] == "failed"
            refused = scenario.caller.send(four(scenario.random, "truncated"), gateway)
            assert (refused.status_code, refused.json()["code"]) == (503, "model_unavailable")


def test_the_same_submit_fifty_times_at_once_makes_one_job(scenario: Scenario) -> None:
    """F23: one key from fifty callers through both gateways; a different body is refused; it lives for a day."""
    cluster, what = scenario.cluster, digit(scenario.random)
    gateways = cluster.gateways * 25
    callers = [Caller(cluster, scenario.history) for _ in gateways]
    with ThreadPoolExecutor(len(callers)) as pool:
        answers = list(pool.map(lambda caller, gateway: caller.send(what, gateway, "same"), callers, gateways))
    for caller in callers:
        caller.close()
    assert {answer.status_code for answer in answers} == {202}
    (job_id,) = {answer.json()["id"] for answer in answers}
    assert [answer.headers.get("idempotent-replayed") for answer in answers].count("true") == len(answers) - 1
    other = scenario.caller.send(four(scenario.random), cluster.gateways[0], "same")
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_mismatch")
    scenario.final([job_id])
    with cluster.queue() as client:
        assert 86_000 < client.ttl("jitney:{s00}:idempotency:default:same") <= 86_400
        client.pexpire(f"jitney:{{s00}}:job:{job_id}", 1)  # as if its hour were over
        wait_until(lambda: not client.exists(f"jitney:{{s00}}:job:{job_id}"), "the result is gone")
    replayed = scenario.caller.send(what, cluster.gateways[1], "same")
    assert (replayed.status_code, replayed.json()["code"]) == (410, "result_expired")
    scenario.history.forgive()
