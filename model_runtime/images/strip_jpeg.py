"""Strips JPEG metadata before decoding, limits tables and scans, and appends a missing end marker.

Pillow looks at each segment before the picture in Python: millions of empty ones, or thousands of tables, would hold
the interpreter's lock for seconds. libjpeg passes over all pixels once for each scan: a hundred scans of 50 million
pixels fit into 10 kB.
"""

import io
import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from PIL import Image

from model_runtime.images.orientation import EXIF_PREFIX
from model_runtime.images.stripped_image import StrippedImage, too_costly_error

MOST_SEGMENTS: Final = 10_000
MOST_JUNK_BYTES: Final = 1 << 20  # between segments
MOST_TABLE_BYTES: Final = 64 << 10  # of frames and tables before the first scan; an encoder writes about 1 kB
MOST_FILL: Final = 65_536  # fill bytes of the scans, where these have to be looked through
MOST_SCANS: Final = 100
USUAL_SCANS: Final = 20  # always read; encoders write a dozen at most
MOST_SCANNED_PIXELS: Final = 400_000_000  # pixels times scans

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
# What is put behind a file that breaks off: only where no pixel is missing does it decode alike with each of them. The
# last has every restart marker, for a file that breaks off where one is due.
_TAILS: Final = (
    b"",
    b"\x55" * 64,
    b"\xaa" * 64,
    b"".join(b"\xff" + bytes([0xD0 + number]) + b"\x55" * 8 for number in range(8)) * 2,
)


class StrippedJpeg(NamedTuple):
    """`slim.data` has its first scan at `scans_at`; `frame` is the kind of its frame and what the frame says."""

    stripped: StrippedImage
    scans_at: int
    frame: tuple[int, bytes]


class _Segment(NamedTuple):
    code: int
    begin: int  # of its marker
    end: int
    body: bytes


def strip_file(data: bytes) -> StrippedJpeg:
    """Take what makes pixels; raises Refused where the rest is too much, and ValueError for what is no JPEG."""
    kept, exif, xmp, frame, tables = [_SOI], b"", b"", (0, b""), 0
    for code, begin, end, body in _segments_before_scan(data):
        if code in _FRAMES or code in _TABLES:
            tables += len(body)
            if tables > MOST_TABLE_BYTES:
                raise too_costly_error(
                    "JPEG", f"{MOST_TABLE_BYTES} bytes of tables before its picture", MOST_TABLE_BYTES
                )
            frame = (code, body) if code in _FRAMES else frame
            kept.append(data[begin:end])
        elif (code == _APP0 and body.startswith(b"JFIF")) or (code == _APP14 and body.startswith(b"Adobe")):
            kept.append(data[begin:end])  # they say what the colours mean
        elif code == _APP1 and not exif and body.startswith(EXIF_PREFIX):
            exif = body
        elif code == _APP1 and not xmp and body.startswith(_XMP_PREFIX):
            xmp = body
        elif code == _SOS_CODE:
            kept.append(data[begin:])
    return StrippedJpeg(StrippedImage(b"".join(kept), exif, xmp), sum(map(len, kept[:-1])), frame)


def _segments_before_scan(data: bytes) -> Iterator[_Segment]:
    """Give each segment up to the first scan's header; raises ValueError where that does not come."""
    at, junk = len(_SOI), MOST_JUNK_BYTES
    for _ in range(MOST_SEGMENTS):
        found = _MARKER.search(data, at, at + junk + 2)
        if found is None:
            break
        junk -= found.start() - at
        code, at = data[found.end() - 1], found.end()
        if code in _RESTARTS:  # they stand alone
            continue
        if code not in _WITH_LENGTH:
            break
        begin, at = at + 2, at + int.from_bytes(data[at : at + 2], "big")
        yield _Segment(code, found.start(), at, data[begin:at])
        if code == _SOS_CODE:
            return
    else:
        raise too_costly_error("JPEG", f"{MOST_SEGMENTS} segments before its picture", MOST_SEGMENTS)
    message = "there is no scan"
    raise ValueError(message)


def check_scans(jpeg: StrippedJpeg, pixels: int) -> None:
    """Raise Refused where decoding would pass over the pixels too often."""
    most = max(USUAL_SCANS, min(MOST_SCANS, MOST_SCANNED_PIXELS // max(1, pixels)))
    data = jpeg.stripped.data
    if data.count(_SOS, jpeg.scans_at) <= most:  # some of these may stand in other data, behind the picture
        return
    if data.count(b"\xff\xff", jpeg.scans_at) > MOST_FILL:
        raise too_costly_error("JPEG", f"{MOST_FILL} fill bytes", MOST_FILL)
    for number, _ in enumerate(_scans(data, jpeg.scans_at), 1):
        if number > most:
            raise too_costly_error("JPEG", f"{most} scans, which is the limit for {pixels} pixels", most)


def has_end_marker(jpeg: StrippedJpeg) -> bool:
    """Tell whether an end marker follows the first scan."""
    return jpeg.stripped.data.rfind(_EOI, jpeg.scans_at) >= 0


def add_end_marker(jpeg: StrippedJpeg) -> bytes:
    """Give a file without its end marker one; raises ValueError where pixels are missing too, and what Pillow raises.

    libjpeg makes up what is missing and does not tell. So it decodes with several tails, which must change nothing.
    """
    data = jpeg.stripped.data
    if data.endswith(b"\xff") or not _is_covered(jpeg):  # which marker, or byte of a scan, was to follow is unknown
        message = "scans are missing"
        raise ValueError(message)
    first: bytes | None = None
    for tail in _TAILS:
        with Image.open(io.BytesIO(data + tail + _EOI), formats=["JPEG"]) as image:
            pixels = image.tobytes()
        if first is None:
            first = pixels
        elif pixels != first:
            message = "pixels are missing"
            raise ValueError(message)
    return data + _EOI


def _scans(data: bytes, at: int) -> Iterator[bytes]:
    """What each scan's header says, up to the picture's end."""
    for _ in range(MOST_SEGMENTS):
        found = _MARKER_IN_SCAN.search(data, at)
        if found is None or data[found.end() - 1] == _EOI_CODE:
            return
        begin = found.end()
        at = begin + int.from_bytes(data[begin : begin + 2], "big")
        if data[begin - 1] == _SOS_CODE:
            yield data[begin + 2 : at]
    raise too_costly_error("JPEG", f"{MOST_SEGMENTS} segments", MOST_SEGMENTS)


def _is_covered(jpeg: StrippedJpeg) -> bool:
    """Whether the scans bring every coefficient of every component, to its last bit."""
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
