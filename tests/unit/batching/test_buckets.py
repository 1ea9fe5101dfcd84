"""Which sizes a runtime is prepared for, and how many seats a batch has by them."""

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


def test_riders_take_the_next_bucket_or_as_many_seats_as_they_are() -> None:
    assert [padded_size((1, 4, 16), items) for items in (1, 2, 4, 5, 16)] == [1, 4, 4, 16, 16]
    assert [padded_size((), items) for items in (1, 3, 7)] == [1, 3, 7]
