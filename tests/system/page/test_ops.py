"""The operations page with a whole service: what it shows, what it steers, and that everyone can use it."""

import io
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from tests.support import models
from tests.support.browser import accessibility_violations, logged, requested_urls, resize
from tests.support.model_files import fragile
from tests.support.ops_page import OpsPage
from tests.support.receiver import Receiver, answer
from tests.support.service import DIGITS, ROOT, Service
from tests.support.waiting import wait_until

VIEWS = ("overview", "jobs", "dead-letters", "webhooks", "bulk-jobs")
MAX_PAGE_BYTES = 150_000
SETTINGS = {
    "JITNEY_WEBHOOK_ALLOW_CIDRS": "127.0.0.1/32",
    "JITNEY_WEBHOOK_SCHEDULE": "0,600",
    "JITNEY_MAX_STREAMS": "50",
}
ONES = np.ones(4, dtype="<f4").tobytes()
RAW = "application/octet-stream"
DOUBLE = ("double@1", "interactive")


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with Receiver(answer(500)) as running:
        yield running


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with `digits`, whose run fails for white pictures, and `double`."""
    folder = tmp_path_factory.mktemp("models")
    shutil.copytree(ROOT / "models" / "digits", folder / "digits")
    fragile.add_guard(folder / "digits" / "1" / "model.onnx", 0.9)
    models.doubling(folder)
    with Service(folder, SETTINGS) as running:
        wait_until(lambda: len(running.http.get("/v1/models").json()["models"]) == 2, "all models are served")
        yield running


@pytest.fixture
def page(browser: webdriver.Chrome, service: Service) -> Iterator[OpsPage]:
    """Load the page, and clear earlier logs; afterwards the console has no error."""
    for log in ("browser", "performance"):
        logged(browser, log)
    page = OpsPage(browser, service.url)
    page.open()
    page.wait_for_row("Queues", "digits@1", "interactive")
    yield page
    assert [entry for entry in logged(browser, "browser") if entry["level"] != "INFO"] == []


def white_picture() -> bytes:
    written = io.BytesIO()
    Image.new("L", (28, 28), 255).save(written, "PNG")
    return written.getvalue()


def submit_doubles(service: Service, number: int, **query: str) -> list[str]:
    return [service.submit(ONES, RAW, 0, model="double", **query).json()["id"] for _ in range(number)]


def pause(page: OpsPage, *, submits: str = "accept") -> None:
    page.press("Queues", DOUBLE, "Pause…")
    page.wait("document.querySelector('dialog input[name=submits]')", "the dialog asks what becomes of new jobs")
    page.run(f"document.querySelector('dialog input[value={submits}]').click()")
    page.confirm("Pause", "Pause double?")
    page.wait_for_row("Queues", "double@1", "interactive", f"paused, new jobs: {submits}")


def resume(page: OpsPage) -> None:
    page.go("overview")
    page.press("Queues", DOUBLE, "Resume")
    page.message("double, interactive: resumed.")


def test_what_happens_is_shown_as_it_happens(page: OpsPage, service: Service) -> None:
    for each in range(40):
        service.submit(DIGITS[each % len(DIGITS)].read_bytes(), model="digits")
    succeeded = "document.querySelector('[aria-label=\"Open jobs by model\"] td:nth-child(6)')?.textContent"
    page.wait(f"{succeeded} === '40'", "40 jobs have succeeded")
    page.wait("document.querySelector('.histogram') !== null", "the sizes of batches are shown")
    assert "of size" in str(page.run("return document.querySelector('.histogram').ariaLabel"))
    queue, infer = (page.wait_for_row("Times of digits", stage) for stage in ("queue", "infer"))
    assert queue[1].endswith((" ms", " s"))
    assert infer[2].endswith((" ms", " s"))
    page.wait("/live/.test(document.getElementById('live').textContent)", "the stream of snapshots is open")
    worker = page.wait_for_row("Workers", "serving")
    assert "digits@1 on" in worker[2]


def test_a_paused_queue_keeps_its_jobs_until_it_is_resumed(page: OpsPage, service: Service) -> None:
    pause(page)
    first, *others = submit_doubles(service, 4)
    page.wait_for_row("Queues", "double@1", "interactive", "paused", "4")
    page.go("jobs?status=queued&model=double")
    page.wait_for_row("Jobs", first, "queued")
    page.press("Jobs", first, "Cancel…")
    page.confirm("Cancel the job", "Cancel this job?")
    page.message(f"The job {first} is canceled.")
    assert service.http.get(f"/v1/jobs/{first}").json()["status"] == "canceled"
    resume(page)
    assert [service.final(each)["status"] for each in others] == ["succeeded"] * 3
    page.go(f"job/{others[0]}")
    page.wait_for_text("succeeded")
    page.wait_for_text("claimed by a worker")
    assert '"y"' in page.text()


def test_many_are_canceled_after_a_question_that_names_their_number(page: OpsPage, service: Service) -> None:
    pause(page)
    page.go("jobs?model=double&metadata=run%3D7")
    kept = submit_doubles(service, 2)
    canceled = submit_doubles(service, 5, metadata='{"run": "7"}')
    page.run("document.querySelector('#content .filters select').value = 'queued'")
    page.press_button("Cancel all that match…")
    page.wait("document.getElementById('dialog').open", "it asks first")
    page.press_button("Back", "dialog")
    assert service.http.get(f"/v1/jobs/{canceled[0]}").json()["status"] == "queued"
    page.press_button("Cancel all that match…")
    page.confirm("Cancel 5 jobs", "Cancel 5 jobs?")
    page.message("5 jobs canceled.")
    states = [service.http.get(f"/v1/jobs/{each}").json()["status"] for each in (*kept, *canceled)]
    assert states == ["queued"] * 2 + ["canceled"] * 5
    resume(page)


def test_a_purge_needs_the_name_of_the_model(page: OpsPage, service: Service) -> None:
    pause(page)
    jobs = submit_doubles(service, 3)
    page.wait_for_row("Queues", "double@1", "interactive", "Purge…")
    page.press("Queues", DOUBLE, "Purge…")
    page.wait("document.getElementById('typed') !== null", "it asks for the name")
    assert page.run("return document.querySelector('dialog [type=submit]').disabled")
    page.browser.find_element(By.ID, "typed").send_keys("double")
    page.confirm("Purge", "Purge the queue of double?")
    page.message("3 jobs canceled.")
    assert [service.final(each)["status"] for each in jobs] == ["canceled"] * 3
    resume(page)


def test_a_dead_letter_is_looked_at_and_replayed(page: OpsPage, service: Service) -> None:
    job = service.submit(white_picture(), model="digits", wait=10, metadata='{"order": "17"}').json()
    assert job["error"]["code"] == "inference_failed"
    page.go("dead-letters")
    page.wait_for_row("Dead letters", job["id"], "inference_failed", "image")
    page.press("Dead letters", job["id"], "Input")
    page.wait("document.querySelector('dialog img')?.naturalWidth === 28", "the picture is shown")
    assert "order=17" in page.text()
    page.confirm("Close")
    page.press("Dead letters", job["id"], "Replay")
    page.message("Replayed as job ")
    replayed = service.http.get(f"/v1/deadletters/{job['id']}").json()["replayed_as"]
    page.wait_for_row("Dead letters", job["id"], replayed)
    page.wait_for_row("Dead letters", replayed, "inference_failed")  # the same input fails again
    page.press("Dead letters", replayed, "Delete…")
    page.confirm("Delete")
    page.message("is deleted")
    page.go("overview")
    page.wait_for_row("Failed jobs by error code", "digits")


def test_a_bulk_job_is_followed_to_its_end_and_another_is_canceled(page: OpsPage, service: Service) -> None:
    tensor = {"x": {"datatype": "FP32", "shape": [4], "data": [1, 2, 3, 4]}}
    body = {"model": "double", "input": {"tensors": tensor}}
    lines = [{"custom_id": str(n), "method": "POST", "url": "/v1/jobs", "body": body} for n in range(60)]
    text = "\n".join(map(json.dumps, lines))

    def start() -> str:
        file = service.http.post("/v1/files", files={"file": ("a.jsonl", text)}, data={"purpose": "batch"}).json()
        made = service.http.post("/v1/batches", json={"input_file_id": file["id"], "endpoint": "/v1/jobs"})
        return str(made.json()["id"])

    page.go("bulk-jobs")
    first = start()
    page.wait_for_row("Bulk jobs", first, "completed", "60 of 60")
    assert page.run("return document.querySelector('td progress').value") == 60
    service.http.post("/v1/queues/double/pause", json={"lane": "bulk"})
    second = start()
    page.wait_for_row("Bulk jobs", second, "in_progress", "0 of 60")
    page.press("Bulk jobs", second, "Cancel…")
    page.confirm("Cancel the bulk job")
    service.http.post("/v1/queues/double/resume")
    page.wait_for_row("Bulk jobs", second, "cancelled")


def test_a_worker_is_paused_and_resumed(page: OpsPage, service: Service) -> None:
    page.press("Workers", "serving", "Pause…")
    page.confirm("Pause", "Pause the worker")
    page.wait_for_row("Workers", "paused")
    (job,) = submit_doubles(service, 1)
    assert service.http.get(f"/v1/jobs/{job}?wait=1").json()["status"] == "queued"
    page.press("Workers", "paused", "Resume")
    page.wait_for_row("Workers", "serving")
    assert service.final(job)["status"] == "succeeded"


def test_a_delivery_is_sent_again(page: OpsPage, service: Service, receiver: Receiver) -> None:
    submit_doubles(service, 1, webhook=f"{receiver.url}/hook")
    page.go("webhooks")
    page.wait_for_row("Deliveries", "job.succeeded", "waiting", "500")
    receiver.behaves = answer(204)
    page.press("Deliveries", "job.succeeded", "Send again")
    page.message("is due again")
    page.wait_for_row("Deliveries", "job.succeeded", "delivered", "204")
    assert page.wait_for_row("Receivers", receiver.url)[2] == "0"


def test_the_page_is_small_and_asks_only_its_own_origin(page: OpsPage, service: Service) -> None:
    page.wait("performance.getEntriesByType('resource').length > 8", "all files are read")
    sizes = page.run(
        "return performance.getEntriesByType('resource').concat(performance.getEntriesByType('navigation'))"
        ".filter(({ name }) => new URL(name).pathname.startsWith('/ops')).map(({ decodedBodySize }) => decodedBodySize)"
    )
    assert len(sizes) > 8
    assert sum(sizes) < MAX_PAGE_BYTES
    own = (f"{service.url}/", "data:", "blob:", "about:")
    assert [url for url in requested_urls(page.browser) if not url.startswith(own)] == []
    policy = service.http.get("/ops").headers["content-security-policy"]
    assert "unsafe" not in policy
    assert policy.startswith("default-src 'none'")
    for name in VIEWS:
        page.go(name)
        page.wait(f"document.querySelector('nav [aria-current]').hash === '#{name}'", "the link of the view is marked")


@pytest.mark.parametrize("size", [(1280, 900), (390, 844)])
def test_everyone_can_use_it(page: OpsPage, service: Service, size: tuple[int, int]) -> None:
    """Axe finds nothing, in light and dark; nothing is wider than the screen; Escape leaves a dialog."""
    resize(page.browser, *size)
    try:
        for scheme in ("light", "dark"):
            feature = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
            page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", feature)
            for name in (*VIEWS, f"job/{service.http.get('/v1/jobs').json()['jobs'][0]['id']}"):
                page.go(name)
                page.wait("document.querySelector('main td, main li') !== null", f"{name} has content")
                if scheme == "light" or name == "overview":
                    assert accessibility_violations(page.browser) == [], f"{name} {scheme}"
                assert page.run("return document.documentElement.scrollWidth") <= size[0], name
        page.go("overview")
        page.press("Queues", DOUBLE, "Pause…")
        page.wait("document.getElementById('dialog').open", "the dialog is open")
        assert accessibility_violations(page.browser) == []
        page.browser.switch_to.active_element.send_keys(Keys.ESCAPE)
        page.wait("!document.getElementById('dialog').open", "Escape closes it")
        assert service.http.get("/v1/queues").json()["queues"][0]["paused"] is None
        if folder := os.environ.get("SCREENSHOTS"):
            save_screenshots(page, Path(folder), size[0])
    finally:
        page.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def save_screenshots(page: OpsPage, folder: Path, width: int) -> None:
    for name in VIEWS:
        resize(page.browser, width, 400)
        page.go(name)
        page.wait("document.querySelector('main td') !== null", f"{name} has content")
        height: Any = page.run("return document.documentElement.scrollHeight")
        resize(page.browser, width, min(max(height, 400), 1400 if width > 500 else 1700))
        assert page.browser.save_screenshot(str(folder / f"ops-{name}-{width}.png"))
