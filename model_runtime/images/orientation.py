"""Read the orientation tag from EXIF or XMP, and return the transpose that turns the image upright.

Pillow's reader copies everything that EXIF entries point at. A small block that points at itself thousands of times
would take it minutes and gigabytes.
"""

import re
import struct
from typing import Final

from PIL.Image import Transpose

_UPRIGHT: Final = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
SIDEWAYS: Final = frozenset(_UPRIGHT[tag] for tag in (5, 6, 7, 8))
EXIF_PREFIX: Final = b"Exif\0\0"
_TAG: Final = 0x0112
_MAX_ENTRIES: Final = 1000  # per directory; cameras write about 20
_FORMATS: Final = {1: "B", 3: "H", 4: "L"}  # BYTE, SHORT and LONG
_XMP: Final = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')
_MAX_XMP_BYTES: Final = 1 << 20


def read_transpose(exif: bytes, xmp: bytes) -> Transpose | None:
    """Return the transpose that turns the image upright; None if it is upright, or has no readable orientation."""
    tag = _exif_orientation(exif)
    if tag is None and (found := _XMP.search(xmp[:_MAX_XMP_BYTES])):
        tag = int(found[1])
    return _UPRIGHT.get(tag or 0)


def _exif_orientation(exif: bytes) -> int | None:
    tiff = exif.removeprefix(EXIF_PREFIX)
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return None
    try:
        (directory,) = struct.unpack_from(f"{order}L", tiff, 4)
        (count,) = struct.unpack_from(f"{order}H", tiff, directory)
        entry = struct.Struct(f"{order}HHL4s")
        for at in range(min(count, _MAX_ENTRIES)):
            tag, kind, values, data = entry.unpack_from(tiff, directory + 2 + at * entry.size)
            if tag == _TAG:
                if values != 1 or kind not in _FORMATS:
                    return None
                return int(struct.unpack_from(order + _FORMATS[kind], data)[0])
    except struct.error:  # truncated
        return None
    return None
