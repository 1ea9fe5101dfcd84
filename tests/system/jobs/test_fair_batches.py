"""A job behind another tenant's flood runs in the very next batch."""

import struct
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.support import models
from tests.support.api_keys import jitney_keys
from tests.support.service import Service
from tests.support.waiting import wait_until

BATCH, BODY = 8, struct.pack("<4f", 1, 2, 3, 4)
LINE = b'{"model":"slow","input":{"tensors":{"x":{"datatype":"FP32","shape":[4],"data":[1,2,3,4]}}}}\n'


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[Service]:
    """A model that takes 50 ms an item, 400 ms a batch."""
    models.slow(tmp_path / "models")
    with Service(tmp_path / "models") as service:
        yield service


def test_a_job_that_arrives_during_a_batch_runs_in_the_next_one(slow: Service) -> None:
    socket = wait_until(lambda: next(iter(slow.folder.rglob("*.sock")), None), "the queue's socket")
    made = [jitney_keys(f"unix://{socket}", "create", "--tenant", name).stdout.strip() for name in ("flooding", "calm")]
    headers = [{"authorization": f"Bearer {key}"} for key in made]
    with httpx2.Client(base_url=slow.url, timeout=30, trust_env=False, verify=False) as http:
        wait_until(lambda: {http.get("/v1/jobs", headers=one).status_code for one in headers} == {200}, "known keys")
        flood = {**headers[0], "content-type": "application/x-ndjson"}
        assert http.post("/v1/jobs", content=LINE * 10 * BATCH, headers=flood).status_code == 202

        def done() -> int:
            return http.get("/v1/jobs?limit=100", headers=headers[0]).text.count('"status":"succeeded"')

        before = wait_until(done, "the flood's first batch has ended")
        mine = {**headers[1], "content-type": "application/octet-stream", "prefer": "wait=20"}
        answer = http.post("/v1/jobs?model=slow", content=BODY, headers=mine)
        assert answer.json()["status"] == "succeeded"
        assert done() - before <= BATCH + BATCH - 1  # those of the batch that ran, and those who rode with us
