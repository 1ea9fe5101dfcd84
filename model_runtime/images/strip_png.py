"""Strip ancillary PNG chunks except tRNS, limit chunks and compressed text, and extract EXIF and XMP.

Damaged ancillary chunks do not make the image invalid. Chunks are counted because Pillow reads each in Python, and
32 MB hold millions of empty chunks.
"""

import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

from model_runtime.images.stripped_image import StrippedImage, too_costly_error

MAX_CHUNKS: Final = 10_000
BYTES_PER_EXTRA_CHUNK: Final = 1024  # of the file; encoders write chunks of 8 kB and more
MAX_TEXT_BYTES: Final = 1 << 20
MAX_UNPACKED_TEXTS: Final = 16  # texts that may be large
MAX_LARGE_TEXTS: Final = 2  # texts above MAX_TEXT_BYTES; programs write one, such as XMP

_CHUNK_HEADER: Final = struct.Struct(">L4s")
_CHUNK_OVERHEAD: Final = 12  # length, name and checksum
_ANCILLARY: Final = 0x20  # bit in the first letter of the name
_SIGNATURE_BYTES: Final = 8
_MAX_DEFLATE_RATIO: Final = 1032  # unpacked to packed size
_TRNS_BYTES: Final = {0: 2, 2: 6}  # minimum size by colour type: grey and true colour
_TEXTS: Final = (b"tEXt", b"zTXt", b"iTXt")
_EXIF_KEY, _XMP_KEY = b"Raw profile type exif", b"XML:com.adobe.xmp"


def strip_file(data: bytes) -> StrippedImage:
    """Keep the chunks that affect pixels. Raises Refused if there are too many chunks, or too much compressed text."""
    kept, metadata, colour_type = [data[:_SIGNATURE_BYTES]], _Metadata(), -1
    begin = _SIGNATURE_BYTES  # of the bytes to keep
    for name, at, end in _chunks(data):
        if not name[0] & _ANCILLARY:
            if name == b"IHDR" and at + 17 < end:
                colour_type = data[at + 17]
            continue
        intact = end <= len(data) and zlib.crc32(data[at + 4 : end - 4]) == int.from_bytes(data[end - 4 : end], "big")
        if name == b"tRNS" and intact and end - at - _CHUNK_OVERHEAD >= _TRNS_BYTES.get(colour_type, 1):
            continue
        kept.append(data[begin:at])
        begin = end
        if intact:
            metadata.add(name, data[at + 8 : end - 4])
    if len(kept) == 1:
        return StrippedImage(data, metadata.exif, metadata.xmp)
    return StrippedImage(b"".join([*kept, data[begin:]]), metadata.exif, metadata.xmp)


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, begin and end of each chunk; the last may end beyond the data."""
    at, limit = _SIGNATURE_BYTES, MAX_CHUNKS + len(data) // BYTES_PER_EXTRA_CHUNK
    for _ in range(limit):
        if at + _CHUNK_HEADER.size > len(data):
            return
        length, name = _CHUNK_HEADER.unpack_from(data, at)
        if not (name.isalpha() or name.replace(b"_", b"0").isalnum()):
            return  # not a chunk name: Pillow stops here too
        yield name, at, at + _CHUNK_OVERHEAD + length
        if name == b"IEND":
            return
        at += _CHUNK_OVERHEAD + length
    raise too_costly_error("PNG", f"{limit} chunks", limit)


class _Metadata:
    """The first chunk of each kind that may contain the orientation."""

    def __init__(self) -> None:
        self._found: dict[bytes, bytes] = {}
        self._unpacked = self._large = 0

    @property
    def exif(self) -> bytes:
        if _EXIF_KEY in self._found and b"eXIf" not in self._found:
            return _decode_raw_profile(self._found[_EXIF_KEY])
        return self._found.get(b"eXIf", b"")

    @property
    def xmp(self) -> bytes:
        return self._found.get(_XMP_KEY, b"")

    def add(self, name: bytes, body: bytes) -> None:
        """Record an intact ancillary chunk. Raises Refused if there is too much compressed text."""
        if name == b"eXIf":
            self._found.setdefault(name, body)
        if name not in _TEXTS:
            return
        key, _, rest = body.partition(b"\0")
        is_needed = key in (_EXIF_KEY, _XMP_KEY) and key not in self._found
        may_be_large = len(rest) >= MAX_TEXT_BYTES // _MAX_DEFLATE_RATIO and self._unpacked < MAX_UNPACKED_TEXTS
        if not (is_needed or may_be_large):
            return
        self._unpacked += 1
        try:
            text, is_large = _text(name, rest)
        except (zlib.error, IndexError):
            return
        if is_needed:
            self._found[key] = text
        self._large += is_large
        if self._large > MAX_LARGE_TEXTS:
            what = f"{MAX_LARGE_TEXTS} texts that unpack to more than {MAX_TEXT_BYTES} bytes"
            raise too_costly_error("PNG", what, MAX_LARGE_TEXTS)


def _text(name: bytes, rest: bytes) -> tuple[bytes, bool]:
    """Return at most MAX_TEXT_BYTES of a text, and whether the compressed text is longer."""
    is_packed = name == b"zTXt" or (name == b"iTXt" and rest[0] == 1)
    if name == b"zTXt":
        rest = rest[1:]  # after the compression method
    elif name == b"iTXt":
        rest = rest[2:].split(b"\0", 2)[2]  # after flag and method, language and translated key
    if not is_packed:
        return rest[:MAX_TEXT_BYTES], False
    unpacker = zlib.decompressobj()
    return unpacker.decompress(rest, MAX_TEXT_BYTES), bool(unpacker.unconsumed_tail)


def _decode_raw_profile(text: bytes) -> bytes:
    """Decode EXIF as ImageMagick writes it: a line break, "exif", the size, and lines of hexadecimal digits."""
    with suppress(ValueError):
        return bytes.fromhex(b"".join(text.split(b"\n")[3:]).decode("ascii"))
    return b""
