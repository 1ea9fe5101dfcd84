"""`/v1/ops/events`: snapshots of the whole queue, shared by all listeners; an admin's look at one tenant's records."""

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from tests.support.api_keys import Caller, callers
from tests.support.gateways import GatewayProcess, Worker
from tests.support.servers import Server
from tests.support.waiting import check_during, wait_until

PATH = "/v1/ops/events"


@pytest.fixture
def queue() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


def snapshots(http: httpx2.Client) -> Iterator[dict[str, Any]]:
    with http.stream("GET", PATH) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        for line in response.iter_lines():
            if line.startswith("data: "):
                yield json.loads(line[6:])


def serve(queue: Server, gateway: GatewayProcess) -> None:
    """Of three jobs, one succeeds, one fails, and one waits."""

    async def run() -> None:
        worker = Worker(queue)
        await worker.announce(gateway)
        for _ in range(3):
            gateway.submit()
        await worker.succeed(await worker.claim(1))
        await worker.fail(await worker.claim(1))
        await worker.connection.aclose()

    asyncio.run(run())


def test_a_snapshot_has_queues_workers_and_totals(queue: Server) -> None:
    with GatewayProcess(queue) as gateway:
        serve(queue, gateway)
        found = snapshots(gateway.http)
        seen = next(one for one in found if one["queues"][0]["accepted"] == 3)  # counts are flushed once a second
        (total,) = seen["totals"]
        assert (total["model"], total["submitted"]) == ("m", 3)
        assert total["finished"] == {"succeeded": 1, "failed": 1}
        interactive, bulk, suspect = seen["queues"]
        assert (interactive["lane"], interactive["waiting"], interactive["running"]) == ("interactive", 1, 0)
        assert (bulk["accepted"], suspect["accepted"]) == (0, 0)
        assert [one["id"] for one in seen["workers"]] == ["w1"]
        assert seen["redis"]["safe"]
        assert (seen["warnings"], seen["refusing"], seen["failed_models"]) == ([], None, {})


def test_all_listeners_share_a_snapshot_and_none_is_read_without_them(queue: Server) -> None:
    """Ten listeners cost Redis what one does."""

    def reads() -> int:
        with queue.client() as client:
            info: dict[str, Any] = client.info("commandstats")
            return int(info.get("cmdstat_hgetall", {}).get("calls", 0))

    def cost_of(listeners: int) -> tuple[int, set[str]]:
        seen: list[str] = []

        def listen() -> None:
            with httpx2.Client(base_url=str(gateway.http.base_url), trust_env=False, verify=False) as http:
                seen.extend(snapshot["at"] for _, snapshot in zip(range(3), snapshots(http), strict=False))

        threads = [threading.Thread(target=listen) for _ in range(listeners)]
        before = reads()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert len(seen) == 3 * listeners
        return reads() - before, set(seen)

    with GatewayProcess(queue, {"JITNEY_MODEL_REFRESH_S": "600", "JITNEY_API_KEY_REFRESH_S": "600"}) as gateway:
        one, few = cost_of(1)
        ten, times = cost_of(10)
        assert ten / len(times) <= 1.5 * one / len(few) + 1
        assert len(times) <= 10  # of 30 that were received; fewer if all began at once
        check_during(lambda: None, 1.5)
        before = reads()
        check_during(lambda: None, 2)
        assert reads() - before <= 2


def test_a_stream_ends_when_the_gateway_stops(queue: Server) -> None:
    with GatewayProcess(queue) as gateway:
        ended: list[float] = []
        seen: list[str] = []

        def listen() -> None:
            for snapshot in snapshots(gateway.http):
                seen.append(snapshot["at"])  # noqa: PERF401 (the stream has no end)
            ended.append(time.monotonic())

        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        wait_until(lambda: seen, "a snapshot comes")
        assert ended == []
        gateway.process.terminate()
        wait_until(lambda: ended, "the stream ends", 5)


def test_an_outage_of_redis_is_an_error(queue: Server) -> None:
    with GatewayProcess(queue) as gateway:
        queue.kill()
        wait_until(lambda: gateway.http.get(PATH).status_code == 503, "it says so", 15)
        queue.start()


def test_an_admin_reads_deliveries_and_batches_of_a_tenant(queue: Server) -> None:
    with GatewayProcess(queue) as gateway:
        acme, admin = callers(queue, gateway, "acme", "admin")
        text = json.dumps({"custom_id": "1", "method": "POST", "url": "/v1/jobs", "body": {"model": "m", "input": {}}})
        file = acme.post("/v1/files", files={"file": ("a.jsonl", text)}, data={"purpose": "batch"}).json()["id"]
        batch = acme.post("/v1/batches", json={"input_file_id": file, "endpoint": "/v1/jobs"}).json()["id"]

        def ids(caller: Caller, query: str) -> list[str]:
            return [one["id"] for one in caller.get(f"/v1/batches{query}").json()["data"]]

        assert (ids(acme, ""), ids(admin, ""), ids(admin, "?tenant=acme")) == ([batch], [], [batch])
        assert admin.get(f"/v1/batches/{batch}").status_code == 404
        assert admin.get(f"/v1/batches/{batch}?tenant=acme").json()["id"] == batch
        assert admin.post(f"/v1/batches/{batch}/cancel?tenant=acme").json()["status"] in {"cancelling", "cancelled"}
        assert f"of tenant admin: canceled {batch} of tenant acme" in gateway.log()
        for path in ("/v1/batches", "/v1/webhooks", "/v1/webhooks/endpoints"):
            assert admin.get(f"{path}?tenant=acme").status_code == 200
            assert acme.get(f"{path}?tenant=admin").status_code == 403
            assert admin.get(f"{path}?tenant=*").status_code == 422
