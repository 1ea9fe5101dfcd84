"""Decode an encoded image, turn it upright, and convert it to a model's pixels; decoder errors become Refused.

The functions are safe from several threads.
"""

import io
import re
import warnings
from typing import Final, Literal, NamedTuple

import numpy as np

# Imported to register the plugins: otherwise Pillow loads all of its plugins at the first WebP image.
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,  # noqa: F401
    GifImagePlugin,  # noqa: F401
    Image,
    JpegImagePlugin,  # noqa: F401
    PngImagePlugin,  # noqa: F401
    WebPImagePlugin,  # noqa: F401
)

from jobs.contract.errors import Refused
from jobs.contract.image_formats import IMAGE_FORMATS, detect_format
from model_runtime.images import bmp_rle, heif_boxes, strip_gif, strip_jpeg, strip_png
from model_runtime.images.geometry import compute_placement
from model_runtime.images.orientation import SIDEWAYS, read_transpose
from model_runtime.images.stripped_image import StrippedImage
from model_runtime.spec.image import ImageSpec
from model_runtime.tensor_spec import Array

# Pillow only warns at sizes that a model's `max_pixels` may allow. Its hard limit remains in force.
warnings.simplefilter("ignore", Image.DecompressionBombWarning)
bmp_rle.register()
AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # images are decoded beside each other
try:
    import pillow_heif
except ImportError:
    _HAS_HEIF = False
else:
    _HAS_HEIF = True
    # Only for files that are told to be HEIF: all images are opened as one format.
    pillow_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False, decode_threads=1)
# Resizing a side of millions of pixels takes Pillow seconds and gigabytes while it holds the GIL. A side longer than a
# JPEG's is first reduced by averaging to _GAP times the result.
_LONG_SIDE, _GAP = 65_536, 64.0
_STRIPPERS: Final = {"PNG": strip_png.strip_file, "GIF": strip_gif.strip_file}
_BOXED: Final = ("AVIF", "HEIF")


class DecodedImage(NamedTuple):
    """A decoded image. `width`, `height`: its full upright size in pixels; `image` may be smaller."""

    image: Image.Image
    width: int
    height: int


def decode(data: bytes, spec: ImageSpec) -> Image.Image:
    """Return the image of `decode_image`, without its size."""
    return decode_image(data, spec).image


def decode_image(data: bytes, spec: ImageSpec) -> DecodedImage:
    """Return the first frame, upright, flattened on the background, in mode "RGB" or, for `color = "gray"`, "L".

    A JPEG much larger than `resize` is decoded at a smaller size, at least twice that of `resize`.
    Raises Refused: unsupported_media_type, image_too_many_pixels, invalid_image.
    """
    kind = detect_format(data)
    if kind is None:
        raise Refused(
            "unsupported_media_type",
            f"the first bytes are not those of a supported image format; allowed: {', '.join(IMAGE_FORMATS)}",
            allowed=list(IMAGE_FORMATS),
        )
    if kind == "HEIF" and not _HAS_HEIF:
        allowed = [name for name in IMAGE_FORMATS if name != kind]
        how = f'pip install -e ".[heic]" on the worker; allowed here: {", ".join(allowed)}'
        raise Refused("unsupported_media_type", f"images of HEIF (HEIC) need the extra heic: {how}", allowed=allowed)
    try:
        return _decode(data, kind, spec)
    except (Refused, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        declared = re.search(r"\d+", str(error))  # only the message contains the size
        raise _too_many(f"the image declares {declared[0] if declared else 'too many'} pixels", spec) from error
    except Exception as error:  # decoders raise nearly anything on hostile bytes
        raise Refused("invalid_image", f"the {kind} data is damaged or truncated and cannot be decoded") from error


def _decode(data: bytes, kind: str, spec: ImageSpec) -> DecodedImage:
    jpeg = strip_jpeg.strip_file(data) if kind == "JPEG" else None
    boxed = heif_boxes.strip_file(data) if kind in _BOXED else None
    stripped = jpeg.stripped if jpeg else _STRIPPERS.get(kind, StrippedImage)(boxed.data if boxed else data)
    image: Image.Image = Image.open(io.BytesIO(stripped.data), formats=[kind])
    width, height = image.size
    if width * height > spec.max_pixels:
        raise _too_many(f"the image is {width} x {height} = {width * height} pixels", spec)
    if width == 0 or height == 0:
        raise Refused("invalid_image", f"the {kind} image has no pixels")
    if boxed:
        heif_boxes.check_pixels(boxed, kind, image.size, spec.max_pixels)
    if kind == "BMP":
        bmp_rle.check_size(image, len(data))
    if jpeg:
        strip_jpeg.check_scans(jpeg, width * height)
        if not strip_jpeg.has_end_marker(jpeg):
            image = Image.open(io.BytesIO(strip_jpeg.add_end_marker(jpeg)), formats=[kind])
    if kind == "JPEG" and spec.resize is not None:
        # Twice the size is enough for resizing. Turning may swap the sides, so both use the longer one.
        side = 2 * (spec.resize if isinstance(spec.resize, int) else max(spec.resize))
        image.draft("L" if spec.color == "gray" else None, (side, side))
    _load(image, kind)
    upright = (
        read_transpose(stripped.exif, stripped.xmp)
        if kind != "WEBP" and not boxed
        else read_transpose(_read_metadata(image, "exif"), _read_metadata(image, "xmp"))
    )
    flat = _flatten(image, spec)
    if upright is None:
        return DecodedImage(flat, width, height)
    return DecodedImage(flat.transpose(upright), *((height, width) if upright in SIDEWAYS else (width, height)))


def _load(image: Image.Image, kind: str) -> None:
    """Decode the pixels.

    A damaged stream of a PNG is decoded as far as possible, as browsers do: only the first load fails. A truncated file
    fails twice and is refused.
    """
    try:
        image.load()
    except OSError:
        if kind != "PNG":
            raise
        image.load()


def _read_metadata(image: Image.Image, name: str) -> bytes:
    value = image.info.get(name)
    return value if isinstance(value, bytes) else b""


def _too_many(what: str, spec: ImageSpec) -> Refused:
    return Refused("image_too_many_pixels", f"{what}; the limit is {spec.max_pixels}", limit=spec.max_pixels)


def _flatten(image: Image.Image, spec: ImageSpec) -> Image.Image:
    mode: Literal["L", "RGB"] = "L" if spec.color == "gray" else "RGB"
    if image.mode.startswith("I"):
        image = _eight_bits(image)
    if image.has_transparency_data:
        foreground = image.convert("RGBA")
        image = Image.new("RGB", image.size, spec.background)
        image.paste(foreground, mask=foreground)
    return image if image.mode == mode else image.convert(mode)


def _eight_bits(image: Image.Image) -> Image.Image:
    """Convert 16-bit grey by its upper byte. Pillow's conversion would clip all but the darkest values to white."""
    values = np.asarray(image)
    grey = Image.fromarray((np.clip(values, 0, 0xFFFF) >> 8).astype(np.uint8))
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    return grey


def to_array(image: Image.Image, spec: ImageSpec) -> Array:
    """Return float32 values (pixel * scale - mean) / std of a decoded image, [C, H, W] or [H, W, C] by `layout`."""
    pixels = to_pixels(image, spec)
    per_channel = (-1, 1, 1) if spec.layout == "NCHW" else (1, 1, -1)
    std = np.array(spec.std)
    factor = np.asarray(spec.scale / std, np.float32).reshape(per_channel)
    offset = np.asarray(-np.array(spec.mean) / std, np.float32).reshape(per_channel)
    result = np.empty(pixels.shape, np.float32)
    np.multiply(pixels, factor, out=result)
    if offset.any():
        result += offset
    return result


def to_pixels(image: Image.Image, spec: ImageSpec) -> Array:
    """Return uint8 pixels of a decoded image, resized and cropped, with channels by `color` and axes by `layout`."""
    pixels = np.asarray(_fit(image, spec))
    if pixels.ndim == 2:
        pixels = pixels[:, :, np.newaxis]
    if spec.color == "BGR":
        pixels = pixels[:, :, ::-1]
    return pixels.transpose(2, 0, 1) if spec.layout == "NCHW" else pixels


def _fit(image: Image.Image, spec: ImageSpec) -> Image.Image:
    """Resize and crop the centre in one step, which computes only the cropped part, at bounded cost for any shape."""
    if spec.resize is None:
        return image
    placed = compute_placement(image.size, spec)
    if placed.input[0] * placed.input[1] > spec.max_pixels:
        width, height = placed.resized
        raise _too_many(f"resized, the image is {width} x {height} = {width * height} pixels", spec)
    left, top, right, bottom = placed.shown
    across, down = placed.scale
    box = (
        (left - placed.left) / across,
        (top - placed.top) / down,
        min((right - placed.left) / across, image.width),
        min((bottom - placed.top) / down, image.height),
    )
    gap = _GAP if max(image.size) > _LONG_SIDE else None
    shown = image.resize((right - left, bottom - top), Image.Resampling[spec.filter.upper()], box, gap)
    if shown.size == placed.input:
        return shown
    frame = Image.new("RGB", placed.input, spec.background).convert(shown.mode)
    frame.paste(shown, (left, top))
    return frame
