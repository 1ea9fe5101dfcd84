"""The operations page with data that a test wrote: keys, tenants, hostile texts, kinds of inputs, what is unsafe."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import orjson
import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from jobs.contract.job import Outcome
from jobs.contract.lifecycle import State
from tests.support.api_keys import Caller, callers
from tests.support.browser import logged, requested_urls
from tests.support.gateways import PNG, GatewayProcess, Worker
from tests.support.ops_page import OpsPage
from tests.support.servers import Server

HOSTILE = '<img src=x onerror="window.attacked=1"><script>window.attacked=1</script>\u202e\'"&'
TENSORS = {"x": {"datatype": "FP32", "shape": [4], "data": [1.5, 2, 3, 4]}}


@pytest.fixture
def queue() -> Iterator[Server]:
    server = Server(options=("--appendonly", "no"))  # of which the page warns
    yield server
    server.close()


def announce(queue: Server, gateway: GatewayProcess) -> None:
    async def serve() -> None:
        worker = Worker(queue)
        await worker.announce(gateway)
        await worker.connection.aclose()

    asyncio.run(serve())


def run(queue: Server, *, state: State, body: dict[str, Any], dead: bool = False) -> None:
    """Run all jobs that wait, to this end."""

    async def end() -> None:
        worker = Worker(queue)
        jobs = await worker.claim()
        outcomes = [Outcome(job.id, job.attempt, state, orjson.dumps(body), dead=dead) for job in jobs]
        await worker.store.finish("w1", outcomes)
        await worker.connection.aclose()

    asyncio.run(end())


def submit(caller: Caller, body: bytes = PNG, content_type: str = "image/png", **query: str) -> str:
    headers = {"content-type": content_type}
    return str(caller.post("/v1/jobs", params={"model": "m", **query}, content=body, headers=headers).json()["id"])


def error(code: str, message: str) -> dict[str, Any]:
    return {"code": code, "message": message, "status": 422}


def test_a_service_with_keys_asks_for_an_admins(browser: webdriver.Chrome, queue: Server) -> None:
    """The key is kept for the tab, is in no URL, and shows the jobs of all tenants."""
    with GatewayProcess(queue) as gateway:
        announce(queue, gateway)
        acme, admin = callers(queue, gateway, "acme", "admin")
        mine, theirs = submit(admin), submit(acme, metadata=json.dumps({HOSTILE: HOSTILE}))
        url = f"http://127.0.0.1:{gateway.port}"
        assert Caller(gateway, "").get("/ops").status_code == 200
        assert Caller(gateway, "").get("/v1/ops/events").status_code == 401
        assert acme.get("/v1/ops/events").status_code == 403
        page = OpsPage(browser, url)
        page.open("jobs")
        page.wait("!document.getElementById('key-form').hidden", "it asks for a key")
        logged(browser, "performance")
        field = browser.find_element(By.ID, "key")
        for caller, then in ((acme, "needs an API key with the role admin"), (admin, "")):
            key = caller.headers["authorization"].removeprefix("Bearer ")
            page.wait("!document.getElementById('key-form').hidden", "it asks for a key")
            field.send_keys(key, Keys.ENTER)
            if then:
                page.wait("document.getElementById('key-message').textContent.includes(arguments[0])", then, then)
        page.wait_for_row("Jobs", mine, "admin", "queued")
        page.wait_for_row("Jobs", theirs, "acme", "queued")
        page.press("Jobs", theirs, "Cancel…")
        page.confirm("Cancel the job")
        page.message("is canceled")
        assert acme.get(f"/v1/jobs/{theirs}").json()["status"] == "canceled"
        page.browser.refresh()
        page.wait_for_row("Jobs", theirs, "acme", "canceled")  # the key is kept for the tab
        assert page.run("return document.getElementById('key-form').hidden")
        assert not page.run("return localStorage.length")
        assert [asked for asked in requested_urls(browser) if key in asked] == []
        page.go("overview")
        page.wait_for_text("Redis may lose jobs")


def test_hostile_texts_are_texts(browser: webdriver.Chrome, queue: Server) -> None:
    """Metadata, outputs, errors, inputs and the texts of filters come from anyone."""
    with GatewayProcess(queue) as gateway:
        announce(queue, gateway)
        caller = Caller(gateway, "")
        hostile = json.dumps({HOSTILE[:60]: HOSTILE})
        succeeded = submit(caller, metadata=hostile)
        run(queue, state=State.SUCCEEDED, body={"predictions": [{"label": HOSTILE, "index": 0, "probability": 1.0}]})
        failed = submit(caller, metadata=hostile)
        run(queue, state=State.FAILED, body=error("inference_failed", HOSTILE), dead=True)
        logged(browser, "browser")
        page = OpsPage(browser, f"http://127.0.0.1:{gateway.port}")
        page.open("jobs")
        page.wait_for_row("Jobs", succeeded, "onerror")
        page.go(f"job/{succeeded}")
        page.wait_for_text("<script>window.attacked=1</script>")
        page.go(f"job/{failed}")
        page.wait_for_text("inference_failed, 422")
        page.go("dead-letters")
        page.wait_for_row("Dead letters", failed, "onerror")
        page.press("Dead letters", failed, "Input")
        page.wait("document.querySelector('dialog img') !== null", "the input is shown")
        page.confirm("Close")
        page.go("jobs?model=%3Cimg%20src=x%20onerror=alert(1)%3E")
        page.message("is not a valid name")
        assert not page.run("return 'attacked' in window")
        assert page.run("return document.querySelectorAll('main script, main img').length") == 0
        policy = [entry["message"] for entry in logged(browser, "browser") if "Content Security" in entry["message"]]
        assert policy == []


def test_inputs_of_each_kind_can_be_looked_at(browser: webdriver.Chrome, queue: Server) -> None:
    with GatewayProcess(queue) as gateway:

        async def serve() -> None:
            worker = Worker(queue)
            await worker.announce(
                gateway, kinds=["image", "tensors", "raw", "json", "text"], input_fields=["json", "text"]
            )
            await worker.connection.aclose()

        asyncio.run(serve())
        http = gateway.http
        bodies: list[tuple[dict[str, Any], str]] = [
            ({"tensors": TENSORS}, "x: FP32 [4]\n1.5, 2, 3, 4"),
            ({"text": f"a text {HOSTILE}"}, "a text <img"),
            ({"json": {"rooms": 3}}, '{"rooms":3}'),
        ]
        shown = {http.post("/v1/jobs", json={"model": "m", "input": job}).json()["id"]: text for job, text in bodies}
        raw = submit(Caller(gateway, ""), np.array([1, 2, 3, 4], "<f4").tobytes(), "application/octet-stream")
        run(queue, state=State.FAILED, body=error("inference_failed", "no"), dead=True)
        page = OpsPage(browser, f"http://127.0.0.1:{gateway.port}")
        page.open("dead-letters")
        for job, text in {**shown, raw: "00 00 80 3f 00 00 00 40"}.items():
            page.press("Dead letters", job, "Input")
            page.wait("document.querySelector('dialog pre')?.textContent.includes(arguments[0])", text, text)
            page.confirm("Close")
