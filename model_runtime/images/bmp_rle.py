"""Decode run-length BMPs for Pillow at bounded cost; Pillow's own decoder can take seconds for 1 kB of input.

This decoder yields the same pixels, with one step per code and a limit on the bytes of codes.
"""

from typing import Final

from PIL import Image, ImageFile

from jobs.contract.errors import Refused

MAX_CODE_BYTES: Final = 1 << 20
# Line ends and jumps skip pixels, so that 6 bytes of codes may claim 50 million pixels. Real files skip few pixels, and
# a run of two bytes has at most 255.
PIXELS_PER_BYTE: Final = 128
ALWAYS_ALLOWED_PIXELS: Final = 4 << 20
_END_OF_LINE, _END, _DELTA = 0, 1, 2


class BmpRle(ImageFile.PyDecoder):
    """Replaces Pillow's decoder `bmp_rle` for RLE8, and for RLE4 if its second argument is true."""

    _pulls_fd = True

    def decode(self, buffer: Image.DecoderInput) -> tuple[int, int]:  # noqa: ARG002 - it reads the file itself
        """Decode the image. Raises Refused if the data is too long, and ValueError if it does not fill the image."""
        if self.fd is None:
            raise ValueError("the decoder has no file")
        begin = self.fd.tell()
        codes = self.fd.read(MAX_CODE_BYTES + 1)
        if len(codes) > MAX_CODE_BYTES:
            reason = f"the BMP has more than {MAX_CODE_BYTES} bytes of run-length data"
            raise Refused(
                "invalid_image", f"{reason}; allowed: a BMP without compression, or a PNG", limit=MAX_CODE_BYTES
            )
        _check_pixels((self.state.xsize, self.state.ysize), len(codes))
        pixels = unpack(codes, (self.state.xsize, self.state.ysize), is_rle4=bool(self.args[1]), begin=begin)
        self.set_as_raw(bytes(pixels), "L" if self.mode in {"1", "L"} else "P", (0, self.args[-1]))
        return -1, 0


def check_size(image: Image.Image, file_bytes: int) -> None:
    """Raise Refused if a BMP that is not loaded yet has too many pixels for run-length codes in a file of this size.

    Pillow allocates and clears all pixels before it decodes: 40 ms for 50 million, in which no other thread runs.
    """
    for codec, _, offset, *_ in image.tile:  # type: ignore[attr-defined] # of files
        if codec == "bmp_rle":
            _check_pixels(image.size, file_bytes - offset)


def _check_pixels(size: tuple[int, int], code_bytes: int) -> None:
    allowed = max(ALWAYS_ALLOWED_PIXELS, PIXELS_PER_BYTE * code_bytes)
    if size[0] * size[1] > allowed:
        reason = f"the BMP has {size[0]} x {size[1]} pixels in {code_bytes} bytes of codes"
        limit = f"allowed: {PIXELS_PER_BYTE} pixels per byte, a BMP without compression, or a PNG"
        raise Refused("invalid_image", f"{reason}; {limit}", limit=allowed)


def unpack(codes: bytes, size: tuple[int, int], *, is_rle4: bool, begin: int = 0) -> bytearray:
    """Decode codes to one byte per pixel, in stored row order. The result is shorter if the codes end early.

    `begin`: the file offset of the codes, as literal runs are padded to even offsets.
    """
    width, total = size[0], size[0] * size[1]
    pixels = bytearray(total)
    end, at, done, column = len(codes), 0, 0, 0  # `done`: number of pixels written
    while done < total and at + 1 < end:
        count, value = codes[at], codes[at + 1]
        at += 2
        if count:
            room = min(max(0, min(count, width - column)), total - done)
            if is_rle4:
                pixels[done : done + room] = (bytes((value >> 4, value & 15)) * 128)[:room]
            elif value:
                pixels[done : done + room] = codes[at - 1 : at] * room
            done, column = done + room, column + room
        elif value == _END_OF_LINE:
            done, column = min(total, -(-done // width) * width), 0
        elif value == _END:
            break
        elif value == _DELTA:
            jump = codes[at : at + 2]
            if len(jump) < 2:
                break
            done = min(total, done + jump[0] + jump[1] * width)
            at, column = at + 2, done % width
        else:
            count = min(total - done, value)
            literal, taken = _literal(codes, at, count, is_rle4=is_rle4)
            if len(literal) < count:
                break
            pixels[done : done + count] = literal
            done, column = done + count, column + value
            at += taken + ((begin + at + taken) & 1)
    del pixels[done:]
    return pixels


def _literal(codes: bytes, at: int, count: int, *, is_rle4: bool) -> tuple[bytes, int]:
    """Return the pixels of a literal run, and the number of bytes they take."""
    if not is_rle4:
        return codes[at : at + count], count
    taken = (count + 1) // 2
    return bytes(half for byte in codes[at : at + taken] for half in (byte >> 4, byte & 15))[:count], taken


def register() -> None:
    """Register the decoder with Pillow."""
    Image.register_decoder("bmp_rle", BmpRle)
