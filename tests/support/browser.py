"""A real browser without a window, its logs, and a check of accessibility by axe."""

import json
import os
import shutil
from functools import cache
from importlib.resources import files
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service as Chromedriver

CHROMIUM_FLAGS = (
    *(
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--hide-scrollbars",
        "--window-size=1100,900",
    ),
    *("--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


def start_browser() -> webdriver.Chrome:
    """Start Chromium; skip the test where it is not installed."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    chromedriver = shutil.which("chromedriver")
    if not (chromium and chromedriver):
        if os.environ.get("CI") == "true":
            pytest.fail("CI must have chromium and chromedriver")
        pytest.skip("chromium or chromedriver is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in CHROMIUM_FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options=options, service=Chromedriver(executable_path=chromedriver))


@cache
def _axe() -> str:
    return (files("axe_core_python") / "axe.min.js").read_text()


def accessibility_violations(page: webdriver.Chrome) -> list[str]:
    """Return what axe finds wrong with the page as it is now: rule, element and reason."""
    if not page.execute_script("return 'axe' in window"):
        page.execute_cdp_cmd("Runtime.evaluate", {"expression": _axe()})  # no matter what the page's policy allows
    page.set_script_timeout(30)
    found = page.execute_async_script("axe.run().then(arguments[0], (error) => arguments[0]({error: String(error)}))")
    assert "error" not in found, found["error"]
    return [
        f"{one['id']} at {one['nodes'][0]['target']}: {one['nodes'][0]['failureSummary']}"
        for one in found["violations"]
    ]


def resize(page: webdriver.Chrome, width: int, height: int) -> None:
    """Show the page as on a screen of this size."""
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def logged(page: Any, log: str) -> list[dict[str, Any]]:
    """Return what the browser wrote to this log since the last call."""
    entries: list[dict[str, Any]] = page.get_log(log)
    return entries


def requested_urls(page: Any) -> list[str]:
    """Return the URLs that the page asked for since the last call."""
    events = [json.loads(entry["message"])["message"] for entry in logged(page, "performance")]
    return [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
