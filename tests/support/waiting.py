"""The one place where a test may sleep: until something is so, and not for long."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(predicate: Callable[[], T | None], description: str, timeout_s: float = 10.0) -> T:
    """The first true answer of `predicate`; fails the test with `description` when there is none in time."""
    until = time.monotonic() + timeout_s
    while not (answer := predicate()):
        if time.monotonic() > until:
            raise AssertionError(f"not within {timeout_s:g} s: {description}")
        time.sleep(0.01)
    return answer


def watch(look: Callable[[], object], seconds: float) -> int:
    """Look again and again for so long, while a fault lasts; fails when `look` does. Gives how often it looked."""
    until, looks = time.monotonic() + seconds, 0
    while time.monotonic() < until:
        look()
        looks += 1
        time.sleep(0.02)
    return looks
