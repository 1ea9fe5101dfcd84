"""Defines the result of stripping an image file (data, EXIF, XMP), and the error for files too costly to read."""

from typing import NamedTuple

from jobs.contract.errors import Refused


class StrippedImage(NamedTuple):
    """`data` decodes to the same first picture as the whole file. `exif`, `xmp`: as they were found, b"" without."""

    data: bytes
    exif: bytes = b""
    xmp: bytes = b""


def too_costly_error(kind: str, what: str, limit: int) -> Refused:
    """Refuse a file that would take too long to read."""
    reason = (
        f"the {kind} has more than {what}: reading it would take too long; allowed: a copy saved by an image editor"
    )
    return Refused("invalid_image", reason, limit=limit)
