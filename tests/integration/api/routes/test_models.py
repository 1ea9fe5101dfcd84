"""/v1/models: the state of versions, what admins may change, and refusals that name what is allowed."""

from collections.abc import Sequence
from typing import Any

import pytest

from jobs.models import rollout_plan, worker_registry
from jobs.models.worker_registry import WorkerReport
from tests.support.gateways import CARD, GatewayProcess, Worker
from tests.support.waiting import wait_until


async def announce(worker: Worker, gateway: GatewayProcess, runs: Sequence[str], **more: Any) -> None:
    """Announce versions of the model `m`, and wait until the gateway knows them all."""
    report = WorkerReport("w1", 1, "here", [f"m {one}" for one in runs], **more)
    cards = [{**CARD, "version": one} for one in runs]
    await worker_registry.register_worker(worker.connection, report, cards, 600)
    await worker_registry.notify_models_changed(worker.connection)
    known = {*runs, *more.get("folder_versions", {}).get("m", [])}
    wait_until(lambda: known <= {one["version"] for one in versions(gateway)}, "the gateway knows the versions")


def versions(gateway: GatewayProcess) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = gateway.http.get("/v1/models/m").json()["versions"]
    return listed


def standing(gateway: GatewayProcess) -> dict[str, tuple[str, str | None, float]]:
    return {one["version"]: (one["status"], one["role"], one["share"]) for one in versions(gateway)}


async def test_every_version_is_shown_with_its_role(gateway: GatewayProcess, worker: Worker) -> None:
    folder_versions, failed = {"m": ["1", "2", "3", "4"]}, {"m 3": "file: 3 is broken"}
    more = {
        "chosen": {"m": "2"},
        "leaving": ["m 1"],
        "loading": ["m 5"],
        "folder_versions": folder_versions,
        "unloadable": failed,
    }
    await announce(worker, gateway, ["1", "2"], **more)
    found = standing(gateway)
    assert found.pop("1")[::2] == ("leaving", 0)
    assert found == {
        "2": ("ready", "stable", 100),
        "3": ("failed", None, 0),
        "4": ("available", None, 0),
        "5": ("loading", None, 0),
    }
    assert versions(gateway)[2]["reason"] == "file: 3 is broken"
    listed = gateway.http.get("/v1/models").json()["models"]
    assert [(one["name"], one["version"]) for one in listed] == [("m", one) for one in "12345"]
    metrics = gateway.http.get("/metrics").text
    assert 'jitney_version_share{model="m",version="2"} 1.0' in metrics


async def test_a_canary_has_its_share_is_promoted_and_rolled_back(gateway: GatewayProcess, worker: Worker) -> None:
    await announce(worker, gateway, ["1", "2"], chosen={"m": "1"})
    shared = gateway.http.post("/v1/models/m/share", json={"version": "2", "percent": 30})
    assert shared.status_code == 200
    assert standing(gateway) == {"1": ("ready", "stable", 70), "2": ("ready", "canary", 30)}
    taken = [gateway.submit().json()["version"] for _ in range(300)]
    assert 45 <= taken.count("2") <= 135  # five deviations
    assert gateway.http.post("/v1/models/m/promote").json()["plan"]["before"] == "1"
    assert {gateway.submit().json()["version"] for _ in range(30)} == {"2"}
    assert gateway.http.post("/v1/models/m/rollback").json()["plan"]["bad"] == {"2": "rolled back by an admin"}
    assert {gateway.submit().json()["version"] for _ in range(30)} == {"1"}
    again = gateway.http.post("/v1/models/m/rollback")
    assert (again.status_code, again.json()["code"]) == (409, "nothing_to_roll_back")
    assert gateway.http.post("/v1/models/m/follow").json()["plan"]["pinned"] is False
    jobs = [await worker.claim(1000, version=one) for one in "12"]
    for claimed in jobs:
        await worker.succeed(claimed)


async def test_an_unloaded_model_takes_no_jobs_until_it_is_loaded(gateway: GatewayProcess, worker: Worker) -> None:
    await announce(worker, gateway, ["1"], chosen={"m": "1"})
    assert gateway.http.post("/v1/models/m/unload").json()["plan"]["unloaded"] is True
    refused = gateway.submit()
    assert (refused.status_code, refused.json()["code"]) == (503, "model_unavailable")
    assert "jitney models load m" in refused.json()["detail"]
    gateway.http.post("/v1/models/m/load")
    assert gateway.submit().status_code == 202
    await worker.succeed(await worker.claim())


@pytest.mark.parametrize(
    ("path", "body", "status", "code", "word"),
    [
        ("m/share", {"version": "2"}, 422, "invalid_request", "percent"),
        ("m/share", {"version": "2", "percent": 101}, 422, "invalid_request", "0 to 100"),
        ("m/share", {"version": "2", "percent": True}, 422, "invalid_request", "0 to 100"),
        ("m/share", {"percent": 10}, 422, "invalid_request", "name the version"),
        ("m/share", {"version": 2, "percent": 10}, 422, "invalid_request", '"2"'),
        ("m/share", {"version": "1", "percent": 10}, 422, "invalid_request", "takes the jobs"),
        ("m/load", {"version": "../2"}, 422, "invalid_request", "number"),
        ("m/load", {"version": "7"}, 404, "version_not_found", "version 7"),
        ("m/load", {"verison": "1"}, 422, "invalid_request", "verison"),
        ("m/load", ["1"], 422, "invalid_request", "object"),
        ("m/unload", {"version": "1"}, 422, "invalid_request", "promote another"),
        ("m/promote", {"version": "2"}, 409, "version_not_ready", "version 2"),
        ("m/promote", {}, 422, "invalid_request", "no canary"),
        ("m/rollback", {"version": "1"}, 422, "invalid_request", "version"),
        ("m/rollback", {}, 409, "nothing_to_roll_back", "canary"),
        ("n/load", {}, 404, "model_not_found", "'n'"),
        ("m/explode", {}, 404, "route_not_found", "explode"),
    ],
)
async def test_impossible_changes_are_refused_and_change_nothing(
    gateway: GatewayProcess, worker: Worker, *, path: str, body: object, status: int, code: str, word: str
) -> None:
    await announce(worker, gateway, ["1"], chosen={"m": "1"}, folder_versions={"m": ["1", "2"]})
    before = (await rollout_plan.read_plans(worker.connection)).get("m", rollout_plan.FOLLOW_FOLDER)
    answer = gateway.http.post(f"/v1/models/{path}", json=body)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert word in answer.json()["detail"]
    after = (await rollout_plan.read_plans(worker.connection)).get("m", rollout_plan.FOLLOW_FOLDER)
    assert (after.pinned, after.canary, after.asked, after.unloaded) == (before.pinned, "", {}, False)


async def test_a_body_that_is_no_json_or_too_long_is_refused(gateway: GatewayProcess, worker: Worker) -> None:
    await announce(worker, gateway, ["1"])
    broken = gateway.http.post("/v1/models/m/load", content=b"{")
    assert (broken.status_code, broken.json()["code"]) == (400, "malformed_request")
    long = gateway.http.post("/v1/models/m/load", content=b" " * 5000)
    assert (long.status_code, long.json()["code"]) == (413, "body_too_large")
