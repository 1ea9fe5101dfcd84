"""Errors of a custom task fail its own job and no other."""

from collections.abc import Iterator

import pytest

from tests.support import models
from tests.support.service import Service

OFFENDER = '''
"""A tensor task that misbehaves as its input says: the first number names the fault."""
import numpy as np
from jitney import TensorTask

class Offender(TensorTask):
    offload = {offload}

    def preprocess(self, kind, data, parameters):
        arrays = super().preprocess(kind, data, parameters)
        fault = int(arrays["x"][0])
        if fault == 1:
            return {{"x": [1.0, 2.0, 3.0, 4.0]}}
        if fault == 2:
            return None
        if fault == 3:
            raise SystemExit("bye")
        if fault == 4:
            return {{"x": np.zeros(5, np.float32)}}
        if fault == 5:
            raise RuntimeError("no")
        return arrays

    def postprocess(self, outputs, parameters):
        if int(outputs["y"][0]) == 2 * 6:
            raise SystemExit("bye")
        if int(outputs["y"][0]) == 2 * 7:
            return {{"value": object()}}
        return super().postprocess(outputs, parameters)
'''


@pytest.fixture(scope="module", params=[True, False], ids=["in threads", "in the loop"])
def offending(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    models_dir = tmp_path_factory.mktemp("models")
    folder = models.doubling(models_dir, "own", 'task = "own.py:Offender"')
    (folder / "own.py").write_text(OFFENDER.format(offload=request.param))
    with Service(models_dir) as service:
        yield service


def test_each_fault_fails_its_own_job_alone(offending: Service) -> None:
    worker = offending.pid("worker")
    sent = [first for fault in range(1, 8) for first in (0, fault, 8)] * 3
    ids = []
    for first in sent:
        tensor = {"datatype": "FP32", "shape": [4], "data": [first, 1, 2, 3]}
        answer = offending.http.post("/v1/jobs", json={"model": "own", "input": {"tensors": {"x": tensor}}})
        ids.append(answer.json()["id"])
    ended = [offending.final(job_id)["status"] for job_id in ids]
    assert ended == ["failed" if 1 <= first <= 7 else "succeeded" for first in sent]
    assert offending.pid("worker") == worker
    assert "WorkItem(" not in offending.log()  # what callers send is not for the log
