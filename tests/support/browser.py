"""A real browser without a window, and its logs."""

import json
import os
import shutil
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


def logged(page: Any, log: str) -> list[dict[str, Any]]:
    """Return what the browser wrote to this log since the last call."""
    entries: list[dict[str, Any]] = page.get_log(log)
    return entries


def requested_urls(page: Any) -> list[str]:
    """Return the URLs that the page asked for since the last call."""
    events = [json.loads(entry["message"])["message"] for entry in logged(page, "performance")]
    return [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
