"""Read the boxes of AVIF and HEIF files: strip metadata, and find the sizes of all parts that are decoded.

A file declares a size, but its grid, its tiles and the AV1 data in them have sizes of their own, which decoders follow:
3 kB can hold 268 million pixels behind a declared 64 x 64. So the limit of pixels is for each of them.
Pillow and pillow-heif read EXIF and XMP in Python. Both are ignored here: the boxes irot and imir give the orientation.

What is read here is counted: a few bytes can name the same content thousands of times. Steps are counted by
`_Boxes.count`, bytes by `_Boxes.check_bytes`. Content is not copied, except that of an item in several extents.
"""

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from jobs.contract.errors import Refused
from model_runtime.images.av1_sizes import read_number, read_pixel_counts
from model_runtime.images.stripped_image import too_costly_error

MAX_ENTRIES: Final = 20_000  # boxes, entries of tables, AV1 units; a camera's file of 100 tiles has some 1,000
MAX_FRAMES: Final = 100_000  # of an animation
MAX_DECODED_RATIO: Final = 6  # of the pixels of a grid, its tiles and masks to the image's; cameras have up to 4
MAX_CONTENT_RATIO: Final = 2  # of the bytes of all items to the file's, or to _SMALL_FILE; tiles may share bytes
_SMALL_FILE: Final = 1 << 20  # bytes; sharing costs little in smaller files, which may consist of equal tiles
_PADDING: Final = 64  # pixels that encoders add to a side
_METADATA: Final = (b"Exif", b"mime")
_IGNORED: Final = b"skip"  # a type of items that decoders ignore
_AV1, _HEVC, _GRID = b"av01", b"hvc1", b"grid"
_TRACK_PATH: Final = (b"mdia", b"minf", b"stbl")

Box = tuple[bytes, int, int]  # its type, and where its content begins and ends


class HeifFile(NamedTuple):
    """`data`: the file without metadata. `pixels`: of each frame that is decoded, and of a grid."""

    data: bytes
    pixels: Sequence[int]


def strip_file(data: bytes) -> HeifFile:
    """Strip metadata. Raises Refused above a limit, ValueError or IndexError if the file is damaged."""
    boxes, stripped, pixels, metadata_types = _Boxes(data), bytearray(data), list[int](), list[int]()
    top = boxes.children(0, len(data))
    if meta := boxes.only(top, b"meta"):
        items = _Items(boxes, meta)
        pixels += items.decoded_pixels()
        metadata_types += items.metadata_types
    if movie := boxes.only(top, b"moov"):
        for track in boxes.named(movie, b"trak"):
            pixels += boxes.first_frames(track)
            for meta in boxes.named(track, b"meta"):
                metadata_types += _Items(boxes, meta).metadata_types
    for at in metadata_types:
        stripped[at : at + len(_IGNORED)] = _IGNORED
    return HeifFile(bytes(stripped), pixels)


def check_pixels(file: HeifFile, kind: str, size: tuple[int, int], limit: int) -> None:
    """Raise Refused if a part has more than `limit` pixels, or all of them far more than the image of this size."""
    largest, total = max(file.pixels, default=0), sum(file.pixels)
    if largest > max(limit, (size[0] + _PADDING) * (size[1] + _PADDING)):
        message = f"a part of the image has {largest} pixels; the limit is {limit}"
        raise Refused("image_too_many_pixels", message, limit=limit)
    if total > (allowed := MAX_DECODED_RATIO * max(size[0] * size[1], largest)):
        reason = f"the {kind} of {size[0]} x {size[1]} pixels has {total} in {len(file.pixels)} parts"
        raise Refused(
            "invalid_image", f"{reason}; allowed: {allowed}, or a copy saved by an image editor", limit=allowed
        )


class _Boxes:
    """The boxes of a file, counted."""

    def __init__(self, data: bytes) -> None:
        self.data, self._left = data, MAX_ENTRIES

    def number(self, at: int, size: int) -> int:
        return read_number(self.data, at, size)

    def count(self, entries: int) -> int:
        """Count entries against the limit."""
        self._left -= entries
        if self._left < 0:
            raise too_costly_error("file", f"{MAX_ENTRIES} boxes, entries and AV1 units", MAX_ENTRIES)
        return entries

    def check_bytes(self, total: int) -> None:
        """Raise Refused if the items have far more bytes than the file."""
        if total > (most := MAX_CONTENT_RATIO * max(len(self.data), _SMALL_FILE)):
            raise too_costly_error("file", f"{most} bytes in its items", most)

    def children(self, at: int, end: int) -> list[Box]:
        found: list[Box] = []
        while at + 8 <= end:
            self.count(1)
            size, begin = self.number(at, 4), at + 8
            name = self.data[at + 4 : begin]
            if size == 1:
                size, begin = self.number(begin, 8), begin + 8
            stop = at + size if size else end
            if not begin <= stop <= end:
                raise ValueError("a box ends before its content, or after its parent")
            found.append((name, begin, stop))
            at = stop
        return found

    def only(self, boxes: Sequence[Box], name: bytes) -> Box | None:
        """Return the box of a type; None if there is none. Decoders may differ in which of several they take."""
        named = [box for box in boxes if box[0] == name]
        if len(named) > 1:
            raise ValueError("a box occurs twice")
        return named[0] if named else None

    def named(self, parent: Box, name: bytes) -> list[Box]:
        return [box for box in self.children(parent[1], parent[2]) if box[0] == name]

    def first_frames(self, track: Box) -> Iterator[int]:
        """Yield the pixels of the frames in the first sample of a track of an animation."""
        boxes = [track]
        for name in _TRACK_PATH:
            boxes = [child for box in boxes for child in self.named(box, name)]
        for _, begin, stop in boxes:
            tables = self.children(begin, stop)
            sizes, chunks = self.only(tables, b"stsz"), self.only(tables, b"stco") or self.only(tables, b"co64")
            if sizes is None or chunks is None:
                continue
            if self.number(sizes[1] + 8, 4) > MAX_FRAMES:
                raise too_costly_error("animation", f"{MAX_FRAMES} frames", MAX_FRAMES)
            length = self.number(sizes[1] + 4, 4) or self.number(sizes[1] + 12, 4)
            offset = self.number(chunks[1] + 8, 4 if chunks[0] == b"stco" else 8)
            yield from read_pixel_counts(memoryview(self.data)[offset : offset + length], self.count)


class _Items:
    """The items of a box `meta`: images, tiles and metadata. `metadata_types`: where the types of the last are."""

    def __init__(self, boxes: _Boxes, meta: Box) -> None:
        self._boxes, children = boxes, boxes.children(meta[1] + 4, meta[2])
        self.metadata_types: list[int] = []
        found = {name: boxes.only(children, name) for name in (b"pitm", b"iinf", b"iloc", b"iprp", b"iref", b"idat")}
        primary, stored = found[b"pitm"], found[b"idat"]
        self._primary = boxes.number(primary[1] + 4, 4 if boxes.data[primary[1]] else 2) if primary else 0
        self._stored = stored[1] if stored else 0  # where the content of items is that is not in the file's mdat
        self._types = self._read_types(found[b"iinf"])
        self._extents = self._read_locations(found[b"iloc"])
        self._declared = self._read_declared(found[b"iprp"])
        self._tiles, self._masks = self._read_references(found[b"iref"])

    def decoded_pixels(self) -> Iterator[int]:
        """Yield the pixels of what is decoded for the primary item: itself, tiles of a grid, transparency.

        A tile counts as often as its grid names it, because it is decoded as often.
        """
        pending, parts, total = [self._primary], dict[int, list[int]](), 0
        while pending:
            item = pending.pop()
            if item not in parts:
                parts[item] = list(self._pixels(item))
                tiles = self._tiles.get(item, [])
                if any(self._types.get(tile) == _GRID for tile in tiles):
                    raise ValueError("a tile of a grid is a grid")
                pending += tiles
                pending += self._masks.get(item, ())
            self._boxes.count(max(1, len(parts[item])))
            total += sum(end - begin for begin, end in self._extents.get(item, ()))
            self._boxes.check_bytes(total)
            yield from parts[item]

    def _pixels(self, item: int) -> Iterator[int]:
        kind = self._types.get(item, b"")
        if kind == _GRID:
            content = self._content(item)
            side = 4 if content[1] & 1 else 2
            yield read_number(content, 4, side) * read_number(content, 4 + side, side)
        elif kind == _AV1:
            yield from read_pixel_counts(self._content(item), self._boxes.count)
        elif kind == _HEVC:
            yield self._declared.get(item, 0)  # libheif refuses data of another size
        else:
            raise ValueError("the image is of another type")

    def _content(self, item: int) -> memoryview:
        data = memoryview(self._boxes.data)
        parts = [data[begin:end] for begin, end in self._extents.get(item, ())]
        return parts[0] if len(parts) == 1 else memoryview(b"".join(parts))

    def _read_types(self, box: Box | None) -> dict[int, bytes]:
        if box is None:
            return {}
        types, boxes = dict[int, bytes](), self._boxes
        for name, at, _ in boxes.children(box[1] + (8 if boxes.data[box[1]] else 6), box[2]):
            version = boxes.data[at]
            if name == b"infe" and version in {2, 3}:
                side = 2 if version == 2 else 4
                type_at = at + 6 + side
                types[boxes.number(at + 4, side)] = kind = boxes.data[type_at : type_at + 4]
                if kind in _METADATA:
                    self.metadata_types.append(type_at)
        return types

    def _read_locations(self, box: Box | None) -> dict[int, list[tuple[int, int]]]:
        """Return where the extents of each item begin and end."""
        if box is None:
            return {}
        boxes, at = self._boxes, box[1] + 6
        version, sizes = boxes.data[box[1]], boxes.data[box[1] + 4 : box[1] + 6]
        offset_side, length_side, base_side = sizes[0] >> 4, sizes[0] & 15, sizes[1] >> 4
        index_side, side = sizes[1] & 15 if version else 0, 2 if version < 2 else 4
        extents: dict[int, list[tuple[int, int]]] = {}
        entries, at, total = boxes.number(at, side), at + side, 0
        for _ in range(boxes.count(entries)):
            item, at = boxes.number(at, side), at + side
            method = boxes.number(at, 2) & 15 if version else 0
            at += 4 if version else 2
            base, at = boxes.number(at, base_side) + (self._stored if method == 1 else 0), at + base_side
            parts, at = boxes.number(at, 2), at + 2
            extents[item] = []
            for _ in range(boxes.count(parts)):
                at += index_side
                offset, at = boxes.number(at, offset_side), at + offset_side
                length, at = boxes.number(at, length_side), at + length_side
                begin = min(base + offset, len(boxes.data))
                end = min(begin + length, len(boxes.data)) if length else len(boxes.data)
                extents[item].append((begin, end))
                total += end - begin
                boxes.check_bytes(total)
        return extents

    def _read_declared(self, box: Box | None) -> dict[int, int]:
        """Return the largest declared number of pixels of each item."""
        if box is None:
            return {}
        boxes, declared = self._boxes, dict[int, int]()
        children = boxes.children(box[1], box[2])
        properties = boxes.only(children, b"ipco")
        pixels = [
            boxes.number(at + 4, 4) * boxes.number(at + 8, 4) if name == b"ispe" else 0
            for name, at, _ in (boxes.children(*properties[1:]) if properties else ())
        ]
        for _, begin, _ in [child for child in children if child[0] == b"ipma"]:
            item_side = 4 if boxes.data[begin] else 2
            side, at = 2 if boxes.data[begin + 3] & 1 else 1, begin + 8
            for _ in range(boxes.count(boxes.number(begin + 4, 4))):
                item, count = boxes.number(at, item_side), boxes.data[at + item_side]
                at += item_side + 1
                for _ in range(boxes.count(count)):
                    index, at = boxes.number(at, side) & (0x7F if side == 1 else 0x7FFF), at + side
                    if 0 < index <= len(pixels):
                        declared[item] = max(declared.get(item, 0), pixels[index - 1])
        return declared

    def _read_references(self, box: Box | None) -> tuple[dict[int, list[int]], dict[int, list[int]]]:
        """Return by item: the tiles that it is derived from, and its masks."""
        tiles, masks = dict[int, list[int]](), dict[int, list[int]]()
        if box is None:
            return tiles, masks
        boxes = self._boxes
        side = 4 if boxes.data[box[1]] else 2
        for name, at, _ in boxes.children(box[1] + 4, box[2]):
            count = boxes.count(boxes.number(at + side, 2))
            item, first = boxes.number(at, side), at + side + 2
            others = [boxes.number(place, side) for place in range(first, first + side * count, side)]
            if name == b"dimg":
                tiles.setdefault(item, []).extend(others)
            elif name == b"auxl":
                for other in set(others):
                    masks.setdefault(other, []).append(item)
        return tiles, masks
