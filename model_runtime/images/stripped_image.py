"""Define the result of stripping an image file (data, EXIF, XMP), and the error for files too costly to read."""

from typing import NamedTuple

from jobs.contract.errors import Refused


class StrippedImage(NamedTuple):
    """`data` decodes to the same first image as the original file. `exif`, `xmp`: raw metadata, b"" if absent."""

    data: bytes
    exif: bytes = b""
    xmp: bytes = b""


def too_costly_error(kind: str, what: str, limit: int) -> Refused:
    """Return the error for a file that would take too long to read."""
    reason = (
        f"the {kind} has more than {what}: reading it would take too long; allowed: a copy saved by an image editor"
    )
    return Refused("invalid_image", reason, limit=limit)
