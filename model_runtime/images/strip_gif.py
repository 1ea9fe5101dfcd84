"""Strips extension blocks before a GIF's first image, except the graphic control block, to bound decoding cost.

Pillow reads each of their blocks in Python, and 32 MB hold millions of one byte.
"""

import re
from typing import Final

from model_runtime.images.stripped_image import StrippedImage, too_costly_error

MOST_BLOCKS: Final = 65_536  # before the picture; a block has at most 255 bytes
MOST_JUNK_BYTES: Final = 1 << 20  # between blocks

_HEAD_BYTES: Final = 13
_BEGINNING: Final = re.compile(rb"[!,;]")  # of an extension, of a picture, of the end
_CONTROL: Final = 0xF9


def strip_file(data: bytes) -> StrippedImage:
    """Take the head, the last control block, and all from the first picture on; raises Refused."""
    flags = data[10] if len(data) > 10 else 0
    at = _HEAD_BYTES + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    head, control = data[:at], b""
    blocks, junk = 0, MOST_JUNK_BYTES
    while (found := _BEGINNING.search(data, at, at + junk + 1)) is not None and found[0] == b"!":
        junk -= found.start() - at
        at = found.end() + 1
        if data[at - 1 : at] == bytes([_CONTROL]):
            control = data[found.start() : at + 1 + (data[at] if at < len(data) else 0)] + b"\0"
        while at < len(data) and (length := data[at]):
            at += 1 + length
            blocks += 1
            if blocks > MOST_BLOCKS:
                raise too_costly_error("GIF", f"{MOST_BLOCKS} blocks before its picture", MOST_BLOCKS)
        at += 1
        blocks += 1
    return StrippedImage(head + control + (data[found.start() :] if found else b""))
