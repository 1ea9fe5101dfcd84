"""Fixtures for pages: a real browser."""

from collections.abc import Iterator

import pytest
from selenium import webdriver

from tests.support.browser import start_browser


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    driver = start_browser()
    yield driver
    driver.quit()
