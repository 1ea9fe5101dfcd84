"""A page of another origin in a real browser: examples/browser, and what is refused without the setting."""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from tests.support.api_keys import make_key
from tests.support.browser import logged
from tests.support.gateways import GatewayProcess
from tests.support.servers import Server, free_port
from tests.support.service import DIGITS, ROOT, Service
from tests.support.waiting import wait_until

PATIENCE_S = 15
EXAMPLE_URL = "http://127.0.0.1:8000"  # of the gateway, in the example
SEVEN = next(path for path in DIGITS if path.name.startswith("7"))
# Each part of the example that crosses the origins; the result is what the page would see.
TRY = """
    const [base, reply] = arguments;
    const tried = async (call) => { try { return (await call()).status; } catch (error) { return String(error); } };
    const headers = { "Content-Type": "image/png", "Idempotency-Key": crypto.randomUUID() };
    const stream = (url) => new Promise((done) => {
        const source = new EventSource(url);
        source.onopen = () => { source.close(); done({ status: "open" }); };
        source.onerror = () => { source.close(); done({ status: "refused" }); };
    });
    (async () => reply([
        await tried(() => fetch(`${base}/healthz`)),
        await tried(() => fetch(`${base}/v1/jobs`, { method: "POST", body: "x", headers })),
        await tried(() => stream(`${base}/v1/events`)),
    ]))();
"""
REFUSED = ["TypeError: Failed to fetch", "TypeError: Failed to fetch", "refused"]


@contextmanager
def backend(folder: Path, gateway_url: str, port: int, key: str = "") -> Iterator[str]:
    """Run the example's backend, changed to this gateway; gives the page's URL, on another site than the gateway."""
    shutil.copytree(ROOT / "examples" / "browser", folder, dirs_exist_ok=True)
    page = folder / "page.js"
    assert EXAMPLE_URL in page.read_text()
    page.write_text(page.read_text().replace(EXAMPLE_URL, gateway_url))
    env = {**os.environ, "JITNEY_URL": gateway_url, "JITNEY_PORT": str(port), "JITNEY_API_KEY": key}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([sys.executable, str(folder / "backend.py")], env=env, stderr=log)
    try:
        wait_until(lambda: listens(port), "the page is served")
        yield f"http://localhost:{port}"
    finally:
        process.terminate()
        process.wait(10)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def load(page: webdriver.Chrome, url: str) -> None:
    """Load a page, and clear earlier logs."""
    page.get(url)
    for log in ("browser", "performance"):
        logged(page, log)


def classify(page: webdriver.Chrome, way: str) -> tuple[str, list[str]]:
    """Choose a way and an image; return the answer that the page shows, and the states that it was told."""
    page.execute_script("document.getElementById('answer').textContent = ''")
    page.find_element(By.CSS_SELECTOR, f"[value={way}]").click()
    chosen = page.find_element(By.CSS_SELECTOR, "[type=file]")
    page.execute_script("arguments[0].value = ''", chosen)
    chosen.send_keys(str(SEVEN))
    answer = page.find_element(By.ID, "answer")
    WebDriverWait(page, PATIENCE_S, poll_frequency=0.05).until(lambda _: answer.text not in ("", "…"))
    return answer.text, [one.text for one in page.find_elements(By.CSS_SELECTOR, "#states li")]


def attempts(page: webdriver.Chrome, url: str) -> list[Any]:
    page.set_script_timeout(30)
    found: list[Any] = page.execute_async_script(TRY, url)
    return found


def test_the_example_works_in_both_ways(browser: webdriver.Chrome, tmp_path: Path) -> None:
    port = free_port()
    with Service(env={"JITNEY_CORS_ORIGINS": f"http://localhost:{port}"}) as service:
        with backend(tmp_path, service.url, port) as page:
            load(browser, page)
            assert classify(browser, "direct") == ("7", ["queued", "running", "succeeded"])
            assert logged(browser, "browser") == []
            load(browser, f"http://127.0.0.1:{port}")  # the same page under a name that is not listed
            assert attempts(browser, service.url) == REFUSED
            assert classify(browser, "direct")[0] == "error: Failed to fetch"
        key = make_key(f"unix://{(service.folder / 'data' / 'server.lock').read_text().strip()}", "acme")
        wait_until(lambda: service.http.get("/v1/jobs").status_code == 401, "the service asks for keys")
        with backend(tmp_path, service.url, port, key) as page:
            load(browser, page)
            assert classify(browser, "backend") == ("7", ["queued", "running", "succeeded"])
            assert logged(browser, "browser") == []
            network = json.dumps(logged(browser, "performance"))
            assert f"{service.url}/v1/jobs/" in network
            assert "/output?token=jt_" in network
            assert key not in network
            assert classify(browser, "direct")[0].startswith("error: the request has no API key")  # a 401 it may read
            assert "jt_" not in service.log()


def test_without_the_setting_the_browser_refuses(browser: webdriver.Chrome, tmp_path: Path) -> None:
    queue, port = Server(), free_port()
    with GatewayProcess(queue) as gateway:
        url = f"http://127.0.0.1:{gateway.port}"
        with backend(tmp_path, url, port) as page:
            load(browser, page)
            assert attempts(browser, url) == REFUSED
            blocked = [one["message"] for one in logged(browser, "browser") if "CORS policy" in one["message"]]
            assert len(blocked) == 3
    with GatewayProcess(queue, {"JITNEY_CORS_ORIGINS": page}) as gateway:
        url = f"http://127.0.0.1:{gateway.port}"
        with backend(tmp_path, url, port):
            load(browser, page)
            assert attempts(browser, url) == [200, 404, "open"]  # no model is served
    queue.close()
