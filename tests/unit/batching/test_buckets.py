"""The batch sizes that a runtime is prepared for, and the padded size of a batch."""

import pytest

from batching.buckets import choose_buckets, padded_size


@pytest.mark.parametrize(
    ("provider", "cap", "wanted", "sizes"),
    [
        ("cpu", 64, None, ()),
        ("cuda", 64, None, (1, 2, 4, 8, 16, 32, 64)),
        ("tensorrt", 24, None, (1, 2, 4, 8, 16, 24)),
        ("cuda", 1, None, (1,)),
        ("cpu", 16, (4, 16), (4, 16)),
        ("cpu", 8, (1, 4, 16), (1, 4, 8)),
        ("cpu", 2, (4, 16), (2,)),
    ],
)
def test_sizes_go_up_to_the_cap(
    provider: str, cap: int, wanted: tuple[int, ...] | None, sizes: tuple[int, ...]
) -> None:
    assert choose_buckets(provider, cap, wanted) == sizes


def test_a_batch_is_padded_to_the_next_bucket_or_not_at_all() -> None:
    assert [padded_size((1, 4, 16), items) for items in (1, 2, 4, 5, 16)] == [1, 4, 4, 16, 16]
    assert [padded_size((), items) for items in (1, 3, 7)] == [1, 3, 7]
