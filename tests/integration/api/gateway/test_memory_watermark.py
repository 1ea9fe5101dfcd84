"""A server that is nearly full gets no new jobs, and the accepted ones end."""

from collections.abc import Iterator
from statistics import median

import pytest

from api.gateway.memory_watermark import MemoryWatermark
from jobs.metrics.server_memory import ServerMemory
from tests.integration.api.routes.test_metrics import metrics
from tests.support.gateways import PNG, GatewayProcess, Worker
from tests.support.servers import Server
from tests.support.waiting import wait_until


@pytest.mark.parametrize(
    ("used", "refused"),
    [
        (0, set()),
        (719, set()),
        (720, {"bulk"}),
        (799, {"bulk"}),
        (800, {"bulk", "interactive"}),
        (2000, {"bulk", "interactive"}),
    ],
)
def test_bulk_is_refused_first(used: int, refused: set[str]) -> None:
    watermark = MemoryWatermark(0.8)
    watermark.observe(ServerMemory(used, 1000))
    assert {lane for lane in ("bulk", "interactive") if watermark.refusal(lane)} == refused


def test_unknown_memory_usage_refuses_no_job() -> None:
    watermark = MemoryWatermark(0.8)
    assert watermark.refusal("bulk") is None
    watermark.observe(ServerMemory(10, 0))
    assert watermark.refusal("bulk") is None


def test_a_refusal_names_the_used_and_the_allowed_memory() -> None:
    watermark = MemoryWatermark(0.5)
    watermark.observe(ServerMemory(600, 1000))
    refusal = watermark.refusal("interactive")
    assert refusal is not None
    assert str(refusal) == "the queue's server uses 600 of 1000 bytes of memory; new jobs are accepted below 500"


class Ballast:
    """A server whose memory is filled to a share of its limit."""

    def __init__(self, server: Server, gateway: GatewayProcess) -> None:
        self._server, self._gateway = server, gateway
        with server.client() as client:
            client.set("ballast", b"x" * (20 << 20), ex=600)

    def fill(self, share: float | None) -> None:
        """Fill the server to a share of its limit and wait until the gateway knows; None: no limit."""
        with self._server.client() as client:
            limit = int(client.info("memory")["used_memory"] / share) if share else 0
            client.config_set("maxmemory", limit)
        assert metrics(self._gateway)["jitney_server_memory_limit_bytes"] == limit or not limit
        wait_until(lambda: ("refusing" in self._ready()) == bool(share and share > 0.8), "readyz says so")

    def _ready(self) -> dict[str, str]:
        ready: dict[str, str] = self._gateway.http.get("/readyz").json()
        assert ready["status"] == "ready"
        return ready


@pytest.fixture
def ballast(queue: Server, gateway: GatewayProcess, worker: Worker) -> Iterator[Ballast]:
    del worker
    ballast = Ballast(queue, gateway)
    yield ballast
    ballast.fill(None)


async def test_a_nearly_full_server_gets_no_new_jobs_and_ends_accepted_ones(
    gateway: GatewayProcess, worker: Worker, ballast: Ballast
) -> None:
    ids = [gateway.submit(idempotency_key=f"{nth}").json()["id"] for nth in range(3)]
    await worker.fail(await worker.claim(1))
    ballast.fill(0.9)
    form = {"files": {"image": ("1.png", PNG)}, "data": {"model": "m"}}
    refused = [gateway.submit(), gateway.submit(prefer="wait=5"), gateway.http.post("/predict", **form)]  # type: ignore[arg-type]
    refused += [gateway.submit(idempotency_key="new"), gateway.http.post(f"/v1/deadletters/{ids[0]}/replay")]
    for answer in refused:
        body = answer.json()
        assert (answer.status_code, body["code"], answer.headers["retry-after"]) == (503, "queue_full", "5")
        assert "new jobs are accepted below" in body["detail"]
        assert body["limit_bytes"] < body["used_bytes"]
    assert median(answer.elapsed.total_seconds() for answer in refused) < 2  # none waits the 5 s
    known = gateway.submit(idempotency_key="1")
    assert (known.status_code, known.json()["id"], known.headers["idempotent-replayed"]) == (202, ids[1], "true")
    assert "new jobs: the queue's server uses" in gateway.http.get("/readyz").json()["refusing"]
    assert metrics(gateway)["jitney_server_memory_used_bytes"] > 20 << 20
    await worker.succeed(await worker.claim())
    assert await worker.states() == ["succeeded", "succeeded", "failed"]
    ballast.fill(0.5)
    assert gateway.submit().status_code == 202
    assert gateway.log().count("refusing new jobs") == gateway.log().count("accepting new jobs again") == 1


async def test_bulk_is_refused_before_the_server_is_nearly_full(gateway: GatewayProcess, ballast: Ballast) -> None:
    ballast.fill(0.76)

    def bulk() -> int:
        return gateway.http.post(
            "/v1/jobs?model=m&lane=bulk", content=PNG, headers={"content-type": "image/png"}
        ).status_code

    wait_until(lambda: bulk() == 503, "bulk is refused")
    assert gateway.submit().status_code == 202


async def test_a_completely_full_server_still_ends_its_jobs(
    gateway: GatewayProcess, worker: Worker, ballast: Ballast
) -> None:
    gateway.submit()
    ballast.fill(1.1)
    assert gateway.submit(idempotency_key="k").json()["code"] == "queue_full"
    await worker.succeed(await worker.claim())
    assert await worker.states() == ["succeeded"]
