"""Reads the orientation tag from EXIF or XMP, and returns the transpose that turns the image upright.

Pillow's own reader copies everything that a block's entries point at, and a small block may point at itself thousands
of times: gigabytes, and minutes.
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
_MOST_ENTRIES: Final = 1000  # of a directory; cameras write some twenty
_FORMATS: Final = {1: "B", 3: "H", 4: "L"}  # BYTE, SHORT and LONG
_XMP: Final = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')
_MOST_XMP_BYTES: Final = 1 << 20


def read_transpose(exif: bytes, xmp: bytes) -> Transpose | None:
    """Return what makes the picture upright; None where it is upright already or nothing readable says otherwise."""
    tag = _of_exif(exif)
    if tag is None and (found := _XMP.search(xmp[:_MOST_XMP_BYTES])):
        tag = int(found[1])
    return _UPRIGHT.get(tag or 0)


def _of_exif(exif: bytes) -> int | None:
    tiff = exif.removeprefix(EXIF_PREFIX)
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return None
    try:
        (directory,) = struct.unpack_from(f"{order}L", tiff, 4)
        (count,) = struct.unpack_from(f"{order}H", tiff, directory)
        entry = struct.Struct(f"{order}HHL4s")
        for at in range(min(count, _MOST_ENTRIES)):
            tag, kind, values, data = entry.unpack_from(tiff, directory + 2 + at * entry.size)
            if tag == _TAG:
                if values != 1 or kind not in _FORMATS:
                    return None
                return int(struct.unpack_from(order + _FORMATS[kind], data)[0])
    except struct.error:  # cut short
        return None
    return None
