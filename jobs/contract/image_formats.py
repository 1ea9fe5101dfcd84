"""Detects accepted image formats by a file's first bytes; names and headers are not trusted."""

from typing import Final

IMAGE_FORMATS: Final = ("JPEG", "PNG", "WEBP", "GIF", "BMP")


def detect_format(data: bytes) -> str | None:
    """Return the format of an image file; None if it is not one of IMAGE_FORMATS."""
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
