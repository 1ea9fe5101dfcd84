"""Strip extension blocks before a GIF's first image, except the graphic control block, to bound decoding cost.

Pillow reads each extension block in Python, and 32 MB hold millions of one-byte blocks.
"""

import re
from typing import Final

from model_runtime.images.stripped_image import StrippedImage, too_costly_error

MAX_BLOCKS: Final = 65_536  # before the image; a block has at most 255 bytes
MAX_JUNK_BYTES: Final = 1 << 20  # between blocks

_HEADER_BYTES: Final = 13
_BLOCK_START: Final = re.compile(rb"[!,;]")  # an extension, an image, the trailer
_CONTROL: Final = 0xF9


def strip_file(data: bytes) -> StrippedImage:
    """Keep the header, the last control block, and everything from the first image on. Raises Refused."""
    flags = data[10] if len(data) > 10 else 0
    at = _HEADER_BYTES + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    header, control = data[:at], b""
    blocks, junk = 0, MAX_JUNK_BYTES
    while (start := _BLOCK_START.search(data, at, at + junk + 1)) is not None and start[0] == b"!":
        junk -= start.start() - at
        at = start.end() + 1
        if data[at - 1 : at] == bytes([_CONTROL]):
            control = data[start.start() : at + 1 + (data[at] if at < len(data) else 0)] + b"\0"
        while at < len(data) and (length := data[at]):
            at += 1 + length
            blocks += 1
            if blocks > MAX_BLOCKS:
                raise too_costly_error("GIF", f"{MAX_BLOCKS} blocks before its first image", MAX_BLOCKS)
        at += 1
        blocks += 1
    return StrippedImage(header + control + (data[start.start() :] if start else b""))
