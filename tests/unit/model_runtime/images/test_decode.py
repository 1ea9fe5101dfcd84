"""Decoding of images to the model's pixels: formats, limits and corner cases."""

import io
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jobs.contract.errors import Refused
from jobs.contract.image_formats import IMAGE_FORMATS, detect_format
from model_runtime.images.decode import decode, to_array, to_pixels
from model_runtime.spec.model_toml import ImageSpec
from tests.support.odd_images import expected_answers

SQUEEZENET = {"resize": 256, "crop": 224, "color": "BGR", "mean": [104, 117, 123]}


def spec(**keys: Any) -> ImageSpec:
    return ImageSpec.model_validate(keys)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def refusal(data: bytes, **keys: Any) -> Refused:
    with pytest.raises(Refused) as caught:
        decode(data, spec(**keys))
    return caught.value


def test_every_odd_image_has_its_expected_answer(shared_data: Path) -> None:
    wanted = expected_answers(shared_data)
    assert len(wanted) == 100
    pipeline = spec(**SQUEEZENET)
    got: dict[str, tuple[int, str | None]] = {}
    for name in wanted:
        try:
            array = to_array(decode((shared_data / "odd" / name).read_bytes(), pipeline), pipeline)
        except Refused as refused:
            got[name] = (refused.status, refused.code)
        else:
            assert array.shape == (3, 224, 224)
            assert np.isfinite(array).all()
            got[name] = (200, None)
    assert got == {name: (answer["expect"], answer.get("code")) for name, answer in wanted.items()}


@pytest.mark.parametrize("kind", IMAGE_FORMATS)
def test_formats_are_known_by_their_first_bytes(kind: str) -> None:
    data = encoded(Image.new("RGB", (5, 4), (10, 200, 30)), kind)
    assert detect_format(data) == kind
    image = decode(data, spec())
    assert (image.mode, image.size) == ("RGB", (5, 4))
    assert np.abs(np.asarray(image, int) - (10, 200, 30)).max() < 12


@pytest.mark.parametrize(
    "data", [b"", b"%PDF-1.7", b"II*\0" + bytes(50), b"RIFF0000WAVE", b"\0\0\0\x18ftypmp42\0\0\0\0mp42"]
)
def test_other_bytes_are_refused_with_the_list(data: bytes) -> None:
    refused = refusal(data)
    assert refused.code == "unsupported_media_type"
    assert refused.details["allowed"] == ["JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF", "HEIF"]


def test_the_pixel_limit_is_checked_before_decoding() -> None:
    header_only = encoded(Image.new("L", (300, 200)))[:60]  # enough to read the size, not to decode
    refused = refusal(header_only, max_pixels=59_999)
    assert refused.code == "image_too_many_pixels"
    assert "300 x 200 = 60000 pixels; the limit is 59999" in refused.message
    assert refused.details["limit"] == 59_999
    assert refusal(header_only, max_pixels=60_000).code == "invalid_image"


def test_a_broken_image_is_refused_in_plain_words() -> None:
    refused = refusal(encoded(Image.effect_noise((64, 64), 50), "JPEG")[:400])
    assert refused.code == "invalid_image"
    assert refused.message == "the JPEG data is damaged or truncated and cannot be decoded"


@pytest.mark.parametrize("size", [(1, 1), (1, 50_000), (50_000, 1), (3, 2)])
@pytest.mark.parametrize("name", ["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"])
def test_any_shape_is_resized_and_cropped(size: tuple[int, int], name: str) -> None:
    pipeline = spec(resize=256, crop=224, filter=name)
    array = to_array(decode(encoded(Image.new("RGB", size, (9, 8, 7))), pipeline), pipeline)
    assert array.shape == (3, 224, 224)
    assert array[:, 100, 100].tolist() == [9, 8, 7]


def test_an_endless_result_is_refused() -> None:
    pipeline = spec(resize=256)
    with pytest.raises(Refused, match="resized, the image is 256 x 12800000"):
        to_array(decode(encoded(Image.new("RGB", (1, 50_000))), pipeline), pipeline)


def test_one_resize_equals_resize_then_crop() -> None:
    image = Image.effect_noise((301, 203), 90).convert("RGB")
    pipeline = spec(resize=100, crop=[64, 80])
    apart = image.resize((148, 100), Image.Resampling.BILINEAR).crop((34, 18, 114, 82))
    together = to_pixels(image, pipeline).transpose(1, 2, 0)
    assert np.abs(together.astype(int) - np.asarray(apart, int)).max() <= 1


def test_a_large_jpeg_is_decoded_small_and_looks_the_same() -> None:
    smooth = Image.linear_gradient("L").resize((1600, 1200)).convert("RGB")
    pipeline = spec(resize=100, crop=96)
    image = decode(encoded(smooth, "JPEG", quality=95), pipeline)
    assert image.size == (400, 300)
    assert np.abs(to_array(image, pipeline) - to_array(smooth, pipeline)).max() <= 3


def test_normalisation_order_and_layout() -> None:
    image = Image.new("RGB", (4, 2), (10, 20, 30))
    keys = {"scale": 0.5, "mean": [1, 2, 3], "std": [2, 4, 8]}
    assert to_array(image, spec(**keys))[:, 0, 0].tolist() == [2.0, 2.0, 1.5]
    assert to_array(image, spec(**keys, color="BGR"))[:, 0, 0].tolist() == [7.0, 2.0, 0.25]
    last = to_array(image, spec(layout="NHWC", mean=10))
    assert last.shape == (2, 4, 3)
    assert last.dtype == np.float32
    assert last.flags["C_CONTIGUOUS"]
    assert last[0, 0].tolist() == [0, 10, 20]
    grey = spec(color="gray")
    assert to_array(decode(encoded(image), grey), grey).shape == (1, 2, 4)


def test_sixteen_bit_grey_is_scaled_not_clipped(shared_data: Path) -> None:
    data = (shared_data / "odd" / "pngsuite" / "basn0g16.png").read_bytes()
    for color in ("gray", "RGB"):
        assert to_array(decode(data, spec(color=color)), spec(color=color)).mean() == pytest.approx(144, abs=1)


def test_sixteen_bit_grey_may_be_transparent(shared_data: Path) -> None:
    data = (shared_data / "odd" / "pillow" / "i_trns.png").read_bytes()
    on = [np.asarray(decode(data, spec(background=colour))) for colour in ([255, 0, 0], [0, 0, 255])]
    assert (on[0] != on[1]).any()


@pytest.mark.parametrize(
    "image",
    [
        Image.new("RGBA", (2, 2), (0, 0, 0, 0)),
        Image.new("LA", (2, 2), (0, 0)),
        Image.new("P", (2, 2), 0),
        Image.new("RGB", (2, 2), (1, 2, 3)),
        Image.new("L", (2, 2), 7),
        Image.new("1", (2, 2), 1),
    ],
    ids=lambda image: str(image.mode),
)
def test_transparent_pixels_show_the_background(image: Image.Image) -> None:
    clear = {"P": 0, "RGB": (1, 2, 3), "L": 7, "1": 255}.get(image.mode)
    data = encoded(image) if clear is None else encoded(image, transparency=clear)
    assert decode(data, spec()).getpixel((0, 0)) == (255, 255, 255)
    assert decode(data, spec(background=[9, 8, 7])).getpixel((0, 0)) == (9, 8, 7)
    assert decode(data, spec(background=[9, 9, 9], color="gray")).getpixel((0, 0)) == 9


def test_half_transparent_pixels_are_blended() -> None:
    assert decode(encoded(Image.new("RGBA", (1, 1), (0, 0, 0, 128))), spec()).getpixel((0, 0)) == (127, 127, 127)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "HEIF"])
def test_the_exif_orientation_is_applied(kind: str) -> None:
    upright = Image.new("RGB", (32, 16), "white")
    upright.paste((255, 0, 0), (0, 0, 16, 16))  # red to the left
    turned = {
        1: upright,
        2: upright.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        3: upright.transpose(Image.Transpose.ROTATE_180),
        6: upright.transpose(Image.Transpose.ROTATE_90),
        8: upright.transpose(Image.Transpose.ROTATE_270),
        77: upright,
    }
    for orientation, stored in turned.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        image = decode(encoded(stored, kind, exif=exif.tobytes()), spec())
        assert image.size == (32, 16)
        assert image.getpixel((4, 8))[1] < 60  # type: ignore[index]
        assert image.getpixel((28, 8))[1] > 200  # type: ignore[index]


def test_all_threads_decode_to_the_same_pixels(shared_data: Path) -> None:
    pipeline = spec(**SQUEEZENET)
    data = [path.read_bytes() for path in sorted((shared_data / "odd" / "exif").iterdir())]
    alone = [to_array(decode(one, pipeline), pipeline) for one in data]
    with ThreadPoolExecutor(4) as pool:
        for at, array in enumerate(pool.map(lambda one: to_array(decode(one, pipeline), pipeline), data * 3)):
            assert np.array_equal(array, alone[at % len(data)])


def test_a_jpeg_of_too_many_scans_is_refused_before_decoding() -> None:
    image = io.BytesIO()
    Image.new("L", (64, 64)).save(image, "JPEG", progressive=True)
    scan = b"\xff\xda\x00\x08\x01\x01\x00\x01\x3f\x00" + b"\x7f"
    bomb = image.getvalue()[:-2] + scan * 5000 + b"\xff\xd9"
    with pytest.raises(Refused, match="more than 100 scans"):
        decode(bomb, spec())
    assert decode(image.getvalue() + random.Random(1).randbytes(3 << 20), spec()).size == (64, 64)
