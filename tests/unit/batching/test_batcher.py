"""When a batch closes and which items it holds; the clock is a plain number."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batching.batcher import Batcher, BatchLimits


def test_a_lone_item_is_taken_at_once_without_a_window() -> None:
    batcher: Batcher[str] = Batcher(BatchLimits(max_items=4))
    batcher.add("a", now=1.0)
    batch = batcher.take(now=1.0)
    assert batch is not None
    assert (batch.items, batch.reason) == (["a"], "aged")
    assert batcher.take(now=1.0) is None


def test_a_window_counts_from_the_oldest_item() -> None:
    batcher: Batcher[str] = Batcher(BatchLimits(max_items=4, max_wait_s=0.010))
    batcher.add("a", now=1.0)
    batcher.add("b", now=1.009)
    assert batcher.next_deadline() == 1.010
    assert not batcher.is_due(1.009)
    assert batcher.take(now=1.009) is None
    batch = batcher.take(now=1.010)
    assert batch is not None
    assert batch.items == ["a", "b"]
    assert batcher.next_deadline() is None


def test_a_full_batch_waits_for_no_window() -> None:
    batcher: Batcher[int] = Batcher(BatchLimits(max_items=3, max_wait_s=60))
    for item in range(4):
        batcher.add(item, now=0)
    batch = batcher.take(now=0)
    assert batch is not None
    assert (batch.items, batch.reason) == ([0, 1, 2], "full")
    assert batcher.take(now=0) is None


def cut(item: range, rows: int) -> tuple[range, range]:
    return item[:rows], item[rows:]


def test_an_item_of_several_rows_is_cut_where_a_batch_is_full() -> None:
    batcher: Batcher[range] = Batcher(BatchLimits(max_items=4, max_wait_s=60), cut=cut)
    batcher.add(range(3), now=0, rows=3)
    assert not batcher.is_due(0)
    batcher.extend([range(10, 16), range(20, 26)], now=0, rows=6)
    assert len(batcher) == 15
    taken = []
    while batch := batcher.take(now=0):
        taken.append(batch.items)
    assert taken == [[range(3), range(10, 11)], [range(11, 15)], [range(15, 16), range(20, 23)]]
    assert len(batcher) == 3
    batcher.remove([])
    assert (len(batcher), batcher.is_due(0), batcher.is_due(60)) == (3, False, True)


def test_an_item_of_several_rows_is_cut_at_the_cost_limit() -> None:
    batcher: Batcher[range] = Batcher(BatchLimits(max_items=8, max_cost=10), cut=cut)
    batcher.add(range(5), now=0, cost=3, rows=5)
    batcher.add(range(10, 11), now=0, cost=1)
    batcher.add(range(20, 22), now=0, cost=100, rows=2)
    taken = []
    while batch := batcher.take(now=0):
        taken.append(batch.items)
    assert taken == [[range(3)], [range(3, 5), range(10, 11)], [range(20, 21)], [range(21, 22)]]


def test_a_batch_holds_one_group_and_the_oldest_goes_first() -> None:
    batcher: Batcher[str] = Batcher(BatchLimits(max_items=8))
    for at, item in enumerate(["a1", "b1", "a2", "b2"]):
        batcher.add(item, now=at, group=item[0])
    first, second = batcher.take(now=9), batcher.take(now=9)
    assert first is not None
    assert second is not None
    assert [first.items, second.items] == [["a1", "a2"], ["b1", "b2"]]


def test_a_full_group_does_not_overtake_an_aged_one_for_ever() -> None:
    batcher: Batcher[str] = Batcher(BatchLimits(max_items=2, max_wait_s=1))
    batcher.add("old", now=0, group="x")
    for at in range(4):
        batcher.add(f"y{at}", now=2, group="y")
    batch = batcher.take(now=2)
    assert batch is not None
    assert batch.items == ["old"]


def test_cost_caps_a_batch_and_an_expensive_item_runs_alone() -> None:
    batcher: Batcher[str] = Batcher(BatchLimits(max_items=8, max_cost=10))
    for item, cost in (("a", 6), ("b", 6), ("huge", 99), ("c", 1)):
        batcher.add(item, now=0, cost=cost)
    taken = [batcher.take(now=0) for _ in range(4)]
    assert [batch.items for batch in taken if batch] == [["a"], ["b"], ["huge"], ["c"]]


def test_removed_items_are_not_batched() -> None:
    batcher: Batcher[str] = Batcher(BatchLimits(max_items=8))
    items = ["a" * 50, "b" * 50]
    for item in items:
        batcher.add(item, now=0)
    batcher.remove(items[:1])
    batch = batcher.take(now=0)
    assert batch is not None
    assert batch.items == items[1:]
    batcher.remove(items)
    assert len(batcher) == 0


@pytest.mark.parametrize("bad", [{"max_items": 0}, {"max_cost": 0}, {"max_wait_s": -1}])
def test_invalid_limits_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="max_items must be at least 1"):
        BatchLimits(**bad)  # type: ignore[arg-type]


@settings(max_examples=300, deadline=None)
@given(
    arrivals=st.lists(st.tuples(st.floats(0, 5), st.integers(0, 2), st.floats(0.1, 5)), max_size=60),
    max_items=st.integers(1, 8),
    max_cost=st.floats(1, 12),
    max_wait_s=st.sampled_from([0, 0.01, 1]),
)
def test_nothing_is_lost_doubled_late_or_over_a_cap(
    arrivals: list[tuple[float, int, float]], max_items: int, max_cost: float, max_wait_s: float
) -> None:
    limits = BatchLimits(max_items, max_cost, max_wait_s)
    batcher: Batcher[tuple[int, int, float, float]] = Batcher(limits)
    now, out = 0.0, []
    for number, (gap, group, cost) in enumerate(arrivals):
        now += gap
        batcher.add((number, group, cost, now), now, group, cost)
        while batch := batcher.take(now):
            out.append(batch)
        deadline = batcher.next_deadline()
        assert deadline is None or deadline > now
    while batch := batcher.take(now + max_wait_s):
        out.append(batch)
    for batch in out:
        costs = [cost for _, _, cost, _ in batch.items]
        assert len(batch.items) <= max_items
        assert len(costs) == 1 or sum(costs) <= max_cost + 1e-9
        assert {group for _, group, _, _ in batch.items} == {batch.group}
        assert [number for number, *_ in batch.items] == sorted(number for number, *_ in batch.items)
    assert sorted(number for batch in out for number, *_ in batch.items) == list(range(len(arrivals)))
