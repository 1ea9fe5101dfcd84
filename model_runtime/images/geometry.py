"""Compute the placement of an image on a model's input, to map between pixels of the image and of the input."""

from typing import NamedTuple

from model_runtime.spec.image import ImageSpec

Size = tuple[int, int]  # width, height


class Placement(NamedTuple):
    """A `picture`, `resized` and placed on the `input` with its corner at `left`, `top`; below 0 it is cropped."""

    input: Size
    picture: Size
    resized: Size
    left: int
    top: int

    @property
    def scale(self) -> tuple[float, float]:
        """Return input pixels per picture pixel, horizontally and vertically."""
        return self.resized[0] / self.picture[0], self.resized[1] / self.picture[1]

    @property
    def shown(self) -> tuple[int, int, int, int]:
        """Return left, top, right and bottom of the area that the picture covers, in input pixels."""
        right, bottom = self.left + self.resized[0], self.top + self.resized[1]
        return max(self.left, 0), max(self.top, 0), min(right, self.input[0]), min(bottom, self.input[1])


def compute_placement(picture: Size, spec: ImageSpec) -> Placement:
    """Place a picture of this size by `[image]`; unchanged without `resize`."""
    if spec.resize is None:
        return Placement(picture, picture, picture, 0, 0)
    if isinstance(spec.resize, int):
        resized = _by_shorter_side(picture, spec.resize)
    elif spec.fit != "stretch":
        resized = _within(picture, spec.resize[::-1])
    else:
        resized = spec.resize[::-1]
    full = resized if isinstance(spec.resize, int) else spec.resize[::-1]
    width, height = spec.crop[::-1] if spec.crop else full
    share = 0.0 if spec.fit == "letterbox-corner" else 0.5
    left, top = (int((outer - inner) * share) for outer, inner in zip((width, height), resized, strict=True))
    return Placement((width, height), picture, resized, left, top)


def _by_shorter_side(picture: Size, side: int) -> Size:
    width, height = picture
    return max(side, round(width * side / min(picture))), max(side, round(height * side / min(picture)))


def _within(picture: Size, size: Size) -> Size:
    """Return the largest size within `size` of the picture's proportions."""
    scale = min(size[0] / picture[0], size[1] / picture[1])
    return max(1, round(picture[0] * scale)), max(1, round(picture[1] * scale))
