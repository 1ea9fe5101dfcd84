"""A stream is split into the same lines for any block boundaries."""

import asyncio
from collections.abc import AsyncGenerator
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from jobs.bulk.input_lines import Bitmap, Line, read_line, split_lines

TEXTS = st.lists(st.sampled_from([b"", b" ", b"a", b'{"x": 1}', b"long" * 5, b"\r"]), max_size=12)


def read(data: bytes, cuts: list[int], number: int = 0, offset: int = 0) -> list[Line]:
    async def blocks() -> AsyncGenerator[bytes]:
        places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
        for begin, end in pairwise(places):
            yield data[begin:end]

    async def gather() -> list[Line]:
        return [line async for some in split_lines(blocks(), 10, number, offset) for line in some]

    return asyncio.run(gather())


@given(TEXTS, st.lists(st.integers(0, 200), max_size=8), st.booleans())
def test_lines_are_the_same_for_any_blocks(texts: list[bytes], cuts: list[int], ends: bool) -> None:
    data = b"\n".join(texts) + (b"\n" if ends and texts else b"")
    lines = read(data, cuts)
    wanted = [(nth, None if len(text) > 10 else text) for nth, text in enumerate(texts, 1) if text.strip()]
    assert [(line.number, line.data) for line in lines] == wanted
    for line in lines:  # reading goes on behind any of them
        assert read(data[line.end :], [], line.number, line.end) == lines[lines.index(line) + 1 :]


@given(st.sets(st.integers(1, 5000)))
def test_a_bitmap_holds_the_bits_that_were_set(numbers: set[int]) -> None:
    bits = Bitmap()
    for number in numbers:
        bits.add(number)
    again = Bitmap(bytes(bits))
    assert {number for number in range(6000) if number in again} == numbers


@given(st.binary(max_size=40) | st.sampled_from([b"{}", b"null", b'{"custom_id": 1}', b'{"custom_id": "a"}']))
def test_any_line_is_a_request_or_an_error(data: bytes) -> None:
    asks = read_line(Line(1, len(data), data), 100, "/v1/jobs")
    assert asks.error is not None
