"""Bulk jobs of a fast model beside streaming callers: all are run, and bulk is not starved.

tests/unit/worker/test_bulk_quota.py checks how many slots bulk jobs get; `make long NAME=waiting` measures what they
cost the callers.
"""

import asyncio
from pathlib import Path

import orjson

from cli.bench.load import closed_loop
from cli.bench.load.connection import Address
from cli.bench.load.submit_modes import Exchange, build_submit_request, submit_and_wait
from cli.bench.load_levels import WAIT, LoadLevel
from tests.support import models
from tests.support.service import Service
from tests.support.waiting import wait_until

JOBS = 20_000
LINE = orjson.dumps({"input": {"tensors": {"x": {"datatype": "FP32", "shape": [4], "data": [1, 2, 3, 4]}}}}) + b"\n"


def waiting(service: Service) -> int:
    """Return the number of queued bulk jobs."""
    (line,) = [
        line
        for line in service.http.get("/metrics").text.splitlines()
        if line.startswith("jitney_waiting_jobs{") and 'lane="bulk"' in line
    ]
    return int(float(line.rpartition(" ")[2]))


def test_bulk_runs_beside_a_stream_and_after_it(tmp_path: Path) -> None:
    models.perceptron(tmp_path, inputs=4)
    with (tmp_path / "perceptron" / "model.toml").open("a") as toml:
        toml.write("\nmax_batch = 64")  # a larger one would empty the queue at once
    with Service(tmp_path, {"JITNEY_IDLE_POLL_S": "60"}) as service:
        address = Address.of(service.url)
        exchange = Exchange(
            1, [build_submit_request(address, "perceptron", "application/octet-stream", bytes(16))], submit_and_wait
        )
        stream = LoadLevel(WAIT, 64)
        asyncio.run(closed_loop.measure(address, exchange, stream, 0.5))  # by this its runs are known to be short

        lane = {"lane": "bulk"}
        assert service.http.post("/v1/queues/perceptron/pause", json=lane).status_code == 200
        query, headers = {"model": "perceptron", **lane}, {"content-type": "application/x-ndjson"}
        for _ in range(JOBS // 1000):
            answer = service.http.post("/v1/jobs", params=query, content=1000 * LINE, headers=headers)
            assert answer.status_code == 202
        assert service.http.post("/v1/queues/perceptron/resume", json=lane).status_code == 200
        result = asyncio.run(closed_loop.measure(address, exchange, stream, 1))
        assert not result.failures, result.first_problem
        assert result.answers
        assert 0 < waiting(service) < JOBS
        wait_until(lambda: waiting(service) == 0, "a worker that rests comes back by itself", 30)
