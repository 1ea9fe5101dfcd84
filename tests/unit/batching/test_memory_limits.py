"""Memory limits of batches: learned from failures, and forgotten with time."""

import numpy as np

from batching.collation import group_of
from batching.memory_limits import MemoryLimits


def test_a_failure_halves_the_limit_of_its_own_group_only() -> None:
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


def test_a_single_item_is_always_allowed() -> None:
    ceilings = MemoryLimits(32)
    ceilings.too_many("g", 1, now=0)
    assert ceilings.of("g", 1) == 1


def test_the_limit_doubles_with_time_until_it_is_forgotten() -> None:
    ceilings = MemoryLimits(32, probe_s=100)
    ceilings.too_many("g", 16, now=0)
    assert [ceilings.of("g", now) for now in (99, 100, 150, 200, 201)] == [8, 16, 16, 32, 32]
    assert ceilings.report() == {}


def test_groups_are_reported_by_the_shapes_of_their_inputs() -> None:
    ceilings = MemoryLimits(32)
    ceilings.too_many(group_of({"x": np.zeros((3, 224, 224), np.float32)}), 32, now=0)
    assert ceilings.report() == {"x:<f4[3,224,224]": 16}
