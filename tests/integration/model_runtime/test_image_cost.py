"""The decoding cost of a picture is bounded beforehand: 1 kB of BMP once held the interpreter's lock for 5.5 s.

The kind: decoders and readers of Pillow's that work in Python, a step for each few bytes, or pass over all pixels as
often as the file says. Steps are counted as lines of Python, not as seconds: a busy machine changes nothing.
"""

import io
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
from PIL import BmpImagePlugin, Image

from jobs.contract.errors import Refused
from model_runtime.images import bmp_rle, strip_jpeg
from model_runtime.images.decode import decode, to_array
from model_runtime.spec.model_toml import ImageSpec
from tests.support.processes import program

MOST_LINES = 400_000  # of Python for one picture: some 20 ms; those of before took millions
PIPELINE = ImageSpec.model_validate({"resize": 32, "crop": 32})


class TooManyLinesError(BaseException):
    """No subclass of Exception, because the image reader would turn it into a Refused."""


def lines_of_python(data: bytes) -> tuple[int, str]:
    """Return the number of executed lines until it is decoded or refused, and the code."""
    count = 0

    def trace(_frame: FrameType, event: str, _argument: Any) -> Callable[..., Any]:
        nonlocal count
        count += event == "line"
        if count > MOST_LINES:
            raise TooManyLinesError
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        decode(data, PIPELINE)
    except Refused as refused:
        return count, refused.code
    except TooManyLinesError:
        return count, "too many"
    finally:
        sys.settrace(before)
    return count, "read"


def encoded(kind: str, image: Image.Image | None = None, **options: Any) -> bytes:
    buffer = io.BytesIO()
    (image or Image.linear_gradient("L").resize((64, 48))).save(buffer, kind, **options)
    return buffer.getvalue()


def bmp(width: int, height: int, codes: bytes, *, four_bits: bool = False) -> bytes:
    palette = bytes(range(64)) * (1 if four_bits else 16)
    at = 54 + len(palette)
    head = struct.pack("<IHHI", at + len(codes), 0, 0, at)
    bits, compression, colours = (4, 2, 16) if four_bits else (8, 1, 256)
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, len(codes), 0, 0, colours, 0)
    return b"BM" + head + info + palette + codes


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(before: bytes = b"", pixels: Callable[[bytes], bytes] = lambda packed: chunk(b"IDAT", packed)) -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0))
    packed = zlib.compress(bytes(9 * 8))
    return b"\x89PNG\r\n\x1a\n" + head + before + pixels(packed) + chunk(b"IEND", b"")


def segment(code: int, body: bytes) -> bytes:
    return b"\xff" + bytes([code]) + struct.pack(">H", len(body) + 2) + body


def jpeg(before: bytes) -> bytes:
    whole = encoded("JPEG")
    return whole[:2] + before + whole[2:]


def gif(before: bytes) -> bytes:
    whole = encoded("GIF")
    at = 13 + (3 << (whole[10] & 7) + 1 if whole[10] & 128 else 0)
    return whole[:at] + before + whole[at:]


def av1_units(count: int) -> bytes:
    """An AVIF whose image is a sequence header and a number of empty units, at the end of the file."""
    whole = bytearray(encoded("AVIF"))
    extent = whole.index(b"iloc") + 4 + 4 + 2 + 2 + 2 + 2 + 2  # its offset, before its length
    whole[extent + 4 : extent + 8] = struct.pack(">I", struct.unpack_from(">I", whole, extent + 4)[0] + 2 * count)
    content = whole.index(b"mdat") - 4
    whole[content : content + 4] = bytes(4)  # to the end of the file
    return bytes(whole) + b"\x12\0" * count


A_TABLE = segment(0xDB, (b"\0" + bytes(range(1, 65))) * 1000)
A_FRAME = segment(0xC0, struct.pack(">BHHB", 8, 48, 64, 1) + b"\1\x11\0" * 21_000)
HALF_A_MILLION = 500_000


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        pytest.param(
            bmp(49_990_000, 1, b"\1\0\0\0\0\1"), "invalid_image", id="BMP: one pixel, then the end of a long row"
        ),
        pytest.param(
            bmp(7000, 7000, b"\1\1\0\0" * 7000), "invalid_image", id="BMP: a pixel a row, 49 million in 28 kB"
        ),
        pytest.param(bmp(2000, 2000, b"\1\1\0\0" * 2000), "read", id="BMP: a pixel a row"),
        pytest.param(bmp(4_000_000, 1, b"\1\0\0\0\0\1"), "read", id="BMP: one pixel of a shorter row"),
        pytest.param(bmp(255, 4000, b"\xff\x12\0\0" * 4000, four_bits=True), "read", id="BMP: runs of half bytes"),
        pytest.param(bmp(2000, 2000, b"\1\1" * HALF_A_MILLION * 2), "invalid_image", id="BMP: a code a pixel"),
        pytest.param(jpeg(b"\xff\xfe\0\2" * HALF_A_MILLION), "invalid_image", id="JPEG: empty comments"),
        pytest.param(jpeg(b"\xff" * HALF_A_MILLION), "read", id="JPEG: fill bytes"),
        pytest.param(jpeg(b"\xff\xe0\0\2" + b"j" * HALF_A_MILLION), "read", id="JPEG: junk between segments"),
        pytest.param(jpeg(A_TABLE * 20), "invalid_image", id="JPEG: quantization tables"),
        pytest.param(jpeg(A_FRAME * 20), "invalid_image", id="JPEG: frames"),
        pytest.param(png(chunk(b"tEXt", b"a\0") * HALF_A_MILLION), "invalid_image", id="PNG: empty texts"),
        pytest.param(
            png(pixels=lambda packed: chunk(b"IDAT", b"") * HALF_A_MILLION + chunk(b"IDAT", packed)),
            "invalid_image",
            id="PNG: empty pieces of pixels",
        ),
        pytest.param(gif(b"!\xfe" + b"\1a" * HALF_A_MILLION + b"\0"), "invalid_image", id="GIF: a comment of bytes"),
        pytest.param(gif(b"j" * HALF_A_MILLION), "read", id="GIF: junk before the picture"),
        pytest.param(encoded("AVIF") + b"\0\0\0\x08free" * HALF_A_MILLION, "invalid_image", id="AVIF: empty boxes"),
        pytest.param(av1_units(HALF_A_MILLION), "invalid_image", id="AVIF: empty units"),
        pytest.param(encoded("HEIF") + b"\0\0\0\x08free" * HALF_A_MILLION, "invalid_image", id="HEIF: empty boxes"),
    ],
)
def test_a_file_costs_few_steps_of_python(data: bytes, wanted: str) -> None:
    lines, outcome = lines_of_python(data)
    assert outcome == wanted
    assert lines < MOST_LINES


def test_a_refusal_names_the_exceeded_limit_and_the_remedy() -> None:
    with pytest.raises(
        Refused, match=r"more than 1048576 bytes of run-length data; allowed: a BMP without compression"
    ):
        decode(bmp(2000, 2000, b"\1\1" * (1 << 20)), PIPELINE)
    with pytest.raises(Refused, match=r"49990000 x 1 pixels in 6 bytes of codes; allowed: 128 pixels per byte"):
        decode(bmp(49_990_000, 1, b"\1\0\0\0\0\1"), PIPELINE)
    with pytest.raises(Refused, match=r"more than 10000 segments before its first scan: .* allowed: a copy saved by"):
        decode(jpeg(b"\xff\xfe\0\2" * 10_001), PIPELINE)


def test_a_bmp_with_too_few_codes_is_refused_before_its_pixels_are_allocated() -> None:
    """Pillow clears 50 MB first: 40 ms in which no other thread of the worker runs."""
    core: Any = vars(Image)["core"]  # its C module, which counts blocks of pixels
    core.clear_cache()
    core.reset_stats()
    with pytest.raises(Refused, match="7000 x 7000 pixels"):
        decode(bmp(7000, 7000, b"\1\1\0\0" * 7000), PIPELINE)
    assert core.get_stats()["allocated_blocks"] <= 1
    decode(bmp(2000, 2000, b"\1\1\0\0" * 2000), PIPELINE)
    assert core.get_stats()["allocated_blocks"] > 1


def progressive(width: int, height: int, scans: int) -> bytes:
    """A progressive JPEG whose header declares many pixels; its data has few."""
    data = bytearray(encoded("JPEG", progressive=True))
    at = data.index(b"\xff\xc2") + 5
    data[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(data[:-2]) + (b"\xff\xda\x00\x08\x01\x01\x00\x01\x3f\x00\x7f" * scans) + b"\xff\xd9"


@pytest.mark.parametrize(("width", "scans", "most"), [(7000, 30, 20), (4000, 30, 25), (100, 120, 100)])
def test_scans_are_counted_by_the_pixels_they_cover(width: int, scans: int, most: int) -> None:
    data = progressive(width, width, scans)
    with pytest.raises(Refused, match=f"more than {most} scans") as caught:
        decode(data, PIPELINE)
    assert caught.value.details["limit"] == most


def test_data_behind_a_picture_or_in_a_comment_is_no_scan() -> None:
    whole = encoded("JPEG", progressive=True)
    scan = whole.index(b"\xff\xda")
    comment = segment(0xFE, b"\xff\xda\xff\xd9" * 1000)
    strip_jpeg.check_scans(strip_jpeg.strip_file(whole[:scan] + comment + whole[scan:]), 50_000_000)
    strip_jpeg.check_scans(strip_jpeg.strip_file(whole + b"\xff\xda" * 1000), 50_000_000)
    between = whole.index(b"\xff\xda", scan + 2)
    strip_jpeg.check_scans(strip_jpeg.strip_file(whole[:between] + comment + whole[between:]), 50_000_000)


def test_compressed_profiles_are_not_decompressed() -> None:
    """8 MB of them used to take 17 s, as each decompressed to a megabyte."""
    profile = chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(1_000_000)))
    assert decode(png(profile * 4000), PIPELINE).size == (8, 8)
    texts = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(3_000_000)))
    assert decode(png(texts * 2), PIPELINE).size == (8, 8)
    with pytest.raises(Refused, match="more than 2 texts that unpack to more than 1048576 bytes"):
        decode(png(texts * 3), PIPELINE)


RUNS = {
    "runs and ends of lines": (b"\3\1\0\0\2\2\1\3\0\0\0\1", False),
    "a run longer than the row": (b"\x09\1\0\0\3\2\0\1", False),
    "literals, padded": (b"\0\3\4\5\6\0\0\0\3\7\0\1", False),
    "a jump": (b"\1\1\0\2\1\1\1\5\0\1", False),
    "half bytes": (b"\3\x12\0\0\0\3\x45\x60\0\1", True),
}


@pytest.mark.parametrize("name", RUNS)
def test_run_length_codes_decode_to_the_same_pixels(name: str) -> None:
    codes, four_bits = RUNS[name]
    data = bmp(3, 2, codes, four_bits=four_bits)
    with Image.open(io.BytesIO(data)) as ours:
        assert ours.mode == "P"
        got = np.asarray(ours).tolist()
    Image.register_decoder("bmp_rle", BmpImagePlugin.BmpRleDecoder)
    try:
        with Image.open(io.BytesIO(data)) as theirs:
            assert got == np.asarray(theirs).tolist()
    finally:
        bmp_rle.register()


LONG = """
import re, resource, sys
from pathlib import Path
from PIL import Image
from model_runtime.spec.image import ImageSpec
from model_runtime.images.decode import to_array
spec = ImageSpec.model_validate({"resize": [28, 28], "color": "gray", "filter": "bilinear"})
picture = Image.new("L", (40_000_000, 1), 9)
taken = int(re.search(r"VmSize:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) << 10
resource.setrlimit(resource.RLIMIT_AS, (taken + (200 << 20),) * 2)
print(to_array(picture, spec).mean(), flush=True)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="its memory is limited as Linux does it")
def test_a_side_of_millions_is_shrunk_in_little_memory(tmp_path: Path) -> None:
    """Pillow's resize weights for it took a gigabyte, and a second with the interpreter's lock."""
    with program(LONG, tmp_path / "log") as process:
        assert process.wait(30) == 0, (tmp_path / "log").read_text()
    assert (tmp_path / "log").read_text() == "9.0\n"


def test_a_long_picture_is_shrunk_to_its_visible_size() -> None:
    left_to_right = Image.fromarray(np.repeat(np.arange(0, 250, 5, dtype=np.uint8), 2000)[np.newaxis])
    spec = ImageSpec.model_validate({"resize": [1, 50], "color": "gray"})
    assert np.abs(to_array(left_to_right, spec).ravel() - np.arange(0, 250, 5)).max() <= 2
