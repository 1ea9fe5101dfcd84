"""`/healthz`, `/readyz` and `/readyz/models/{name}`; differing settings; JITNEY_LAME_DUCK_S.

The rows: `/readyz` was 503 without workers, so that scaling workers to zero took every gateway out of a load balancer;
a gateway that was told to stop was gone before any balancer could know; settings that differed were told nowhere.
"""

import re
import signal
from contextlib import closing
from typing import Any

import httpx2
import pytest

from jobs.models.worker_registry import WorkerReport, notify_models_changed, register_worker
from tests.support.api_keys import Caller, make_key
from tests.support.gateways import CARD, GatewayProcess, Worker
from tests.support.servers import Server
from tests.support.waiting import wait_until

pytestmark = pytest.mark.anyio


def states(gateway: GatewayProcess, *paths: str) -> list[int]:
    return [gateway.http.get(path).status_code for path in paths]


async def test_a_gateway_is_ready_without_workers_and_a_model_is_not(queue: Server, gateway: GatewayProcess) -> None:
    with queue.client() as client:
        client.flushall()
    answer = gateway.http.get("/readyz")
    assert (answer.status_code, answer.json()["status"], answer.json()["reason"]) == (
        200,
        "ready",
        "no worker is alive",
    )
    assert states(gateway, "/healthz", "/readyz/models/m") == [200, 404]
    worker = Worker(queue)
    await worker.announce(gateway)
    answer = gateway.http.get("/readyz/models/m")
    assert (answer.status_code, answer.json()) == (200, {"status": "ready", "model": "m", "versions": {"1": 1}})
    assert "reason" not in gateway.http.get("/readyz").json()
    with queue.client() as client:
        client.delete("jitney:worker:w1")
    answer = gateway.http.get("/readyz/models/m")
    body = {"status": "unready", "model": "m", "reason": "no live worker serves it"}
    assert (answer.status_code, answer.json()) == (503, body)
    assert gateway.http.get("/readyz").json()["models"] == {"m": "unserved"}
    assert gateway.submit().status_code == 202  # what was known is taken, for the worker that comes back
    await worker.connection.aclose()


@pytest.mark.parametrize("name", ["nope", "m%00", "x" * 5000, "%2e%2e%2fmetrics", "m%20", "m/1", "é"])
async def test_an_unannounced_model_is_not_found(gateway: GatewayProcess, worker: Worker, name: str) -> None:
    del worker
    answer = gateway.http.get(f"/readyz/models/{name}")
    assert (answer.status_code, len(answer.content) < 600) == (404, True)


def test_health_needs_no_key() -> None:
    with closing(Server()) as queue, GatewayProcess(queue) as gateway:
        key = make_key(queue.url, "acme")
        wait_until(lambda: gateway.http.get("/v1/jobs").status_code == 401, "keys are asked for")
        assert states(gateway, "/healthz", "/readyz", "/readyz/models/nope") == [200, 200, 404]
        assert Caller(gateway, key).get("/readyz/models/nope").status_code == 404
        assert gateway.http.get("/v1/models/m").status_code == 401


def test_a_gateway_is_live_and_not_ready_while_the_queue_is_away() -> None:
    with closing(Server()) as queue, GatewayProcess(queue) as gateway:
        assert states(gateway, "/healthz", "/readyz") == [200, 200]
        queue.kill()
        answer = gateway.http.get("/readyz")
        assert (answer.status_code, answer.json()["status"]) == (503, "unready")
        assert "cannot reach Redis" in answer.json()["reason"]
        assert states(gateway, "/healthz", "/readyz/models/m") == [200, 503]
        queue.start()
        wait_until(lambda: gateway.http.get("/readyz").status_code == 200, "it is ready again")


def test_a_stopping_gateway_serves_until_balancers_have_seen_it(queue: Server) -> None:
    with GatewayProcess(queue, {"JITNEY_LAME_DUCK_S": "60"}) as gateway:
        gateway.process.send_signal(signal.SIGTERM)
        wait_until(lambda: gateway.http.get("/readyz").status_code == 503, "it is not ready")
        answer = gateway.http.get("/readyz")
        assert (answer.json()["status"], answer.json()["reason"]) == ("draining", "this gateway is shutting down")
        assert states(gateway, "/healthz", "/v1/jobs", "/v1/models") == [200, 200, 200]
        assert httpx2.get(f"http://127.0.0.1:{gateway.port}/healthz", trust_env=False).status_code == 200  # a new one
        assert "shutting down in 60 s (JITNEY_LAME_DUCK_S)" in gateway.log()
        gateway.process.send_signal(signal.SIGTERM)  # a second signal stops it without the wait
        assert gateway.process.wait(15) == -signal.SIGTERM


def test_a_lame_duck_stops_by_itself(queue: Server) -> None:
    with GatewayProcess(queue, {"JITNEY_LAME_DUCK_S": "0.2"}) as gateway:
        gateway.process.send_signal(signal.SIGTERM)
        assert gateway.process.wait(15) == -signal.SIGTERM
    with GatewayProcess(queue) as gateway:
        gateway.process.send_signal(signal.SIGTERM)
        assert gateway.process.wait(15) == -signal.SIGTERM
        assert "JITNEY_LAME_DUCK_S" not in gateway.log()


def warnings(gateway: GatewayProcess) -> dict[str, dict[str, Any]]:
    return {one["what"]: one for one in gateway.http.get("/readyz").json()["warnings"]}


def metrics(gateway: GatewayProcess, name: str) -> list[str]:
    return re.findall(rf"^({name}.*)$", gateway.http.get("/metrics").text, re.MULTILINE)


def test_differing_settings_are_reported_in_the_log_on_readyz_and_in_a_metric(
    queue: Server, gateway: GatewayProcess
) -> None:
    assert warnings(gateway) == {}
    assert metrics(gateway, "jitney_differ") == ["jitney_differences 0.0"]
    private = {"JITNEY_TENANTS": '{"secret-tenant": {"jobs": 1}}', "JITNEY_WEBHOOK_ALLOW_CIDRS": "10.9.8.0/24"}
    with GatewayProcess(queue, {"JITNEY_RESULT_TTL_S": "60", "JITNEY_MAX_CONNECTIONS": "50", **private}) as other:
        for one in (gateway, other):
            wait_until(lambda one=one: len(warnings(one)) == 3, "all three are told")  # type: ignore[misc]
            assert set(warnings(one)) == {"JITNEY_RESULT_TTL_S", "JITNEY_TENANTS", "JITNEY_WEBHOOK_ALLOW_CIDRS"}
            values = {side["value"]: side["processes"] for side in warnings(one)["JITNEY_RESULT_TTL_S"]["values"]}
            assert set(values) == {"60", "3600"}
            assert re.search(r"gateway [0-9a-f]{16}", values["60"][0])
            shown = one.http.get("/readyz").text
            assert "secret-tenant" not in shown
            assert "10.9.8" not in shown
            assert "JITNEY_RESULT_TTL_S is 3600 (gateway " in one.log()
            sides = metrics(one, "jitney_differing_processes")
            assert len([side for side in sides if 'what="JITNEY_RESULT_TTL_S"' in side and side.endswith("} 1.0")]) == 2
            assert metrics(one, "jitney_differences") == ["jitney_differences 3.0"]
    wait_until(lambda: warnings(gateway) == {}, "the other is gone")


async def test_differing_model_files_name_both_sides(queue: Server, gateway: GatewayProcess) -> None:
    worker = Worker(queue)
    served = WorkerReport("w1", 1, "host-a", ["m 1"], digests={"m 1": "aaaa"})
    other = WorkerReport("w2", 1, "host-b", [], digests={"m 1": "bbbb"})
    for report in (served, other):
        await register_worker(worker.connection, report, [CARD] if report.models else [], 600)
    await notify_models_changed(worker.connection)
    wait_until(lambda: "files of model m 1" in warnings(gateway), "it is told")
    values = warnings(gateway)["files of model m 1"]["values"]
    assert [(one["value"], one["processes"], one["served"]) for one in values] == [
        ("aaaa", ["worker w1"], True),
        ("bbbb", ["worker w2"], False),
    ]
    sides = metrics(gateway, "jitney_differing_processes")
    assert any('host="host-b"' in side and 'value="bbbb"' in side for side in sides)
    with queue.client() as client:
        client.flushall()
    await worker.connection.aclose()
