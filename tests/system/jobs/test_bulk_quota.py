"""Bulk jobs of a fast model beside streaming callers: these keep their slots, and bulk is not starved."""

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

JOBS = 60_000
MOST = 2.0  # bulk jobs taken for each answer of the stream: 0.4 or so; 3 where they take all slots
LINE = orjson.dumps({"input": {"tensors": {"x": {"datatype": "FP32", "shape": [4], "data": [1, 2, 3, 4]}}}}) + b"\n"


def waiting(service: Service) -> int:
    """Return the number of queued bulk jobs."""
    (line,) = [
        line
        for line in service.http.get("/metrics").text.splitlines()
        if line.startswith("jitney_waiting_jobs{") and 'lane="bulk"' in line
    ]
    return int(float(line.rpartition(" ")[2]))


def test_bulk_has_its_share_beside_a_stream_and_all_slots_after_it(tmp_path: Path) -> None:
    models.perceptron(tmp_path, inputs=4)
    with Service(tmp_path, {"JITNEY_IDLE_POLL_S": "60"}) as service:
        address = Address.of(service.url)
        exchange = Exchange(
            1, [build_submit_request(address, "perceptron", "application/octet-stream", bytes(16))], submit_and_wait
        )
        stream = LoadLevel(WAIT, 64)
        asyncio.run(closed_loop.measure(address, exchange, stream, 0.5))  # by this its runs are known to be short

        query, headers = {"model": "perceptron", "lane": "bulk"}, {"content-type": "application/x-ndjson"}
        for _ in range(JOBS // 1000):
            answer = service.http.post("/v1/jobs", params=query, content=1000 * LINE, headers=headers)
            assert answer.status_code == 202
        shares: list[float] = []
        # Several slices, because bulk rightly takes the slots while other processes keep the callers from sending.
        while not shares or (shares[-1] >= MOST and waiting(service)):
            before = waiting(service)
            result = asyncio.run(closed_loop.measure(address, exchange, stream, 1))
            assert not result.failures, result.first_problem
            if after := waiting(service):  # else there were too few to tell
                shares.append((before - after) / result.answers)
        assert 0 < shares[-1] < MOST, shares
        wait_until(lambda: waiting(service) == 0, "a worker that rests comes back by itself", 30)
