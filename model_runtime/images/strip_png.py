"""Strips ancillary PNG chunks except tRNS, limits chunks and compressed text, and extracts EXIF and XMP.

What is packed in them is not unpacked, and their damage is no reason to refuse the picture. Chunks are counted: Pillow
looks at each in Python, and 32 MB hold millions of empty ones.
"""

import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

from model_runtime.images.stripped_image import StrippedImage, too_costly_error

MOST_CHUNKS: Final = 10_000
BYTES_A_CHUNK: Final = 1024  # one more for so many bytes of the file; encoders write chunks of 8 kB and more
MOST_TEXT_BYTES: Final = 1 << 20
MOST_UNPACKED: Final = 16  # texts that may be large
MOST_LARGE_TEXTS: Final = 2  # that unpack to more than that; a program writes one, such as XMP

_HEAD: Final = struct.Struct(">L4s")
_FRAME_BYTES: Final = 12  # length, name and checksum
_ANCILLARY: Final = 0x20  # of the name's first letter
_SIGNATURE_BYTES: Final = 8
_MOST_RATIO: Final = 1032  # of what deflate unpacks to what it takes
_TRNS_BYTES: Final = {0: 2, 2: 6}  # least, by colour type: grey and true colour
_TEXTS: Final = (b"tEXt", b"zTXt", b"iTXt")
_EXIF_KEY, _XMP_KEY = b"Raw profile type exif", b"XML:com.adobe.xmp"


def strip_file(data: bytes) -> StrippedImage:
    """Take what makes pixels; raises Refused where there are too many chunks, or too much text is packed in them."""
    kept, notes, colours = [data[:_SIGNATURE_BYTES]], _Notes(), -1
    begin = _SIGNATURE_BYTES  # of the stretch that is kept as a whole
    for name, at, end in _chunks(data):
        if not name[0] & _ANCILLARY:
            if name == b"IHDR" and at + 17 < end:
                colours = data[at + 17]
            continue
        whole = end <= len(data) and zlib.crc32(data[at + 4 : end - 4]) == int.from_bytes(data[end - 4 : end], "big")
        if name == b"tRNS" and whole and end - at - _FRAME_BYTES >= _TRNS_BYTES.get(colours, 1):
            continue
        kept.append(data[begin:at])
        begin = end
        if whole:
            notes.add(name, data[at + 8 : end - 4])
    if len(kept) == 1:
        return StrippedImage(data, notes.exif, notes.xmp)
    return StrippedImage(b"".join([*kept, data[begin:]]), notes.exif, notes.xmp)


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Give each chunk's name, and where it begins and ends; the last may end behind the data."""
    at, most = _SIGNATURE_BYTES, MOST_CHUNKS + len(data) // BYTES_A_CHUNK
    for _ in range(most):
        if at + _HEAD.size > len(data):
            return
        length, name = _HEAD.unpack_from(data, at)
        if not (name.isalpha() or name.replace(b"_", b"0").isalnum()):
            return  # no name of a chunk: Pillow stops here too
        yield name, at, at + _FRAME_BYTES + length
        if name == b"IEND":
            return
        at += _FRAME_BYTES + length
    raise too_costly_error("PNG", f"{most} chunks", most)


class _Notes:
    """What may say which way up the picture is, the first of each."""

    def __init__(self) -> None:
        self._found: dict[bytes, bytes] = {}
        self._unpacked = self._large = 0

    @property
    def exif(self) -> bytes:
        if _EXIF_KEY in self._found and b"eXIf" not in self._found:
            return _of_raw_profile(self._found[_EXIF_KEY])
        return self._found.get(b"eXIf", b"")

    @property
    def xmp(self) -> bytes:
        return self._found.get(_XMP_KEY, b"")

    def add(self, name: bytes, body: bytes) -> None:
        """Look at an ancillary chunk that is not damaged; raises Refused."""
        if name == b"eXIf":
            self._found.setdefault(name, body)
        if name not in _TEXTS:
            return
        key, _, rest = body.partition(b"\0")
        is_wanted = key in (_EXIF_KEY, _XMP_KEY) and key not in self._found
        may_be_large = len(rest) >= MOST_TEXT_BYTES // _MOST_RATIO and self._unpacked < MOST_UNPACKED
        if not (is_wanted or may_be_large):
            return
        self._unpacked += 1
        try:
            text, is_large = _text(name, rest)
        except (zlib.error, IndexError):
            return
        if is_wanted:
            self._found[key] = text
        self._large += is_large
        if self._large > MOST_LARGE_TEXTS:
            what = f"{MOST_LARGE_TEXTS} texts that unpack to more than {MOST_TEXT_BYTES} bytes"
            raise too_costly_error("PNG", what, MOST_LARGE_TEXTS)


def _text(name: bytes, rest: bytes) -> tuple[bytes, bool]:
    """A text, as far as it may go, and whether what is packed went on."""
    is_packed = name == b"zTXt" or (name == b"iTXt" and rest[0] == 1)
    if name == b"zTXt":
        rest = rest[1:]  # behind the method
    elif name == b"iTXt":
        rest = rest[2:].split(b"\0", 2)[2]  # behind flag and method, the language and the key's translation
    if not is_packed:
        return rest[:MOST_TEXT_BYTES], False
    unpacker = zlib.decompressobj()
    return unpacker.decompress(rest, MOST_TEXT_BYTES), bool(unpacker.unconsumed_tail)


def _of_raw_profile(text: bytes) -> bytes:
    """EXIF as ImageMagick writes it: a line break, "exif", its size, and then hexadecimal lines."""
    with suppress(ValueError):
        return bytes.fromhex(b"".join(text.split(b"\n")[3:]).decode("ascii"))
    return b""
