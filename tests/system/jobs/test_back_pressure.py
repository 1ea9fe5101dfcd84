"""A full queue refuses at once with Retry-After, and finishes the accepted jobs."""

import struct
from pathlib import Path

from tests.support import models
from tests.support.service import Service

BODY = struct.pack("<4f", 1, 2, 3, 4)


def test_a_full_queue_refuses_at_once_and_finishes_accepted_jobs(tmp_path: Path) -> None:
    models.slow(tmp_path / "models")
    with Service(tmp_path / "models", {"JITNEY_MAX_JOBS": "30"}) as service:
        assert service.http.post("/v1/queues/slow/pause").status_code == 200  # nothing ends meanwhile
        answers = [service.submit(BODY, "application/octet-stream") for _ in range(40)]
        taken = [answer.json()["id"] for answer in answers if answer.status_code == 202]
        refused = [answer for answer in answers if answer.status_code != 202]
        assert (len(taken), len(refused)) == (30, 10)
        for answer in refused:
            body = answer.json()
            assert (answer.status_code, body["code"], body["limit_jobs"]) == (503, "queue_full", 30)
            assert 1 <= int(answer.headers["retry-after"]) <= 60
            assert answer.elapsed.total_seconds() < 2
        assert service.http.post("/v1/queues/slow/resume").status_code == 200
        assert {service.final(job_id)["status"] for job_id in taken} == {"succeeded"}
        assert service.submit(BODY, "application/octet-stream").status_code == 202
