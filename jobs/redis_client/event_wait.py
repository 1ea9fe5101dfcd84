"""Waiting with an end to it."""

import asyncio
from collections.abc import Collection, Coroutine
from typing import Any

CANCEL_RETRY_S = 0.2


async def wait_for_event(event: asyncio.Event, timeout_s: float | None) -> bool:
    """Wait for an event, or for so long; tells which it was.

    `asyncio.wait_for` would swallow a cancellation that comes in the same moment as the event (before Python 3.12), and
    who then waits for the canceled task waits for ever.
    """
    if timeout_s is None:  # a timeout that never comes costs as much as one that does
        return await event.wait()
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        return False
    return True


async def run_until_stopped(work: Coroutine[Any, Any, None], stop: asyncio.Event) -> bool:
    """Work, unless told to stop before it is done."""
    working, stopping = asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())
    await asyncio.wait((working, stopping), return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if working.done():
        working.result()
    working.cancel()
    return stop.is_set()


async def cancel_all(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Cancel tasks and wait until they have ended, whatever they raise.

    Asked again and again: a cancellation that comes while redis-py connects may be swallowed.
    """
    while pending := [task for task in tasks if not task.done()]:
        for task in pending:
            task.cancel()
        await asyncio.wait(pending, timeout=CANCEL_RETRY_S)
    await asyncio.gather(*tasks, return_exceptions=True)
