"""Encoded bytes → an upright RGB or grey picture → the model's pixels; whatever a decoder does becomes a Refused.

Decides by magic bytes, a pixel limit and `[image]`; knows no model and no batch. Safe from several threads.
"""

import io
import re
import warnings
from typing import Final, Literal, NamedTuple

import numpy as np

# Imported for their registration: Pillow would otherwise load every plugin it has when it first meets WebP.
from PIL import BmpImagePlugin, GifImagePlugin, Image, JpegImagePlugin, PngImagePlugin, WebPImagePlugin  # noqa: F401

from jobs.contract.errors import Refused
from jobs.contract.image_formats import IMAGE_FORMATS, detect_format
from model_runtime.images import bmp_rle, strip_gif, strip_jpeg, strip_png
from model_runtime.images.geometry import compute_placement
from model_runtime.images.orientation import SIDEWAYS, read_transpose
from model_runtime.images.stripped_image import StrippedImage
from model_runtime.spec.image import ImageSpec
from model_runtime.tensor_spec import Array

# Pillow only warns at sizes that a model's own limit may allow; its hard limit stays as the second fence.
warnings.simplefilter("ignore", Image.DecompressionBombWarning)
bmp_rle.register()
# Pillow weighs each pixel of a side for each of the result, holding the interpreter's lock: seconds, and gigabytes, for
# a side of millions. Beyond what a JPEG can have, a side is first shrunk by plain averages, to some times the result.
_LONG_SIDE, _GAP = 65_536, 64.0
_STRIPPERS: Final = {"PNG": strip_png.strip_file, "GIF": strip_gif.strip_file}


class DecodedImage(NamedTuple):
    """A decoded picture, and its size as its viewer sees it, in pixels: `image` may be smaller."""

    image: Image.Image
    width: int
    height: int


def decode(data: bytes, spec: ImageSpec) -> Image.Image:
    """The image of `read`."""
    return decode_image(data, spec).image


def decode_image(data: bytes, spec: ImageSpec) -> DecodedImage:
    """The first frame, upright, flattened on the background, of mode "RGB" or, for `color = "gray"`, "L".

    A JPEG much larger than `resize` comes smaller than it is, though at least twice the size asked for.
    Raises Refused: unsupported_media_type, image_too_many_pixels, invalid_image.
    """
    kind = detect_format(data)
    if kind is None:
        raise Refused(
            "unsupported_media_type",
            f"the first bytes are not those of an image format taken here; allowed: {', '.join(IMAGE_FORMATS)}",
            allowed=list(IMAGE_FORMATS),
        )
    try:
        return _decode(data, kind, spec)
    except (Refused, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        declared = re.search(r"\d+", str(error))  # the size is known to nobody else: there is no image
        raise _too_many(f"the image declares {declared[0] if declared else 'too many'} pixels", spec) from error
    except Exception as error:  # decoders raise nearly anything on hostile bytes
        raise Refused("invalid_image", f"the {kind} data is broken or cut short and can not be decoded") from error


def _decode(data: bytes, kind: str, spec: ImageSpec) -> DecodedImage:
    jpeg = strip_jpeg.strip_file(data) if kind == "JPEG" else None
    stripped = jpeg.stripped if jpeg else _STRIPPERS.get(kind, StrippedImage)(data)
    image: Image.Image = Image.open(io.BytesIO(stripped.data), formats=[kind])
    width, height = image.size
    if width * height > spec.max_pixels:
        raise _too_many(f"the image is {width} x {height} = {width * height} pixels", spec)
    if width == 0 or height == 0:
        raise Refused("invalid_image", f"the {kind} image has no pixels")
    if jpeg:
        strip_jpeg.check_scans(jpeg, width * height)
        if not strip_jpeg.has_end_marker(jpeg):
            image = Image.open(io.BytesIO(strip_jpeg.add_end_marker(jpeg)), formats=[kind])
    if kind == "JPEG" and spec.resize is not None:
        # Twice the size keeps what resizing sees; the sides may still swap when turned, so the longer counts for both.
        side = 2 * (spec.resize if isinstance(spec.resize, int) else max(spec.resize))
        image.draft("L" if spec.color == "gray" else None, (side, side))
    if kind == "PNG":
        # One whose stream breaks in the middle is served as far as it goes, as browsers do: only the first try fails.
        # One that is cut short fails again, and is refused.
        try:
            image.load()
        except OSError:
            image.load()
    else:
        image.load()
    upright = (
        read_transpose(stripped.exif, stripped.xmp)
        if kind != "WEBP"
        else read_transpose(_read_metadata(image, "exif"), _read_metadata(image, "xmp"))
    )
    flat = _flatten(image, spec)
    if upright is None:
        return DecodedImage(flat, width, height)
    return DecodedImage(flat.transpose(upright), *((height, width) if upright in SIDEWAYS else (width, height)))


def _read_metadata(image: Image.Image, name: str) -> bytes:
    held = image.info.get(name)
    return held if isinstance(held, bytes) else b""


def _too_many(what: str, spec: ImageSpec) -> Refused:
    return Refused("image_too_many_pixels", f"{what}; the limit is {spec.max_pixels}", limit=spec.max_pixels)


def _flatten(image: Image.Image, spec: ImageSpec) -> Image.Image:
    mode: Literal["L", "RGB"] = "L" if spec.color == "gray" else "RGB"
    if image.mode.startswith("I"):
        image = _eight_bits(image)
    if image.has_transparency_data:
        above = image.convert("RGBA")
        image = Image.new("RGB", image.size, spec.background)
        image.paste(above, mask=above)
    return image if image.mode == mode else image.convert(mode)


def _eight_bits(image: Image.Image) -> Image.Image:
    """16-bit grey by its upper byte, where Pillow's own conversion would clip all but the darkest to white."""
    values = np.asarray(image)
    grey = Image.fromarray((np.clip(values, 0, 0xFFFF) >> 8).astype(np.uint8))
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        grey.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    return grey


def to_array(image: Image.Image, spec: ImageSpec) -> Array:
    """A decoded picture → float32 of (pixel * scale - mean) / std, [C, H, W] or [H, W, C] by `layout`."""
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
    """A decoded picture → uint8, resized and cropped, channels in the order of `color`, axes by `layout` (a view)."""
    pixels = np.asarray(_fit(image, spec))
    if pixels.ndim == 2:
        pixels = pixels[:, :, np.newaxis]
    if spec.color == "BGR":
        pixels = pixels[:, :, ::-1]
    return pixels.transpose(2, 0, 1) if spec.layout == "NCHW" else pixels


def _fit(image: Image.Image, spec: ImageSpec) -> Image.Image:
    """Resize, then crop the centre, as one resize of only what the crop keeps: a 1 x 50000 picture costs no more."""
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
