"""A queue server that may lose jobs is reported in the gateway's log, in `/readyz` and by a metric."""

from collections.abc import Iterator

import pytest

from tests.integration.api.routes.test_metrics import metrics
from tests.support.gateways import GatewayProcess, Worker
from tests.support.servers import Server
from tests.support.waiting import wait_until

pytestmark = pytest.mark.anyio


@pytest.fixture
def unsafe() -> Iterator[Server]:
    server = Server(options=("--appendonly", "no", "--maxmemory-policy", "allkeys-lru"))
    yield server
    server.close()


async def test_a_hazard_is_reported_in_the_log_in_readyz_and_in_metrics(unsafe: Server) -> None:
    """99 of 314 results vanished from such a server without a log line."""
    with GatewayProcess(unsafe) as gateway:
        worker = Worker(unsafe)
        await worker.announce(gateway)
        queue = gateway.http.get("/readyz").json()["queue"]
        assert queue["safe"] is False
        assert len(queue["warnings"]) == 2
        assert [gateway.log().count(warning) for warning in queue["warnings"]] == [1, 1]
        seen = metrics(gateway)
        assert {name: value for name, value in seen.items() if "unsafe" in name} == {
            'jitney_server_unsafe{check="persistence"}': 1,
            'jitney_server_unsafe{check="eviction"}': 1,
            'jitney_server_unsafe{check="role"}': 0,
            'jitney_server_unsafe{check="version"}': 0,
        }
        await worker.connection.aclose()


async def test_a_server_that_became_safe_is_recognised_at_the_next_connection(unsafe: Server) -> None:
    with GatewayProcess(unsafe) as gateway, unsafe.client() as client:
        client.config_set("appendonly", "yes")
        client.config_set("maxmemory-policy", "noeviction")
        client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        wait_until(lambda: gateway.http.get("/readyz").json()["queue"]["safe"], "it is safe")
        assert gateway.http.get("/readyz").json()["queue"] == {"safe": True, "warnings": []}
        assert "is durable now" in gateway.log()


def test_require_durable_refuses_new_jobs_on_such_a_server() -> None:
    server = Server()
    try:
        with GatewayProcess(server, {"JITNEY_REQUIRE_DURABLE": "true"}) as gateway, server.client() as client:
            client.config_set("appendonly", "no")
            client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            wait_until(lambda: not gateway.http.get("/readyz").json()["queue"]["safe"], "it is not safe")
            ready = gateway.http.get("/readyz")
            assert (ready.status_code, ready.json()["status"]) == (503, "unready")
            assert ready.json()["reason"].startswith(
                "JITNEY_REQUIRE_DURABLE is set, but Redis may lose data: appendonly"
            )
    finally:
        server.close()
