"""Waiting with timeouts and cancellation: events, stoppable work, cancelling tasks, turns of periodic loops."""

import asyncio
from collections.abc import Collection, Coroutine
from typing import Any

CANCEL_RETRY_S = 0.2


async def wait_for_event(event: asyncio.Event, timeout_s: float | None) -> bool:
    """Wait until the event is set; return False after `timeout_s` seconds (None: no timeout).

    Before Python 3.12, `asyncio.wait_for` can swallow a cancellation that arrives together with the event. The task
    then never ends.
    """
    if timeout_s is None:  # saves the cost of a timer
        return await event.wait()
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        return False
    return True


def next_turn_s(interval_s: float, now: float) -> float:
    """Return the seconds from `now` to the next multiple of `interval_s` on the same clock.

    Periodic loops with the same interval then wake together, and their commands leave in one write. If the next
    multiple is less than a tenth of the interval away, the one after it is meant, because a timer may fire early.
    """
    left_s = interval_s - now % interval_s
    return left_s if left_s > interval_s / 10 else left_s + interval_s


async def run_until_stopped(work: Coroutine[Any, Any, None], stop: asyncio.Event) -> bool:
    """Run `work` until it is done or `stop` is set; return whether `stop` is set. Raises what `work` raises."""
    working, stopping = asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())
    await asyncio.wait((working, stopping), return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if working.done():
        working.result()
    working.cancel()
    return stop.is_set()


async def cancel_all(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Cancel tasks and wait until they have ended, whatever they raise.

    Repeats the cancellation: one that arrives while redis-py connects may be swallowed.
    """
    while pending := [task for task in tasks if not task.done()]:
        for task in pending:
            task.cancel()
        await asyncio.wait(pending, timeout=CANCEL_RETRY_S)
    await asyncio.gather(*tasks, return_exceptions=True)
