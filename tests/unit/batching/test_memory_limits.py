"""What memory has room for: learned from failures, forgotten by and by."""

import numpy as np

from batching.collation import group_of
from batching.memory_limits import MemoryLimits


def test_a_failure_halves_and_only_its_own_group() -> None:
    ceilings = MemoryLimits(32, probe_s=100)
    ceilings.too_many("large", 32, now=0)
    assert (ceilings.of("large", 1), ceilings.of("small", 1)) == (16, 32)
    ceilings.too_many("large", 16, now=2)
    assert ceilings.of("large", 3) == 8


def test_a_later_failure_of_a_larger_batch_raises_nothing() -> None:
    ceilings = MemoryLimits(32, probe_s=100)
    ceilings.too_many("g", 8, now=0)
    ceilings.too_many("g", 32, now=1)
    assert ceilings.of("g", 2) == 4


def test_one_alone_always_may_ride() -> None:
    ceilings = MemoryLimits(32)
    ceilings.too_many("g", 1, now=0)
    assert ceilings.of("g", 1) == 1


def test_after_a_while_twice_as_much_is_tried_until_all_is_forgotten() -> None:
    ceilings = MemoryLimits(32, probe_s=100)
    ceilings.too_many("g", 16, now=0)
    assert [ceilings.of("g", now) for now in (99, 100, 150, 200, 201)] == [8, 16, 16, 32, 32]
    assert ceilings.report() == {}


def test_it_reports_groups_as_operators_know_inputs() -> None:
    ceilings = MemoryLimits(32)
    ceilings.too_many(group_of({"x": np.zeros((3, 224, 224), np.float32)}), 32, now=0)
    assert ceilings.report() == {"x:<f4[3,224,224]": 16}
