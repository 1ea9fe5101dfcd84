"""Which items of different lengths run together."""

import random

from hypothesis import given
from hypothesis import strategies as st

from batching.batcher import Batcher, BatchLimits
from batching.length_grouping import SHARE_TOLERANCE, choose_neighbours

INFINITE = float("inf")


def lengths_of(
    lengths: list[float], max_items: int = 64, max_cost: float = INFINITE, run_overhead: float = 0
) -> list[float]:
    return [lengths[at] for at in choose_neighbours(lengths, max_items, max_cost, run_overhead)]


def test_without_a_fixed_cost_only_equal_lengths_run_together() -> None:
    assert lengths_of([10, 20, 10, 30, 20, 10]) == [10, 10, 10]


def test_a_fixed_cost_brings_neighbours_together() -> None:
    """A run costs 10: 10 and 12 together cost 34 instead of 42, and 100 would cost much more than it saves."""
    assert lengths_of([10, 12, 100], run_overhead=10) == [10, 12]


def test_a_large_fixed_cost_brings_all_together() -> None:
    assert lengths_of([10, 500, 12, 100], run_overhead=10_000) == [10, 500, 12, 100]


def test_a_larger_batch_is_chosen_if_it_is_nearly_as_good() -> None:
    """100 beside 98 has 1 % less content for its cost than alone, beside 90 5 % less."""
    assert lengths_of([100, 98], run_overhead=0) == [100, 98]
    assert lengths_of([100, 90], run_overhead=0) == [100]


def test_the_oldest_item_is_always_taken() -> None:
    assert 1.0 in lengths_of([1.0, *[100.0] * 63], run_overhead=5)


def test_limits_hold_and_one_item_may_exceed_the_cost() -> None:
    assert len(lengths_of([8] * 40, max_items=32)) == 32
    assert lengths_of([8] * 40, max_cost=100) == [8] * 12
    assert lengths_of([500, 500], max_cost=100) == [500]
    assert lengths_of([500, 20, 20], max_cost=100, run_overhead=1000) == [500]


@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=12),
    max_items=st.integers(1, 8),
    max_cost=st.integers(1, 400),
    run_overhead=st.floats(0, 100),
)
def test_no_batch_of_neighbours_is_much_better(
    lengths: list[float], max_items: int, max_cost: int, run_overhead: float
) -> None:
    """Compared with every batch of neighbours in length that has the oldest item."""

    def share(batch: list[float]) -> float:
        return sum(batch) / (run_overhead + len(batch) * max(batch))

    chosen = choose_neighbours(lengths, max_items, max_cost, run_overhead)
    taken = [lengths[at] for at in chosen]
    assert 0 in chosen
    assert chosen == sorted(set(chosen))
    assert len(chosen) == 1 or (len(chosen) <= max_items and len(chosen) * max(taken) <= max_cost)
    ascending = sorted(range(len(lengths)), key=lambda at: lengths[at])
    for start in range(len(ascending)):
        for end in range(start + 1, len(ascending) + 1):
            other = [lengths[at] for at in ascending[start:end]]
            fits = len(other) == 1 or (len(other) <= max_items and len(other) * max(other) <= max_cost)
            if 0 in ascending[start:end] and fits:
                assert share(taken) >= SHARE_TOLERANCE * share(other) - 1e-9


def test_padding_of_a_stream_is_bounded_by_the_fixed_cost() -> None:
    """Lengths of 5 to 60, 64 waiting: a small fixed cost pads little, a large one makes large batches."""
    found: dict[float, tuple[float, float]] = {}
    for run_overhead in (0.0, 10.0, 1000.0):
        chooser = random.Random(1)
        waiting = [chooser.randint(5, 60) for _ in range(64)]
        content = padded = items = batches = 0
        for _ in range(200):
            chosen = choose_neighbours(waiting, 64, INFINITE, run_overhead)
            batch = [waiting[at] for at in chosen]
            waiting = [length for at, length in enumerate(waiting) if at not in chosen]
            waiting += [chooser.randint(5, 60) for _ in batch]
            content, padded = content + sum(batch), padded + len(batch) * max(batch)
            items, batches = items + len(batch), batches + 1
        found[run_overhead] = (items / batches, 1 - content / padded)
    means = [mean for mean, _ in found.values()]
    wastes = [waste for _, waste in found.values()]
    assert means == sorted(means)
    assert wastes == sorted(wastes)
    assert wastes[0] < 0.02
    assert means[2] > 8 * means[0]


def test_a_batcher_groups_by_length_and_starves_none() -> None:
    batcher: Batcher[str] = Batcher(BatchLimits(max_items=3, run_overhead=0))
    for at, item in enumerate(["a5", "b9", "c5", "d9", "e5", "f5"]):
        batcher.add(item, now=at, cost=float(item[1]))
    batches = [batcher.take(now=9) for _ in range(3)]
    assert [batch.items for batch in batches if batch] == [["a5", "c5", "e5"], ["b9", "d9"], ["f5"]]
    assert batcher.take(now=9) is None


@given(
    arrivals=st.lists(st.tuples(st.integers(0, 1), st.integers(1, 50)), max_size=60),
    max_items=st.integers(1, 8),
    max_cost=st.integers(1, 120),
    run_overhead=st.floats(0, 50),
)
def test_a_batcher_loses_and_doubles_nothing(
    arrivals: list[tuple[int, int]], max_items: int, max_cost: int, run_overhead: float
) -> None:
    batcher: Batcher[int] = Batcher(BatchLimits(max_items, max_cost, 0, run_overhead))
    out: list[int] = []
    for number, (group, length) in enumerate(arrivals):
        batcher.add(number, float(number), group, length)
        if number % 7 == 6 and (batch := batcher.take(float(number))):
            out += batch.items
    while batch := batcher.take(1e6):
        longest = max(arrivals[item][1] for item in batch.items)
        assert len(batch.items) == 1 or (len(batch.items) <= max_items and len(batch.items) * longest <= max_cost)
        out += batch.items
    assert sorted(out) == list(range(len(arrivals)))
