"""Define the section `[image]` of `model.toml`: the preprocessing of an image, its limits and the three presets.

Validates the keys against each other. The task checks them against the model's shapes.
"""

import math
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, model_validator

SIDE_LIMIT: Final = 16384
PIXEL_LIMIT: Final = 178_956_970  # beyond this Pillow itself refuses to open an image

# The preprocessing of ImageNet models, by framework. `mean` and `std` are in the order of the preset's `color`.
PRESETS: Final[dict[str, dict[str, Any]]] = {
    "torch": {
        "resize": 256,
        "crop": 224,
        "scale": 1 / 255,
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
    },
    "tf": {"scale": 1 / 127.5, "mean": 1.0, "layout": "NHWC"},
    "caffe": {"resize": 256, "crop": 224, "color": "BGR", "mean": (103.939, 116.779, 123.68)},
}


def _is_whole(value: object, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _pair(value: object) -> tuple[int, int]:
    if isinstance(value, list | tuple) and len(value) == 2 and all(_is_whole(side, 1, SIDE_LIMIT) for side in value):
        return (value[0], value[1])
    raise ValueError


def _side_or_pair(value: Any) -> int | tuple[int, int]:
    return int(value) if _is_whole(value, 1, SIDE_LIMIT) else _pair(value)


def _square_or_pair(value: Any) -> tuple[int, int]:
    return (value, value) if _is_whole(value, 1, SIDE_LIMIT) else _pair(value)


def _numbers(value: object) -> tuple[float, ...]:
    numbers = tuple(value) if isinstance(value, list | tuple) else (value,)
    if len(numbers) in {1, 3} and all(isinstance(n, int | float) and not isinstance(n, bool) for n in numbers):
        floats = tuple(float(n) for n in numbers)
        if all(map(math.isfinite, floats)):
            return floats
    raise ValueError


def _divisors(value: object) -> tuple[float, ...]:
    numbers = _numbers(value)
    if min(numbers) <= 0:
        raise ValueError
    return numbers


def _colour(value: object) -> tuple[int, int, int]:
    if isinstance(value, list | tuple) and len(value) == 3 and all(_is_whole(part, 0, 255) for part in value):
        return (value[0], value[1], value[2])
    raise ValueError


_SIDES = f"1 to {SIDE_LIMIT}"


class ImageSpec(BaseModel):
    """`[image]`: decode, flatten on `background`, resize, crop the centre, then (pixel * scale - mean) / std.

    `fit`: stretch an image of other proportions to [height, width], or letterbox it on `background`, in the middle or
    in the top left corner.

    Error messages quote the fields' descriptions, which say what is allowed. Explicit keys override those of `preset`;
    `resize` or `crop` replaces both keys of the preset.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    preset: Literal["torch", "tf", "caffe"] | None = Field(None, description="torch, tf, caffe")
    resize: Annotated[int | tuple[int, int] | None, PlainValidator(_side_or_pair)] = Field(
        None, description=f"pixels of the shorter side ({_SIDES}), or [height, width]"
    )
    crop: Annotated[tuple[int, int] | None, PlainValidator(_square_or_pair)] = Field(
        None, description=f"pixels of a square ({_SIDES}), or [height, width]"
    )
    fit: Literal["stretch", "letterbox", "letterbox-corner"] = Field(
        "stretch", description="stretch, letterbox (in the middle), letterbox-corner (top left)"
    )
    filter: Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"] = Field(
        "bilinear", description="nearest, box, bilinear, hamming, bicubic, lanczos"
    )
    color: Literal["RGB", "BGR", "gray"] = Field("RGB", description="RGB, BGR, gray")
    scale: float = Field(1.0, gt=0, allow_inf_nan=False, description="a number above 0")
    mean: Annotated[tuple[float, ...], PlainValidator(_numbers)] = Field(
        (0.0,), description="1 or 3 numbers, in the order of color"
    )
    std: Annotated[tuple[float, ...], PlainValidator(_divisors)] = Field(
        (1.0,), description="1 or 3 numbers above 0, in the order of color"
    )
    layout: Literal["NCHW", "NHWC"] = Field("NCHW", description="NCHW, NHWC")
    background: Annotated[tuple[int, int, int], PlainValidator(_colour)] = Field(
        (255, 255, 255), description="[red, green, blue], each 0 to 255"
    )
    max_pixels: int = Field(
        50_000_000, ge=1, le=PIXEL_LIMIT, description=f"a whole number of pixels from 1 to {PIXEL_LIMIT}"
    )

    @property
    def channels(self) -> int:
        """Return the number of channels: 1 for gray, else 3."""
        return 1 if self.color == "gray" else 3

    @property
    def size(self) -> tuple[int, int] | None:
        """Return height and width of every preprocessed image, or None if they depend on the image."""
        return self.crop or (self.resize if isinstance(self.resize, tuple) else None)

    @property
    def is_normalising(self) -> bool:
        """Return true if `scale`, `mean` or `std` changes pixel values."""
        return self.scale != 1 or any(self.mean) or any(part != 1 for part in self.std)

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, values: Any) -> Any:
        name = values.get("preset") if isinstance(values, dict) else None
        if not isinstance(name, str) or name not in PRESETS:
            return values
        preset = dict(PRESETS[name])
        if "resize" in values or "crop" in values or values.get("fit", "stretch") != "stretch":
            preset.pop("resize", None)
            preset.pop("crop", None)
        if values.get("color") in {"RGB", "BGR"} and values["color"] != preset.get("color", "RGB"):
            for key in ("mean", "std"):
                if isinstance(preset.get(key), tuple):
                    preset[key] = preset[key][::-1]
        return preset | values

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.fit != "stretch" and (self.crop or isinstance(self.resize, int)):
            raise ValueError(f'fit = "{self.fit}" needs both sides and no crop; allowed: resize = [height, width]')
        if self.crop and self.resize is None:
            raise ValueError("crop needs resize; allowed: resize = pixels of the shorter side")
        if self.crop and self.resize:
            height, width = (self.resize, self.resize) if isinstance(self.resize, int) else self.resize
            if self.crop[0] > height or self.crop[1] > width:
                raise ValueError(
                    f"crop = {list(self.crop)} does not fit into resize = {self.resize}; allowed: a crop no larger"
                )
        for key, numbers in (("mean", self.mean), ("std", self.std)):
            if len(numbers) not in {1, self.channels}:
                raise ValueError(f"{key} has {len(numbers)} numbers; allowed with color = {self.color!r}: 1")
        return self
