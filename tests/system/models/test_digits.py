"""Digits over every route: each caller reads its own digit, and batches form by themselves."""

import json
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cli.bench.command import main as bench
from tests.support.service import DIGITS, ROOT, Service
from tests.support.waiting import wait_until


def by_predict(service: Service, image: Path) -> str:
    answer = service.predict(image).json()
    assert answer["success"] is True
    return str(answer["predictions"][0]["label"])


def by_submit_and_poll(service: Service, image: Path) -> str:
    answer = service.submit(image.read_bytes(), model="digits")
    assert answer.status_code == 202
    assert answer.headers["location"] == answer.json()["urls"]["self"]
    return str(service.final(answer.json()["id"])["output"]["predictions"][0]["label"])


def by_submit_and_wait(service: Service, image: Path) -> str:
    files = {"image": (image.name, image.read_bytes())}
    answer = service.http.post("/v1/jobs", files=files, data={"model": "digits"}, headers={"prefer": "wait=20"})
    assert (answer.status_code, answer.headers["preference-applied"]) == (200, "wait=20")
    return str(answer.json()["output"]["predictions"][0]["label"])


def by_raw_body(service: Service, image: Path) -> str:
    return str(service.submit(image.read_bytes(), wait=20).json()["output"]["predictions"][0]["label"])


@pytest.mark.parametrize("door", [by_predict, by_submit_and_poll, by_submit_and_wait, by_raw_body])
def test_every_sample_digit_gets_its_true_label(service: Service, door: Callable[[Service, Path], str]) -> None:
    assert len(DIGITS) >= 24
    with ThreadPoolExecutor(64) as callers:
        sent = DIGITS * 2  # more than are in flight
        labels = list(callers.map(lambda image: door(service, image), sent))
    wrong = [(image.name, label) for label, image in zip(labels, sent, strict=True) if label != image.name[0]]
    assert len(wrong) <= 0.02 * len(sent), wrong


def test_a_flood_gets_right_answers_in_batches(service: Service) -> None:
    flood = DIGITS * 10
    with ThreadPoolExecutor(64) as callers:
        jobs = list(callers.map(lambda image: service.submit(image.read_bytes(), wait=20).json(), flood))
    assert {job["status"] for job in jobs} == {"succeeded"}
    right = sum(j["output"]["predictions"][0]["label"] == i.name[0] for j, i in zip(jobs, flood, strict=True))
    assert right >= 0.98 * len(flood)
    assert max(job["batch_size"] for job in jobs) > 1


def test_with_64_in_flight_the_mean_batch_is_above_4(
    service: Service, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    batches, items = batch_metrics(service)
    assert bench(["--url", service.url, "--concurrency", "64", "--seconds", "1", "--rounds", "1", "--json"]) == 0
    (measured,) = json.loads(capsys.readouterr().out)["service"]
    assert measured["failures"] == {}
    assert measured["mean_batch"] > 4

    def settled() -> tuple[float, float] | None:
        more_batches, more_items = batch_metrics(service)
        return (more_batches, more_items) if more_items - items >= measured["answers"] else None

    more_batches, more_items = wait_until(settled, "the metrics have counted every answer")
    assert (more_items - items) / (more_batches - batches) > 4


def batch_metrics(service: Service) -> tuple[float, float]:
    """Read from the service's own metrics how many batches ran, and how many items they had."""
    text = service.http.get("/metrics").text
    found = [re.search(rf'jitney_batch_size_{what}{{model="digits"}} (\S+)', text) for what in ("count", "sum")]
    batches, items = (float(match[1]) if match else 0.0 for match in found)
    return batches, items
