"""Strip JPEG metadata before decoding, limit tables and scans, and append a missing end marker.

Pillow reads each segment before the first scan in Python: millions of empty segments, or thousands of tables, would
hold the GIL for seconds. libjpeg passes over all pixels once per scan: 10 kB can hold a hundred scans of 50 million
pixels.
"""

import io
import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from PIL import Image

from model_runtime.images.orientation import EXIF_PREFIX
from model_runtime.images.stripped_image import StrippedImage, too_costly_error

MAX_SEGMENTS: Final = 10_000
MAX_JUNK_BYTES: Final = 1 << 20  # between segments
MAX_TABLE_BYTES: Final = 64 << 10  # of frames and tables before the first scan; an encoder writes about 1 kB
MAX_FILL_BYTES: Final = 65_536  # in scans, if they must be searched for markers
MAX_SCANS: Final = 100
ALWAYS_ALLOWED_SCANS: Final = 20  # encoders write at most a dozen
MAX_SCANNED_PIXELS: Final = 400_000_000  # pixels times scans

_SOI, _EOI, _SOS = b"\xff\xd8", b"\xff\xd9", b"\xff\xda"
_MARKER: Final = re.compile(rb"\xff[^\x00\xff]")
_MARKER_IN_SCAN: Final = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # RST0 to RST7 belong to the scan
_FRAMES: Final = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_TABLES: Final = frozenset({0xC4, 0xCC, 0xDB, 0xDC, 0xDD, 0xDE, 0xDF})  # Huffman, quantization, restarts …
_RESTARTS: Final = frozenset(range(0xD0, 0xD8))
_PROGRESSIVE: Final = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_APP0, _APP1, _APP14, _COM, _SOS_CODE, _EOI_CODE = 0xE0, 0xE1, 0xEE, 0xFE, 0xDA, 0xD9
_WITH_LENGTH: Final = _FRAMES | _TABLES | {*range(_APP0, 0xF0), _COM, _SOS_CODE}
_XMP_PREFIX: Final = b"http://ns.adobe.com/xap/1.0/\0"
# Data to append to a file without its end: the decoded pixels are equal for all tails only if none is missing. The last
# tail has every restart marker, for a file that ends where one is due.
_TAILS: Final = (
    b"",
    b"\x55" * 64,
    b"\xaa" * 64,
    b"".join(b"\xff" + bytes([0xD0 + number]) + b"\x55" * 8 for number in range(8)) * 2,
)


class StrippedJpeg(NamedTuple):
    """`scans_at`: the offset of the first scan in `stripped.data`. `frame`: the frame header's marker code and body."""

    stripped: StrippedImage
    scans_at: int
    frame: tuple[int, bytes]


class _Segment(NamedTuple):
    code: int
    begin: int  # of the marker
    end: int
    body: bytes


def strip_file(data: bytes) -> StrippedJpeg:
    """Keep the segments that affect pixels. Raises Refused above a limit, and ValueError if it is not a JPEG."""
    kept, exif, xmp, frame, tables = [_SOI], b"", b"", (0, b""), 0
    for code, begin, end, body in _segments_before_scan(data):
        if code in _FRAMES or code in _TABLES:
            tables += len(body)
            if tables > MAX_TABLE_BYTES:
                raise too_costly_error(
                    "JPEG", f"{MAX_TABLE_BYTES} bytes of tables before its first scan", MAX_TABLE_BYTES
                )
            frame = (code, body) if code in _FRAMES else frame
            kept.append(data[begin:end])
        elif (code == _APP0 and body.startswith(b"JFIF")) or (code == _APP14 and body.startswith(b"Adobe")):
            kept.append(data[begin:end])  # define the colour space
        elif code == _APP1 and not exif and body.startswith(EXIF_PREFIX):
            exif = body
        elif code == _APP1 and not xmp and body.startswith(_XMP_PREFIX):
            xmp = body
        elif code == _SOS_CODE:
            kept.append(data[begin:])
    return StrippedJpeg(StrippedImage(b"".join(kept), exif, xmp), sum(map(len, kept[:-1])), frame)


def _segments_before_scan(data: bytes) -> Iterator[_Segment]:
    """Yield each segment up to the header of the first scan. Raises ValueError if there is none."""
    at, junk = len(_SOI), MAX_JUNK_BYTES
    for _ in range(MAX_SEGMENTS):
        marker = _MARKER.search(data, at, at + junk + 2)
        if marker is None:
            break
        junk -= marker.start() - at
        code, at = data[marker.end() - 1], marker.end()
        if code in _RESTARTS:  # a marker without a body
            continue
        if code not in _WITH_LENGTH:
            break
        begin, at = at + 2, at + int.from_bytes(data[at : at + 2], "big")
        yield _Segment(code, marker.start(), at, data[begin:at])
        if code == _SOS_CODE:
            return
    else:
        raise too_costly_error("JPEG", f"{MAX_SEGMENTS} segments before its first scan", MAX_SEGMENTS)
    raise ValueError("the file has no scan")


def check_scans(jpeg: StrippedJpeg, pixels: int) -> None:
    """Raise Refused if the file has too many scans for its number of pixels."""
    limit = max(ALWAYS_ALLOWED_SCANS, min(MAX_SCANS, MAX_SCANNED_PIXELS // max(1, pixels)))
    data = jpeg.stripped.data
    if data.count(_SOS, jpeg.scans_at) <= limit:  # may also count bytes after the image, but never too few
        return
    if data.count(b"\xff\xff", jpeg.scans_at) > MAX_FILL_BYTES:
        raise too_costly_error("JPEG", f"{MAX_FILL_BYTES} fill bytes", MAX_FILL_BYTES)
    for number, _ in enumerate(_scans(data, jpeg.scans_at), 1):
        if number > limit:
            raise too_costly_error("JPEG", f"{limit} scans, which is the limit for {pixels} pixels", limit)


def has_end_marker(jpeg: StrippedJpeg) -> bool:
    """Return true if an end marker follows the first scan."""
    return jpeg.stripped.data.rfind(_EOI, jpeg.scans_at) >= 0


def add_end_marker(jpeg: StrippedJpeg) -> bytes:
    """Append the end marker. Raises ValueError if pixels are missing too, or what Pillow raises.

    libjpeg fills in missing pixels without an error. So this decodes with several tails, and compares the pixels.
    """
    data = jpeg.stripped.data
    if data.endswith(b"\xff") or not _is_covered(jpeg):  # after 0xff the next byte is unknown
        raise ValueError("scans are missing")
    first: bytes | None = None
    for tail in _TAILS:
        with Image.open(io.BytesIO(data + tail + _EOI), formats=["JPEG"]) as image:
            pixels = image.tobytes()
        if first is None:
            first = pixels
        elif pixels != first:
            raise ValueError("pixels are missing")
    return data + _EOI


def _scans(data: bytes, at: int) -> Iterator[bytes]:
    """Yield the body of each scan header up to the end of the image."""
    for _ in range(MAX_SEGMENTS):
        marker = _MARKER_IN_SCAN.search(data, at)
        if marker is None or data[marker.end() - 1] == _EOI_CODE:
            return
        begin = marker.end()
        at = begin + int.from_bytes(data[begin : begin + 2], "big")
        if data[begin - 1] == _SOS_CODE:
            yield data[begin + 2 : at]
    raise too_costly_error("JPEG", f"{MAX_SEGMENTS} segments", MAX_SEGMENTS)


def _is_covered(jpeg: StrippedJpeg) -> bool:
    """Return true if the scans contain every coefficient of every component, to its last bit."""
    kind, frame = jpeg.frame
    components = {*frame[6::3]}
    missing = {(component, place) for component in components for place in range(64)}
    for scan in _scans(jpeg.stripped.data, jpeg.scans_at):
        count = scan[0] if scan else 0
        if len(scan) < 2 * count + 4:
            return False
        first, last, bits = scan[2 * count + 1 : 2 * count + 4]
        if kind not in _PROGRESSIVE:
            first, last, bits = 0, 63, 0
        if not bits & 15:
            missing -= {(part, place) for part in scan[1 : 2 * count + 1 : 2] for place in range(first, last + 1)}
    return not missing
