"""Costly inputs delay only their own tenant: those of others are prepared meanwhile, for all models.

One tenant's pictures, each of seconds, held all decode threads, and everybody's inputs waited behind all of them.
"""

import struct
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.support import models
from tests.support.api_keys import jitney_keys
from tests.support.service import Service
from tests.support.waiting import wait_until

GATED = '''
"""Doubles; inputs that begin with 13 are prepared once the file `go` is there."""
import threading
from jitney import TensorTask

class Gated(TensorTask):
    def preprocess(self, kind, data, parameters):
        arrays = super().preprocess(kind, data, parameters)
        if arrays["x"][0] == 13:
            (self.folder / "held").touch()
            while not (self.folder / "go").exists():
                threading.Event().wait(0.01)
        return arrays
'''
LINE = b'{"model":"gated","input":{"tensors":{"x":{"datatype":"FP32","shape":[4],"data":[13,2,3,4]}}}}\n'
MANY = 20  # more than the worker takes in at a time


@pytest.fixture
def gated(tmp_path: Path) -> Iterator[Service]:
    """One decode thread, and models with the gate above."""
    for name in ("gated", "other"):
        folder = models.doubling(tmp_path / "models", name, 'task = "gated.py:Gated"\nmax_batch = 4')
        (folder / "gated.py").write_text(GATED)
    with Service(tmp_path / "models", {"JITNEY_DECODE_THREADS": "1"}) as service:
        yield service


def test_inputs_of_another_tenant_are_prepared_meanwhile(gated: Service, tmp_path: Path) -> None:
    socket = wait_until(lambda: next(iter(gated.folder.rglob("*.sock")), None), "the queue's socket")
    made = [jitney_keys(f"unix://{socket}", "create", "--tenant", name).stdout.strip() for name in ("costly", "calm")]
    costly, calm = ({"authorization": f"Bearer {key}"} for key in made)
    with httpx2.Client(base_url=gated.url, timeout=30, trust_env=False, verify=False) as http:
        wait_until(lambda: {http.get("/v1/jobs", headers=one).status_code for one in (costly, calm)} == {200}, "keys")
        sent = http.post("/v1/jobs", content=LINE * MANY, headers={**costly, "content-type": "application/x-ndjson"})
        assert sent.status_code == 202
        wait_until((tmp_path / "models" / "gated" / "held").exists, "an input is held")
        for model in ("other", "gated", "gated"):
            headers = {**calm, "content-type": "application/octet-stream", "prefer": "wait=20"}
            answer = http.post(f"/v1/jobs?model={model}", content=struct.pack("<4f", 1, 2, 3, 4), headers=headers)
            assert answer.json()["status"] == "succeeded", model
        (tmp_path / "models" / "gated" / "go").touch()
        listed = f"/v1/jobs?limit={MANY}"
        wait_until(lambda: http.get(listed, headers=costly).text.count('"succeeded"') == MANY, "the others end", 20)
