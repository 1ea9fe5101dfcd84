"""The boxes of AVIF files are read in bounded steps and memory, however often a file names the same content.

2 MB once took 8 GB and 15 s: 2,000 extents over the same bytes. Steps are counted as in `test_image_cost.py`.
"""

import io
import struct
import tracemalloc
import warnings
from collections.abc import Sequence

import pytest
from PIL import Image

from jobs.contract.errors import Refused
from model_runtime.images import heif_boxes
from model_runtime.images.av1_sizes import read_pixel_counts
from model_runtime.images.decode import decode_image
from model_runtime.spec.image import ImageSpec
from tests.integration.model_runtime.test_image_cost import MOST_LINES, encoded, lines_of_python

Extents = Sequence[tuple[int, int]]  # of an item: offset in the file's content, and length; 0 is to the end of the file
SIDE = 64  # of each AV1 picture, in pixels


def numbers(size: int, *values: int) -> bytes:
    return b"".join(value.to_bytes(size, "big") for value in values)


def box(name: bytes, *parts: bytes) -> bytes:
    content = b"".join(parts)
    return numbers(4, 8 + len(content)) + name + content


def full_box(name: bytes, *parts: bytes, version: int = 0) -> bytes:
    return box(name, numbers(4, version << 24), *parts)


def of_name(data: bytes, name: bytes) -> bytes:
    at = data.index(name) - 4
    return data[at : at + struct.unpack_from(">I", data, at)[0]]


PLAIN = encoded("AVIF", Image.new("RGB", (SIDE, SIDE), (200, 30, 90)))
PICTURE = of_name(PLAIN, b"mdat")[8:]  # its AV1 data: a delimiter, a sequence header, a frame
HEADER = PICTURE[2 : 4 + PICTURE[3]]
EMPTY_UNIT = b"\x12\0"


def meta(start: int, items: Sequence[tuple[bytes, Extents]], *more: bytes) -> bytes:
    """The box of items 1, 2, ... whose content begins at `start`."""
    places = [
        numbers(2, number, 0, len(extents)) + b"".join(numbers(4, start + at, length) for at, length in extents)
        for number, (_, extents) in enumerate(items, 1)
    ]
    kinds = [
        full_box(b"infe", numbers(2, number, 0), kind, b"\0", version=2) for number, (kind, _) in enumerate(items, 1)
    ]
    return full_box(
        b"meta",
        full_box(b"hdlr", bytes(4), b"pict", bytes(13)),
        full_box(b"pitm", numbers(2, 1)),
        full_box(b"iloc", b"\x44\0", numbers(2, len(items)), *places),
        full_box(b"iinf", numbers(2, len(items)), *kinds),
        *more,
    )


def avif(
    items: Sequence[tuple[bytes, Extents]],
    content: bytes,
    references: Sequence[tuple[bytes, int, Sequence[int]]] = (),
    size: tuple[int, int] = (SIDE, SIDE),
    described: bool = True,
) -> bytes:
    """`described`: each item has its properties, which are entries too."""
    used = {b"grid": b"\2\1\2", b"av01": b"\3\3\2\x84"}
    lists = [numbers(2, number) + used[kind] for number, (kind, _) in enumerate(items, 1)] if described else []
    sizes = [full_box(b"ispe", numbers(4, *sides)) for sides in (size, (SIDE, SIDE))]
    properties = box(
        b"iprp",
        box(b"ipco", sizes[0], full_box(b"pixi", b"\3\x08\x08\x08"), sizes[1], of_name(PLAIN, b"av1C")),
        full_box(b"ipma", numbers(4, len(lists)), *lists),
    )
    links = full_box(b"iref", *(box(name, numbers(2, one, len(others), *others)) for name, one, others in references))
    head = of_name(PLAIN, b"ftyp")
    start = len(head) + len(meta(0, items, properties, links)) + 8
    return head + meta(start, items, properties, links) + box(b"mdat", content)


def one_item(content: bytes) -> bytes:
    return avif([(b"av01", [(0, len(content))])], content)


def grid(rows: int, columns: int, tile: bytes, names: Sequence[int] = (), described: bool = True) -> bytes:
    """A grid whose tiles are items of their own with the same content, or those of `names`."""
    size = columns * SIDE, rows * SIDE
    layout = bytes([0, 0, rows - 1, columns - 1]) + numbers(2, *size)
    numbered = names or range(2, rows * columns + 2)
    tiles = [(b"av01", [(len(layout), len(tile))])] * len(set(numbered))
    masks = [] if described else [(b"auxl", 5, ())] * 4900
    return avif(
        [(b"grid", [(0, len(layout))]), *tiles], layout + tile, [(b"dimg", 1, numbered), *masks], size, described
    )


def animation(tracks: int, sample: bytes) -> bytes:
    """Tracks whose first sample is the same, at the end of the file."""

    def movie(offset: int) -> bytes:
        table = box(b"stbl", full_box(b"stsz", numbers(4, len(sample), 1)), full_box(b"stco", numbers(4, 1, offset)))
        return box(b"moov", *[box(b"trak", box(b"mdia", box(b"minf", table)))] * tracks)

    whole = one_item(PICTURE)
    return whole + movie(len(whole) + len(movie(0)) + 8) + box(b"mdat", sample)


def long_header(bits: str) -> bytes:
    """A sequence header with these bits after the profile and "still picture"."""
    padded = f"0000{bits}" + "0" * (-len(bits) % 8 + 4)
    content = int(padded, 2).to_bytes(len(padded) // 8, "big")
    return b"\x0a" + bytes([len(content) & 127 | 128, len(content) >> 7 & 127 | 128, len(content) >> 14]) + content


TIMING = "01" + "0" * 64 + "1"  # not reduced; the intervals are equal: a number of variable length follows
A_POINT = "0" * 12 + "11111" + "0" + "1" + "1111"
POINTS = long_header("00111111" + A_POINT * 32 + "01010101" + "000000" * 2)
MANY_BYTES = PICTURE + bytes(2_000_000)
MANY_UNITS = PICTURE + EMPTY_UNIT * 4000


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(avif([(b"av01", [(0, len(MANY_BYTES))] * 2000)], MANY_BYTES), id="extents over the same bytes"),
        pytest.param(avif([(b"av01", [(0, 0)] * 2000)], MANY_BYTES), id="extents to the end of the file"),
        pytest.param(avif([(b"av01", [(0, 8)] * 19_000)], PICTURE), id="small extents"),
        pytest.param(grid(20, 20, MANY_BYTES), id="tiles over the same bytes"),
        pytest.param(grid(20, 20, MANY_BYTES, [2] * 400), id="a large tile named often"),
        pytest.param(grid(20, 20, MANY_UNITS), id="tiles over the same units"),
        pytest.param(grid(30, 50, PICTURE + EMPTY_UNIT * 50), id="1,500 tiles over the same units"),
        pytest.param(grid(90, 100, HEADER + b"\x32\0" * 4000, [2] * 9000), id="a tile of many frames, named often"),
        pytest.param(grid(50, 50, PICTURE, described=False), id="2,500 tiles and 4,900 empty references"),
        pytest.param(animation(300, MANY_UNITS), id="tracks over the same units"),
        pytest.param(animation(2000, PICTURE + bytes(4_000_000)), id="tracks over the same bytes"),
        pytest.param(one_item(long_header(TIMING + "0" * 8_000_000)), id="zeros in a sequence header"),
        pytest.param(one_item(HEADER * 12_000), id="sequence headers"),
        pytest.param(one_item(POINTS * 9900), id="sequence headers of 32 operating points"),
        pytest.param(one_item((b"\x12" + b"\x80" * 7 + b"\0") * 12_000), id="units with long sizes"),
    ],
)
def test_shared_content_costs_few_steps_and_little_memory(data: bytes) -> None:
    lines, outcome = lines_of_python(data)
    assert outcome == "invalid_image"
    assert lines < MOST_LINES
    tracemalloc.start()
    try:
        with pytest.raises(Refused, match=r"the AVIF data is damaged|reading it would take too long"):
            decode_image(data, ImageSpec())
        assert tracemalloc.get_traced_memory()[1] < 3 * len(data) + (8 << 20)
    finally:
        tracemalloc.stop()


def test_equal_tiles_may_share_their_bytes() -> None:
    """Encoders write the content of equal tiles once."""
    data = grid(10, 10, PICTURE)
    assert heif_boxes.strip_file(data).pixels == [640 * 640, *[SIDE * SIDE] * 100]
    assert decode_image(data, ImageSpec())[1:] == (640, 640)


def test_content_in_several_extents_is_joined() -> None:
    half = len(PICTURE) // 2
    data = avif([(b"av01", [(half, len(PICTURE) - half), (0, half)])], PICTURE[-half:] + PICTURE[:-half])
    assert heif_boxes.strip_file(data).pixels == [SIDE * SIDE]
    assert decode_image(data, ImageSpec())[1:] == (SIDE, SIDE)


def test_each_frame_of_an_item_counts() -> None:
    """A decoder may decode all of them for one picture, a few bytes each."""
    frame = PICTURE[2 + len(HEADER) :]
    assert frame[0] >> 3 == 6
    with pytest.raises(Refused, match="the AVIF of 64 x 64 pixels has 40960 in 10 parts; allowed: 24576"):
        decode_image(one_item(EMPTY_UNIT + HEADER + frame * 10), ImageSpec())
    with pytest.raises(Refused, match="damaged"):
        decode_image(one_item(frame + HEADER), ImageSpec())


@pytest.mark.parametrize(("zeros", "is_valid"), [(0, True), (1, True), (31, True), (32, False), (500, False)])
def test_a_number_of_variable_length_has_at_most_31_zeros(zeros: int, is_valid: bool) -> None:
    number = "0" * zeros + "1" + "1" * zeros
    point = "00" + "00000" + "0" * 12 + "00000"
    header = long_header(TIMING + number + point + "1001" + "1000" + format(999, "010b") + format(332, "09b"))
    steps: list[int] = []
    pixels = read_pixel_counts(memoryview(header + b"\x32\0"), steps.append)
    if is_valid:
        assert list(pixels) == [1000 * 333]
        assert sum(steps) == 4 + 2 + 2 + 2  # heads of two units, a header, an operating point
    else:
        with pytest.raises(ValueError, match="variable length"):
            list(pixels)


def test_a_track_has_no_exif() -> None:
    """Pillow read that of an animation's track, with all that its entries point at."""
    entries = b"".join(numbers(2, tag, 7) + numbers(4, 1_000_000, 0) for tag in range(1, 1001))
    exif = numbers(4, 0) + b"MM\0*" + numbers(4, 8) + numbers(2, 1000) + entries + numbers(4, 0)
    file = io.BytesIO()
    frames = [Image.new("RGB", (SIDE, SIDE), colour) for colour in ("red", "blue")]
    frames[0].save(file, "AVIF", save_all=True, append_images=frames[1:])
    whole = bytearray(file.getvalue())
    added = len(meta(0, [(b"Exif", [(0, 0)])]))
    track = whole.index(b"trak")
    end = track - 4 + struct.unpack_from(">I", whole, track - 4)[0]
    for at in (track - 4, whole.index(b"moov") - 4, whole.index(b"stco") + 12):  # sizes, and where the samples begin
        struct.pack_into(">I", whole, at, struct.unpack_from(">I", whole, at)[0] + added)
    items = meta(len(whole) + added + 8, [(b"Exif", [(0, len(exif))])])
    data = bytes(whole[:end]) + items + bytes(whole[end:]) + box(b"mdat", exif)
    with pytest.warns(UserWarning, match="Tag data larger than file"), Image.open(io.BytesIO(data)) as image:
        assert "exif" in image.info
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode_image(data, ImageSpec())[1:] == (SIDE, SIDE)
    with Image.open(io.BytesIO(heif_boxes.strip_file(data).data)) as image:
        assert "exif" not in image.info
