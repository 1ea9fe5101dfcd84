"""The number of jobs in flight of a bulk run, on a manual clock."""

import asyncio

import pytest

from cli.bulk.service.in_flight_window import INITIAL_SIZE, InFlightWindow
from tests.support.waiting import pass_time


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_window_grows_while_all_is_accepted_up_to_its_maximum() -> None:
    window = InFlightWindow(1000, Clock())
    assert window.limit == INITIAL_SIZE
    for _ in range(40):
        window.on_accepted(100)
    assert window.limit == 1000


def test_concurrent_refusals_halve_the_window_once_and_growth_is_slow_afterwards() -> None:
    clock = Clock()
    window = InFlightWindow(1000, clock)
    for _ in range(40):
        window.on_accepted(100)
    clock.now = 10
    for _ in range(5):
        window.on_refused(2)
    assert window.limit == 500
    clock.now = 12
    window.on_refused(2)
    assert window.limit == 250
    window.on_accepted(100)
    assert window.limit == 252


def test_the_window_never_closes_completely() -> None:
    clock = Clock()
    window = InFlightWindow(4, clock)
    for _ in range(20):
        clock.now += 5
        window.on_refused(1)
    assert (window.limit, window.request_size) == (1, 1)


@pytest.mark.anyio
async def test_requests_wait_for_room_and_an_oversized_one_is_sent_alone() -> None:
    window = InFlightWindow(100, Clock())
    await window.enter(250)
    second = asyncio.create_task(window.enter(60))
    await pass_time(0)
    assert not second.done()
    window.leave(250)
    await asyncio.wait_for(second, 1)
    third = asyncio.create_task(window.enter(50))
    await pass_time(0)
    assert not third.done()
    window.leave(60)
    await asyncio.wait_for(third, 1)
    assert window.in_flight == 50
