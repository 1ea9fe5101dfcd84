"""The operations page in a real browser: goes to its views, reads its tables, presses its buttons."""

from collections.abc import Callable
from typing import Any, TypeVar

import pytest
from selenium import webdriver
from selenium.common.exceptions import TimeoutException
from selenium.webdriver.support.wait import WebDriverWait

T = TypeVar("T")

PATIENCE_S = 15
# The rows of a table by its label, each as a list of texts.
ROWS = """
    const table = document.querySelector(`table[aria-label="${arguments[0]}"]`);
    return table ? [...table.tBodies[0].rows].map((row) => [...row.cells].map((cell) => cell.innerText)) : [];
"""
# Presses a button in the row of a table that has a text.
PRESS = """
    const [label, text, name] = arguments;
    const rows = [...(document.querySelector(`table[aria-label="${label}"]`)?.tBodies[0].rows ?? [])];
    const row = rows.find((each) => text.every((part) => each.innerText.includes(part)));
    const button = [...(row?.querySelectorAll("button") ?? [])].find((each) => each.textContent === name);
    button?.click();
    return Boolean(button);
"""
PRESS_ANY = """
    const [within, name] = arguments;
    const button = [...document.querySelectorAll(`${within} button`)].find((each) => each.textContent === name);
    const isReady = Boolean(button) && !button.disabled;
    if (isReady) button.click();
    return isReady;
"""


class OpsPage:
    """The page of one gateway."""

    def __init__(self, browser: webdriver.Chrome, url: str) -> None:
        self.browser, self.url = browser, url

    def open(self, view: str = "overview") -> None:
        """Load the page from the start."""
        self.browser.get("about:blank")
        self.browser.get(f"{self.url}/ops#{view}")

    def go(self, view: str) -> None:
        """Change the view, as a link does."""
        self.run("location.hash = arguments[0]", view)

    def run(self, script: str, *args: Any) -> Any:
        return self.browser.execute_script(script, *args)

    def wait(self, condition: str, what: str, *args: Any) -> Any:
        """Wait until an expression of JavaScript is true; return it."""
        return self._until(lambda: self.run(f"return {condition}", *args), what)

    def _until(self, look: Callable[[], T | None], what: str) -> T:
        try:
            return WebDriverWait(self.browser, PATIENCE_S, poll_frequency=0.05).until(lambda _: look())  # type: ignore[return-value]
        except TimeoutException:
            pytest.fail(f"not within {PATIENCE_S} s: {what}; the page: {self.text()[:3000]}")

    def text(self) -> str:
        return str(self.run("return document.body.innerText"))

    def wait_for_text(self, text: str) -> None:
        self.wait("document.body.innerText.includes(arguments[0])", f"it shows {text!r}", text)

    def message(self, text: str) -> None:
        """Wait for a message that has this text."""
        self.wait("document.getElementById('message').textContent.includes(arguments[0])", f"it says {text!r}", text)

    def rows(self, table: str) -> list[list[str]]:
        found: list[list[str]] = self.run(ROWS, table)
        return found

    def wait_for_row(self, table: str, *texts: str) -> list[str]:
        """Wait for a row of a table that has all these texts; return its cells."""

        def look() -> list[str] | None:
            return next((row for row in self.rows(table) if all(any(t in cell for cell in row) for t in texts)), None)

        return self._until(look, f"a row with {texts} in {table}")

    def press(self, table: str, texts: str | tuple[str, ...], name: str) -> None:
        """Press a button in the first row of a table that has these texts, once it is there."""
        parts = [texts] if isinstance(texts, str) else list(texts)
        self._until(lambda: self.run(PRESS, table, parts, name), f"a button {name} in {table} with {texts}")

    def press_button(self, name: str, within: str = "main") -> None:
        """Press a button, once it is there and not disabled."""
        self._until(lambda: self.run(PRESS_ANY, within, name), f"a button {name} in {within}")

    def confirm(self, name: str, title: str = "") -> None:
        """Press a button of the dialog, and wait until the dialog is closed."""
        self.wait("document.getElementById('dialog').open", "the dialog is open")
        assert title in str(self.run("return document.getElementById('dialog-title').textContent"))
        self.press_button(name, "dialog")
        self.wait("!document.getElementById('dialog').open", "the dialog is closed")
