"""Polling helpers: wait until a condition holds, with a short time limit; no other test code sleeps."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(predicate: Callable[[], T | None], description: str, timeout_s: float = 30.0) -> T:
    """The first true answer of `predicate`; fails the test with `description` when there is none in time.

    The default is patience, for a machine with other work; a promise of the product has its own time.
    """
    began = time.monotonic()
    while not (answer := predicate()):
        waited = time.monotonic() - began
        if waited > timeout_s:
            raise AssertionError(f"not within {timeout_s:g} s: {description}")
        time.sleep(min(0.01 + waited / 20, 0.05))  # looking takes CPU time from what is waited for
    return answer


def check_during(look: Callable[[], object], seconds: float) -> int:
    """Call `look` repeatedly for some time, while a fault lasts; fails when it does. Returns the number of calls."""
    deadline, looks = time.monotonic() + seconds, 0
    while time.monotonic() < deadline:
        look()
        looks += 1
        time.sleep(0.02)
    return looks


async def wait_until_async(predicate: Callable[[], Awaitable[bool]], description: str, timeout_s: float = 30.0) -> None:
    """Wait until `predicate` is true; fails the test with `description` when it is not in time."""
    began = time.monotonic()
    while not await predicate():
        waited = time.monotonic() - began
        if waited > timeout_s:
            raise AssertionError(f"not within {timeout_s:g} s: {description}")
        await asyncio.sleep(min(0.02 + waited / 20, 0.05))


async def pass_time(seconds: float) -> None:
    """Let time pass while other processes work; not a way to wait for a state."""
    await asyncio.sleep(seconds)
