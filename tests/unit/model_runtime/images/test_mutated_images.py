"""Mutated image bytes give a picture or a Refused, and no other error."""

import io

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from jobs.contract.errors import Refused
from model_runtime.images.decode import decode, to_array
from model_runtime.spec.model_toml import ImageSpec

PIPELINES = [
    ImageSpec.model_validate({"resize": 16, "crop": 12, "max_pixels": 1_000_000}),
    ImageSpec.model_validate({"resize": [8, 9], "color": "gray", "max_pixels": 1_000_000}),
]


def _seeds() -> list[bytes]:
    noise = Image.effect_noise((40, 30), 60)
    exif = Image.Exif()
    exif[0x0112] = 6
    kinds: list[tuple[Image.Image, str, dict[str, object]]] = [
        (noise.convert("RGB"), "JPEG", {"exif": exif}),
        (noise.convert("CMYK"), "JPEG", {"progressive": True}),
        (noise.convert("RGBA"), "PNG", {"exif": exif}),
        (noise.convert("P"), "PNG", {"transparency": 3}),
        (noise.convert("I;16"), "PNG", {}),
        (noise.convert("RGBA"), "WEBP", {"exif": exif}),
        (noise.convert("RGB"), "WEBP", {"lossless": True}),
        (noise.convert("P"), "GIF", {"transparency": 1, "save_all": True, "append_images": [noise.convert("P")]}),
        (noise.convert("RGB"), "BMP", {}),
        (noise.convert("1"), "BMP", {}),
        (noise.convert("RGBA"), "AVIF", {"exif": exif, "xmp": b"<x/>"}),
        (noise.convert("RGB"), "AVIF", {"save_all": True, "append_images": [noise.convert("RGB")]}),
        (noise.convert("RGBA"), "HEIF", {"exif": exif.tobytes(), "xmp": b"<x/>"}),
        (Image.effect_noise((150, 90), 60).convert("RGB"), "HEIF", {"tile_size": 64}),
    ]
    seeds = []
    for image, kind, options in kinds:
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        seeds.append(buffer.getvalue())
    return seeds


OUTCOMES = {"unsupported_media_type", "image_too_many_pixels", "invalid_image", (3, 12, 12), (1, 8, 9)}
EDITS = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=8)


def outcome(data: bytes, spec: ImageSpec) -> object:
    try:
        return to_array(decode(data, spec), spec).shape
    except Refused as refused:
        return refused.code if "object at 0x" not in refused.message else refused.message


@settings(max_examples=200, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(_seeds()), EDITS, st.floats(0, 1), st.sampled_from(PIPELINES), st.booleans())
def test_mutated_bytes_are_decoded_or_refused(
    seed: bytes, edits: list[tuple[float, int]], kept: float, spec: ImageSpec, near_the_head: bool
) -> None:
    data = bytearray(seed)
    for place, value in edits:
        data[int(place * min(len(data), 80 if near_the_head else len(data)))] = value
    cut = bytes(data[: int(len(data) * kept)]) if kept < 0.7 else bytes(data)
    assert outcome(cut, spec) in OUTCOMES
