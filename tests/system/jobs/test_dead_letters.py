"""A job that its model fails is kept with its input, and runs again once the model is repaired."""

import struct
from pathlib import Path

from tests.support import models
from tests.support.service import Service
from tests.support.waiting import wait_until

GOOD, BAD = struct.pack("<q", 3), struct.pack("<q", 7)  # the first version has four rows
RAW = "application/octet-stream"


def shares(service: Service) -> dict[str, float]:
    """The percentage of new jobs of each version: a killed worker counts until it is missed."""
    return {model["version"]: model["share"] for model in service.http.get("/v1/models").json()["models"]}


def test_a_failed_job_runs_again_once_its_model_is_repaired(tmp_path: Path) -> None:
    models.picking(tmp_path)
    with Service(tmp_path) as service:
        http = service.http
        good = service.submit(GOOD, RAW).json()["id"]
        bad = service.submit(BAD, RAW, wait=20, metadata='{"order":"17"}').json()
        assert (bad["status"], bad["error"]["code"]) == ("failed", "inference_failed")
        assert service.final(good)["output"]["tensors"]["y"]["data"] == [3]
        (letter,) = http.get("/v1/deadletters").json()["deadletters"]
        assert (letter["id"], letter["input_bytes"], letter["metadata"]) == (bad["id"], 8, {"order": "17"})
        assert http.get(letter["urls"]["input"]).content == BAD
        again = service.final(http.post(letter["urls"]["replay"]).json()["id"])
        assert (again["status"], again["version"]) == ("failed", "1")
        assert http.get("/metrics").text.count("\njitney_dead_letters 2.0\n") == 1

        models.picking(tmp_path, rows=8)
        service.kill("worker")  # another starts, and serves what lies in the folder now
        wait_until(lambda: shares(service).get("2") == 100, "version 2 gets all jobs", 30)
        answer = http.post("/v1/deadletters/replay?code=inference_failed&replayed=false").json()
        assert (answer["replayed"], answer["skipped"], answer["more"]) == (1, 0, False)
        replayed_as = http.get(f"/v1/deadletters/{again['id']}").json()["replayed_as"]
        mended = service.final(replayed_as)
        assert (mended["status"], mended["version"], mended["metadata"]) == ("succeeded", "2", {"order": "17"})
        assert mended["output"]["tensors"]["y"]["data"] == [7]
        assert http.delete("/v1/deadletters?all=true").json()["purged"] == 2
