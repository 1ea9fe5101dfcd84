"""Resize a model's scores to the picture, and choose the class of each pixel.

Scores are interpolated bilinearly between the centers of cells, and then the best class is chosen: the same as
upsampling all scores first. The mask is computed in tiles and class by class, so that memory does not grow with the
classes.
"""

from collections.abc import Iterator
from math import ceil, floor
from typing import Final, NamedTuple

import numpy as np

from model_runtime.images.geometry import Placement
from model_runtime.tensor_spec import Array

NO_CLASS: Final = 255  # of pixels that the model has not seen, because the picture was cropped
MAX_CLASSES: Final = NO_CLASS
_TILE: Final = 256  # pixels of a side; a tile of a narrow or a low picture has as many pixels


class Pixels(NamedTuple):
    """Pixels of a picture along one axis, and the cells whose centers they are between.

    `share`: of the cell `high`; the rest is that of `low`. `nearest`: the cell that a pixel is in. `seen`: whether the
    model has seen it.
    """

    low: Array
    high: Array
    share: Array
    nearest: Array
    seen: Array


class MaskAxis:
    """One axis of a mask: places pixels of the picture in the cells of the model's output."""

    def __init__(self, placement: Placement, axis: int, cells: int) -> None:
        """Create the axis. `axis`: 0 is horizontal, 1 vertical. `cells`: of the model's output."""
        self.size = placement.picture[axis]
        side, shown = placement.input[axis], placement.shown
        self._scale, self._offset = placement.scale[axis], (placement.left, placement.top)[axis]
        self._is_cropped = self._offset < 0
        self._side, self._cells_per_pixel = side, cells / side
        # Cells that only have padding around the picture do not count.
        self._first = floor(shown[axis] * self._cells_per_pixel)
        self._last = max(self._first, min(cells, ceil(shown[axis + 2] * self._cells_per_pixel)) - 1)

    def pixels(self, begin: int, end: int) -> Pixels:
        """Return the pixels from `begin` to before `end`."""
        inside = (np.arange(begin, end) + 0.5) * self._scale + self._offset
        place = inside * self._cells_per_pixel
        between = np.clip(place - 0.5, self._first, self._last)
        low = between.astype(np.int64)
        high = np.minimum(low + 1, self._last)
        nearest = np.clip(place.astype(np.int64), self._first, self._last)
        seen = (inside >= 0) & (inside < self._side) if self._is_cropped else np.ones(end - begin, bool)
        return Pixels(low, high, (between - low).astype(np.float32), nearest, seen)


def mask_strips(cells: Array, placement: Placement, threshold: float) -> Iterator[Array]:
    """Yield the classes of the picture's pixels as uint8 [rows, width], from its top to its bottom.

    `cells`: scores float32 [classes, h, w]; of one class alone, its pixels are 1 where the score reaches `threshold`,
    else 0; or classes uint8 [h, w].
    """
    across, down = MaskAxis(placement, 0, cells.shape[-1]), MaskAxis(placement, 1, cells.shape[-2])
    height = min(down.size, max(_TILE, _TILE**2 // across.size))
    width = _TILE**2 // height
    for top in range(0, down.size, height):
        rows = down.pixels(top, min(top + height, down.size))
        strip = np.empty((len(rows.low), across.size), np.uint8)
        for left in range(0, across.size, width):
            columns = across.pixels(left, min(left + width, across.size))
            tile = _tile(cells, rows, columns, threshold)
            if not (rows.seen.all() and columns.seen.all()):
                tile[~(rows.seen[:, np.newaxis] & columns.seen)] = NO_CLASS
            strip[:, left : left + width] = tile
        yield strip


def _tile(cells: Array, rows: Pixels, columns: Pixels, threshold: float) -> Array:
    if cells.ndim == 2:
        nearest: Array = cells[rows.nearest[:, np.newaxis], columns.nearest]
        return nearest
    top, left = int(rows.low[0]), int(columns.low[0])
    region = cells[:, top : int(rows.high[-1]) + 1, left : int(columns.high[-1]) + 1]
    rows = rows._replace(low=rows.low - top, high=rows.high - top)
    columns = columns._replace(low=columns.low - left, high=columns.high - left)
    if len(region) == 1:
        reached: Array = (_interpolate(region[0], rows, columns) >= threshold).astype(np.uint8)
        return reached
    # A class that is below another one in all cells is so between them, too.
    candidates = np.flatnonzero(region.max(axis=(1, 2)) >= region.min(axis=(1, 2)).max())
    tile = np.full((len(rows.low), len(columns.low)), candidates[0], np.uint8)
    if len(candidates) == 1:
        return tile
    best = _interpolate(region[candidates[0]], rows, columns)
    for number in candidates[1:]:
        scores = _interpolate(region[number], rows, columns)
        tile[scores > best] = number
        np.maximum(best, scores, out=best)
    return tile


def _interpolate(scores: Array, rows: Pixels, columns: Pixels) -> Array:
    """Return scores [h, w] of cells at pixels."""
    across = scores.take(columns.low, 1)
    across += (scores.take(columns.high, 1) - across) * columns.share
    result = across.take(rows.low, 0)
    result += (across.take(rows.high, 0) - result) * rows.share[:, np.newaxis]
    return result
