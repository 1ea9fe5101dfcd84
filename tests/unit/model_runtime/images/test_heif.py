"""AVIF and HEIF: what their boxes declare against what is in them, metadata, animations, and the extra heic."""

import io
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jobs.contract.errors import Refused
from jobs.contract.image_formats import detect_format
from model_runtime.images import decode as decoding
from model_runtime.images import heif_boxes
from model_runtime.images.decode import decode, decode_image
from model_runtime.spec.image import ImageSpec

KINDS = ("AVIF", "HEIF")
RED, BLUE = (250, 10, 10), (10, 10, 250)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def refusal(data: bytes, **keys: Any) -> Refused:
    with pytest.raises(Refused) as caught:
        decode(data, ImageSpec.model_validate(keys))
    return caught.value


def declaring(data: bytes, width: int, height: int) -> bytes:
    """The same file with other sizes in all boxes that declare one."""
    parts = data.split(b"ispe")
    size = struct.pack(">II", width, height)
    return b"ispe".join([parts[0], *(part[:4] + size + part[12:] for part in parts[1:])])


@pytest.mark.parametrize("kind", KINDS)
def test_the_declared_size_is_checked_before_decoding(kind: str) -> None:
    data = encoded(Image.new("RGB", (320, 256)), kind)
    assert refusal(data, max_pixels=81_919).code == "image_too_many_pixels"
    assert decode_image(data, ImageSpec(max_pixels=81_920))[1:] == (320, 256)


@pytest.mark.parametrize("kind", KINDS)
def test_a_larger_picture_behind_a_small_size_is_refused(kind: str) -> None:
    """libavif would decode all of it, and then shrink it."""
    refused = refusal(declaring(encoded(Image.new("RGB", (1000, 800)), kind), 64, 64), max_pixels=100_000)
    expected = {
        "AVIF": ("image_too_many_pixels", "a part of the image has 800000 pixels; the limit is 100000"),
        "HEIF": ("invalid_image", "the HEIF data is damaged or truncated and cannot be decoded"),  # libheif compares it
    }
    assert (refused.code, refused.message) == expected[kind]


@pytest.mark.parametrize("reduced", [True, False])
def test_sizes_of_av1_data_are_those_of_its_sequence_header(reduced: bool) -> None:
    """A still picture has the short form of a header, the frames of an animation the long one."""
    frames = [Image.effect_noise((333, 177), 9).convert("RGB") for _ in range(3)]
    more = {} if reduced else {"save_all": True, "append_images": frames[1:]}
    pixels = heif_boxes.strip_file(encoded(frames[0], "AVIF", **more)).pixels
    assert pixels == [333 * 177] * (1 if reduced else 2)  # the picture to show, and the first frame


def test_all_tiles_and_transparency_count() -> None:
    noise = Image.effect_noise((500, 300), 60)
    tiles = heif_boxes.strip_file(encoded(noise.convert("RGB"), "HEIF", tile_size=128))
    assert tiles.pixels == [500 * 300, *[128 * 128] * 12]
    assert heif_boxes.strip_file(encoded(Image.new("RGBA", (500, 300)), "AVIF")).pixels == [150_000, 150_000]
    heif_boxes.check_pixels(tiles, "HEIF", (500, 300), 150_000)
    for limit, code in ((149_000, "image_too_many_pixels"), (10_000_000, "invalid_image")):
        pixels = [150_000] * (1 if limit < 150_000 else 7)
        size = (300, 300) if limit < 150_000 else (500, 300)
        with pytest.raises(Refused) as caught:
            heif_boxes.check_pixels(heif_boxes.HeifFile(b"", pixels), "HEIF", size, limit)
        assert caught.value.code == code
    assert "has 1050000 in 7 parts; allowed: 900000, or a copy" in caught.value.message


def test_a_tile_counts_as_often_as_it_is_decoded() -> None:
    data = encoded(Image.effect_noise((500, 300), 60).convert("RGB"), "HEIF", tile_size=128)
    at = data.index(b"dimg") + 8  # after the number of the grid, and the count
    tiles = data[at : at + 24]
    for other, code in ((tiles[:2] * 12, ""), (data[at - 4 : at - 2] * 12, "invalid_image")):
        changed = data[:at] + other + data[at + 24 :]
        if code:
            assert refusal(changed).code == code  # a grid in a grid
        else:
            assert heif_boxes.strip_file(changed).pixels == [500 * 300, *[128 * 128] * 12]


def test_a_grid_is_as_large_as_its_item_says() -> None:
    data = encoded(Image.effect_noise((500, 300), 60).convert("RGB"), "HEIF", tile_size=128)
    at = data.index(struct.pack(">HH", 500, 300), data.index(b"idat"))
    lying = data[:at] + struct.pack(">HH", 60_000, 60_000) + data[at + 4 :]
    assert refusal(lying).message == "a part of the image has 3600000000 pixels; the limit is 50000000"


def test_an_animation_is_its_first_frame() -> None:
    frames = [Image.new("RGB", (40, 30), colour) for colour in (RED, BLUE, BLUE)]
    data = encoded(frames[0], "AVIF", save_all=True, append_images=frames[1:])
    assert data[8:12] == b"avis"
    assert np.abs(np.asarray(decode(data, ImageSpec()), int) - RED).max() < 12
    at = data.index(b"stsz") + 4 + 4 + 4
    many = data[:at] + struct.pack(">I", 100_001) + data[at + 4 :]
    assert "more than 100000 frames" in refusal(many).message


@pytest.mark.parametrize("kind", KINDS)
def test_only_its_boxes_turn_a_picture(kind: str) -> None:
    """EXIF and XMP are taken out: Python would read all that they point at."""
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "a description " * 40
    turned = encoded(Image.new("RGB", (40, 20), RED), kind, exif=exif.tobytes(), xmp=b"<x/>")
    assert decode_image(turned, ImageSpec())[1:] == (20, 40)
    stripped = heif_boxes.strip_file(turned).data
    assert len(stripped) == len(turned)
    for data, has_metadata in ((turned, True), (stripped, False)):
        with Image.open(io.BytesIO(data)) as image:
            assert ("xmp" in image.info, 0x010E in image.getexif()) == (has_metadata, has_metadata)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA"])
def test_transparent_pixels_show_the_background(kind: str, mode: str) -> None:
    data = encoded(Image.new(mode, (32, 32)), kind)
    pixel = decode(data, ImageSpec(background=(9, 200, 7))).getpixel((5, 5))
    assert pixel == ((9, 200, 7) if mode.endswith("A") else (0, 0, 0))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.05, 0.5, 0.99])
def test_a_truncated_file_is_refused(kind: str, share: float) -> None:
    data = encoded(Image.effect_noise((200, 100), 50).convert("RGB"), kind)
    refused = refusal(data[: int(len(data) * share)])
    assert refused.message == f"the {kind} data is damaged or truncated and cannot be decoded"


def brands(*names: bytes) -> bytes:
    return struct.pack(">I", 8 + 4 + 4 * len(names)) + b"ftyp" + names[0] + bytes(4) + b"".join(names[1:])


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (brands(b"avif"), "AVIF"),
        (brands(b"avis", b"msf1"), "AVIF"),
        (brands(b"heix", b"mif1"), "HEIF"),
        (brands(b"mif1", b"miaf", b"heic"), "HEIF"),
        (brands(b"mif1", b"miaf", b"avif"), "AVIF"),
        (brands(b"mif1"), None),
        (brands(b"qt  ") + b"avif", None),
    ],
)
def test_the_brands_tell_the_format(data: bytes, kind: str | None) -> None:
    assert detect_format(data) == kind


def test_without_the_extra_the_refusal_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "_HAS_HEIF", False)
    refused = refusal(encoded(Image.new("RGB", (8, 8)), "HEIF"))
    assert refused.code == "unsupported_media_type"
    assert 'need the extra heic: pip install -e ".[heic]" on the worker' in refused.message
    assert refused.details["allowed"] == ["JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF"]


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.replace(b"pitm", b"free"),
        lambda data: data.replace(b"hvc1", b"jpeg"),
        lambda data: data + data[data.index(b"meta") - 4 : data.index(b"mdat") - 4],
        lambda data: data.replace(b"iprp", b"idat"),
    ],
    ids=["no primary item", "of another type", "two boxes of items", "no properties"],
)
def test_other_boxes_than_expected_are_refused(change: Callable[[bytes], bytes]) -> None:
    assert refusal(change(encoded(Image.new("RGB", (100, 100)), "HEIF"))).code == "invalid_image"
