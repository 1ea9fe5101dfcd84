"""Which image formats are taken, told by a file's first bytes: a name or a header is only somebody's word."""

from typing import Final

IMAGE_FORMATS: Final = ("JPEG", "PNG", "WEBP", "GIF", "BMP")


def detect_format(data: bytes) -> str | None:
    """Name the format of an image file; None where it is not one of FORMATS."""
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if data.startswith(b"BM"):
        return "BMP"
    return None
