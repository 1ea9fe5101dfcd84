"""Detects accepted image formats by a file's first bytes; names and headers are not trusted."""

from typing import Final

# HEIF, which cameras call HEIC, is decoded only if the extra heic is installed.
IMAGE_FORMATS: Final = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF", "HEIF")
HEAD_BYTES: Final = 64  # of a file, by which formats are told
_AVIF_BRANDS: Final = frozenset({b"avif", b"avis"})
_HEIF_BRANDS: Final = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"})


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
    return _detect_brand(data) if data[4:8] == b"ftyp" else None


def _detect_brand(data: bytes) -> str | None:
    """Return the format of an ISO base media file by its major brand, or else by those that it is compatible with."""
    end = min(int.from_bytes(data[:4], "big"), HEAD_BYTES)
    for at in (8, *range(16, end, 4)):
        brand = data[at : at + 4]
        if brand in _AVIF_BRANDS:
            return "AVIF"
        if brand in _HEIF_BRANDS:
            return "HEIF"
    return None
