"""Times are decided by the clock of the queue server, never by a local one.

The row: with a clock 25 hours behind on a worker, or two days ahead on a gateway, a ready model was a 404.
"""

import re
import time
from pathlib import Path

import pytest

from jobs.models import worker_registry
from jobs.models.catalog import ModelCatalog
from jobs.models.worker_registry import WorkerReport
from jobs.redis_client import keys
from jobs.tenants import api_keys
from tests.integration.jobs.conftest import StoreBench

ROOT = Path(__file__).parents[4]
CARD = {"name": "m", "version": "1", "kinds": ["raw"]}
REPORT = WorkerReport("w1", 1, "here", ["m 1"])


@pytest.mark.parametrize("off_s", [-25 * 3600, 2 * 86_400])
async def test_a_model_is_known_whatever_the_local_clock_says(
    bench: StoreBench, monkeypatch: pytest.MonkeyPatch, off_s: int
) -> None:
    connection = bench.store.connection
    right = time.time
    monkeypatch.setattr(time, "time", lambda: right() + off_s)
    await worker_registry.register_worker(connection, REPORT, [CARD], 60)
    monkeypatch.setattr(time, "time", lambda: right() - off_s)
    catalog = ModelCatalog(connection, "")
    await catalog.refresh()
    assert catalog.find("m")["version"] == "1"
    assert abs(catalog.cluster.now_s - right()) < 60
    key, _ = await api_keys.create_key(connection, "t", "caller")
    assert abs(key.created_s - right()) < 60


async def test_a_model_that_nobody_has_announced_for_a_day_is_forgotten(bench: StoreBench) -> None:
    connection = bench.store.connection
    await worker_registry.register_worker(connection, REPORT, [CARD, {**CARD, "version": "2"}], 60)
    with bench.server.client() as client:
        card = client.hget(keys.MODELS, "m 1")
        client.hset(keys.MODELS, "m 1", re.sub(rb'"seen":\d+', b'"seen":%d' % (time.time() - 25 * 3600), card))
        assert [card["version"] for card in (await worker_registry.read_cluster_state(connection)).cards] == ["2"]
        assert client.hkeys(keys.MODELS) == [b"m 2"]


def test_no_code_reads_the_wall_clock() -> None:
    """A comparison of it with a stored time would depend on every local clock."""
    read = re.compile(r"\btime\.time(_ns)?\(|datetime\.(now|utcnow|today)\(")
    sources = [
        path
        for part in ("api", "background", "jobs", "model_runtime", "worker")
        for path in (ROOT / part).rglob("*.py")
    ]
    # Spans have the time of a wall clock, for people; it is compared with nothing.
    assert [str(path.relative_to(ROOT)) for path in sources if read.search(path.read_text())] == [
        "jobs/tracing/tracer.py"
    ]
