"""Damaged image files are read if all pixels are there, and refused otherwise."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jobs.contract.errors import Refused
from model_runtime.images.decode import decode
from model_runtime.spec.model_toml import ImageSpec

AS_IT_IS = ImageSpec()
SIGNATURE = 8


def photo(width: int = 67, height: int = 45, mode: str = "RGB") -> Image.Image:
    """A smooth picture with noise: every scan of it changes something."""
    random = np.random.default_rng(3)
    blots = Image.fromarray(random.integers(0, 256, (5, 6, 3), np.uint8)).resize((width, height))
    noise = random.integers(0, 40, (height, width, 3))
    return Image.fromarray((np.asarray(blots) * 0.8 + noise).astype(np.uint8)).convert(mode)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(name: bytes, body: bytes, *, damaged: bool = False) -> bytes:
    checksum = zlib.crc32(name + body) ^ (1 if damaged else 0)
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", checksum)


def with_chunk(png: bytes, added: bytes, *, last: bool = False) -> bytes:
    at = len(png) - 12 if last else SIGNATURE + 25  # before IEND, or behind IHDR
    return png[:at] + added + png[at:]


def is_read(data: bytes, like: bytes) -> bool:
    return np.array_equal(np.asarray(decode(data, AS_IT_IS)), np.asarray(decode(like, AS_IT_IS)))


# ---- PNG


LARGE = bytes(range(256)) * 8000  # 2 MB
NOISE = np.random.default_rng(1).bytes(1_500_000)
ANCILLARY = {
    "packed text of 2 MB": chunk(b"zTXt", b"Comment\0\0" + zlib.compress(LARGE)),
    "packed international text of 2 MB": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(LARGE)),
    "text of 1.5 MB": chunk(b"tEXt", b"Comment\0" + NOISE.replace(b"\0", b" ")),
    "a profile of 2 MB": chunk(b"iCCP", b"icc\0\0" + zlib.compress(LARGE)),
    "a profile of 1.5 MB of noise": chunk(b"iCCP", b"icc\0\0" + zlib.compress(NOISE)),
    "a profile packed in an unknown way": chunk(b"iCCP", b"icc\0\7nothing"),
    "a damaged text": chunk(b"tEXt", b"Comment\0hello", damaged=True),
    "a damaged packed text": chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"hello"), damaged=True),
    "a damaged profile": chunk(b"iCCP", b"icc\0\0" + zlib.compress(b"profile"), damaged=True),
    "a damaged gamma": chunk(b"gAMA", struct.pack(">I", 45455), damaged=True),
    "a gamma that is too short": chunk(b"gAMA", b"\0"),
    "damaged transparency": chunk(b"tRNS", struct.pack(">HHH", 1, 2, 3), damaged=True),
    "transparency that is too short": chunk(b"tRNS", b"\0"),
    "a damaged size in metres": chunk(b"pHYs", b"\0" * 9, damaged=True),
    "a damaged EXIF block": chunk(b"eXIf", b"II*\0\x08\0\0\0", damaged=True),
    "EXIF that is none": chunk(b"eXIf", b"nothing"),
    "a time that is too short": chunk(b"tIME", b"\0"),
    "an animation's number of frames, too short": chunk(b"acTL", b"\0\0"),
    "a private chunk, damaged": chunk(b"prVt", b"anything", damaged=True),
}


@pytest.mark.parametrize("last", [False, True], ids=["before the pixels", "behind them"])
@pytest.mark.parametrize("name", ANCILLARY)
def test_a_png_with_any_ancillary_chunks_is_read(name: str, *, last: bool) -> None:
    whole = encoded(photo(), "PNG")
    assert is_read(with_chunk(whole, ANCILLARY[name], last=last), whole)


def test_a_png_cut_off_in_a_text_behind_its_pixels_is_read() -> None:
    whole = encoded(photo(), "PNG")
    assert is_read(with_chunk(whole, chunk(b"tEXt", b"Comment\0hello"), last=True)[:-20], whole)


@pytest.mark.parametrize("at", [SIGNATURE + 8, SIGNATURE + 22])
def test_a_png_whose_head_is_damaged_is_refused(at: int) -> None:
    data = bytearray(encoded(photo(), "PNG"))
    data[at] ^= 1
    with pytest.raises(Refused, match="damaged or truncated"):
        decode(bytes(data), AS_IT_IS)


def test_a_png_cut_off_in_its_pixels_is_refused() -> None:
    with pytest.raises(Refused, match="damaged or truncated"):
        decode(encoded(photo(), "PNG")[:-200], AS_IT_IS)


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif.tobytes()


XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
RAW_PROFILE = b"\nexif\n%8d\n" % len(turned()) + turned().hex().encode() + b"\n"


@pytest.mark.parametrize(
    "added",
    [
        chunk(b"eXIf", turned().removeprefix(b"Exif\0\0")),
        chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(RAW_PROFILE)),
        chunk(b"tEXt", b"Raw profile type exif\0" + RAW_PROFILE),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(XMP)),
    ],
    ids=["eXIf", "packed raw profile", "raw profile", "XMP", "packed XMP"],
)
@pytest.mark.parametrize("last", [False, True])
def test_a_png_is_rotated_by_its_orientation_chunk(added: bytes, *, last: bool) -> None:
    assert decode(with_chunk(encoded(photo(), "PNG"), added, last=last), AS_IT_IS).size == (45, 67)


def test_an_animated_png_shows_its_first_picture() -> None:
    first, other = photo(), photo().rotate(180)
    data = encoded(first, "PNG", save_all=True, append_images=[other, other])
    assert b"acTL" in data
    assert np.array_equal(np.asarray(decode(data, AS_IT_IS)), np.asarray(first))


# ---- JPEG


FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "baseline": ("RGB", {}),
    "baseline, grey": ("L", {}),
    "baseline, full colour": ("RGB", {"subsampling": 0}),
    "baseline, four inks": ("CMYK", {}),
    "baseline, restarts": ("RGB", {"restart_marker_blocks": 1}),
    "progressive": ("RGB", {"progressive": True}),
    "progressive, grey": ("L", {"progressive": True}),
    "progressive, restarts": ("RGB", {"progressive": True, "restart_marker_rows": 1}),
}


def jpeg(form: str) -> bytes:
    mode, options = FORMS[form]
    return encoded(photo(mode=mode), "JPEG", quality=90, **options)


@pytest.mark.parametrize("form", FORMS)
def test_a_jpeg_without_its_last_two_bytes_is_read(form: str) -> None:
    whole = jpeg(form)
    assert whole.endswith(b"\xff\xd9")
    assert is_read(whole[:-2], whole)
    small = ImageSpec.model_validate({"resize": 8, "crop": 8})
    assert decode(whole[:-2], small).size == decode(whole, small).size


@pytest.mark.parametrize("form", FORMS)
def test_a_jpeg_that_lacks_pixels_is_refused(form: str) -> None:
    whole = jpeg(form)
    begin = whole.index(b"\xff\xda")
    boundaries = [at for at in range(begin + 20, len(whole) - 2) if whole[at] == 0xFF and whole[at + 1] != 0]
    cuts = [len(whole) - 4, len(whole) - 10, len(whole) - 60, (begin + len(whole)) // 2, *boundaries[-12:]]
    for cut in cuts:
        with pytest.raises(Refused, match="damaged or truncated"):
            decode(whole[:cut], AS_IT_IS)


def test_a_jpeg_that_ends_within_a_marker_is_refused() -> None:
    with pytest.raises(Refused, match="damaged or truncated"):
        decode(jpeg("baseline")[:-1], AS_IT_IS)


def test_extra_segments_of_a_jpeg_change_nothing() -> None:
    whole = jpeg("baseline")
    segments = [
        b"\xff" + bytes([code]) + struct.pack(">H", len(body) + 2) + body
        for code, body in (
            (0xE2, b"ICC_PROFILE\0\1\1" + bytes(60_000)),
            (0xED, b"Photoshop 3.0\0"),
            (0xFE, b"\xff\xd9"),
        )
    ]
    for added in segments:
        assert is_read(whole[:2] + added * 20 + whole[2:], whole)
    inks = encoded(photo(mode="CMYK"), "JPEG", quality=90)
    assert is_read(inks[:2] + b"".join(segments) + inks[2:], inks)


def test_a_jpeg_in_the_colours_that_adobe_s_segment_names_keeps_them() -> None:
    plain = encoded(photo(), "JPEG", quality=95, keep_rgb=True, subsampling=0)
    assert b"Adobe" in plain
    assert np.abs(np.asarray(decode(plain, AS_IT_IS), int) - np.asarray(photo(), int)).mean() < 4
