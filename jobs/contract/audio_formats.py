"""Detects accepted audio formats by a file's first bytes; names and headers are not trusted."""

from typing import Final

AUDIO_FORMATS: Final = ("WAV", "FLAC", "OGG", "MP3")
MEDIA_TYPES: Final = {"WAV": "audio/wav", "FLAC": "audio/flac", "OGG": "audio/ogg", "MP3": "audio/mpeg"}
_TAG_BYTES: Final = 10  # of the header of an ID3v2 tag, and of its footer


def detect_format(data: bytes) -> str | None:
    """Return the format of an audio file, which may have an ID3v2 tag first; None if it is not one of AUDIO_FORMATS."""
    start = tag_size(data)
    if start and start >= len(data):
        return "MP3"  # as far as these bytes tell
    head = data[start : start + 12]
    if head[:4] == b"RIFF" and head[8:12] == b"WAVE":
        return "WAV"
    if head.startswith(b"fLaC"):
        return "FLAC"
    if head.startswith(b"OggS"):
        return "OGG"
    return "MP3" if _is_mp3_frame(head) else None


def tag_size(data: bytes) -> int:
    """Return the bytes of the ID3v2 tag that a file begins with, by the tag's own header; 0 if there is none."""
    if not data.startswith(b"ID3") or len(data) < _TAG_BYTES:
        return 0
    size = 0
    for byte in data[6:10]:  # 7 bits each
        size = size << 7 | byte & 0x7F
    has_footer = data[5] & 0x10
    return size + (2 * _TAG_BYTES if has_footer else _TAG_BYTES)


def _is_mp3_frame(head: bytes) -> bool:
    """Return whether a frame of MPEG audio begins here: 11 bits, a version, the layer III, and rates that exist."""
    return (
        len(head) > 3
        and head[0] == 0xFF
        and head[1] & 0xE0 == 0xE0
        and head[1] & 0x18 != 0x08
        and head[1] & 0x06 == 0x02
        and head[2] & 0xF0 != 0xF0
        and head[2] & 0x0C != 0x0C
    )
