"""Decodes run-length BMPs for Pillow at bounded cost; Pillow's own decoder can take seconds for 1 kB of input.

This one takes the same data to the same pixels with one step a code, and the bytes of code are bounded.
"""

from typing import Final

from PIL import Image, ImageFile

from jobs.contract.errors import Refused

MOST_BYTES: Final = 1 << 20
# A code of two bytes is a run of 255 pixels at most; ends of lines and jumps leave out any number, which real files do
# for little. Without a bound 6 bytes are 50 million pixels.
PIXELS_A_BYTE: Final = 128
PIXELS_ANYWAY: Final = 4 << 20
_END_OF_LINE, _END, _DELTA = 0, 1, 2


class BmpRle(ImageFile.PyDecoder):
    """Replaces Pillow's `bmp_rle`: RLE8, and RLE4 where its second argument says so."""

    _pulls_fd = True

    def decode(self, buffer: Image.DecoderInput) -> tuple[int, int]:  # noqa: ARG002 - it reads the file itself
        """Decode all; raises Refused where the data is too long, ValueError where it does not fill the picture."""
        if self.fd is None:
            message = "there is no file"
            raise ValueError(message)
        begin = self.fd.tell()
        codes = self.fd.read(MOST_BYTES + 1)
        if len(codes) > MOST_BYTES:
            reason = f"the BMP has more than {MOST_BYTES} bytes of run-length data"
            raise Refused("invalid_image", f"{reason}; allowed: a BMP without compression, or a PNG", limit=MOST_BYTES)
        allowed = max(PIXELS_ANYWAY, PIXELS_A_BYTE * len(codes))
        if self.state.xsize * self.state.ysize > allowed:
            reason = f"the BMP has {self.state.xsize} x {self.state.ysize} pixels in {len(codes)} bytes of codes"
            limit = f"allowed: {PIXELS_A_BYTE} pixels a byte, a BMP without compression, or a PNG"
            raise Refused("invalid_image", f"{reason}; {limit}", limit=allowed)
        pixels = unpack(codes, (self.state.xsize, self.state.ysize), is_rle4=bool(self.args[1]), begin=begin)
        self.set_as_raw(bytes(pixels), "L" if self.mode in {"1", "L"} else "P", (0, self.args[-1]))
        return -1, 0


def unpack(codes: bytes, size: tuple[int, int], *, is_rle4: bool, begin: int = 0) -> bytearray:
    """Codes → one byte a pixel, row after row as they are stored, as far as they go.

    `begin`: where the codes lie in the file, for literal runs are padded to even places of it.
    """
    width, total = size[0], size[0] * size[1]
    pixels = bytearray(total)
    end, at, done, column = len(codes), 0, 0, 0  # `done`: pixels that are written
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
    """Pixels that stand there as they are, and how many bytes they take."""
    if not is_rle4:
        return codes[at : at + count], count
    taken = (count + 1) // 2
    return bytes(half for byte in codes[at : at + taken] for half in (byte >> 4, byte & 15))[:count], taken


def register() -> None:
    """Let Pillow use it."""
    Image.register_decoder("bmp_rle", BmpRle)
