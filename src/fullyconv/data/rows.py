"""Pictures that are too large to be held: read from the top to the bottom, some rows at a time."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from fullyconv.data.images import READERS, orientation, rgb, unreadable, warn_of
from fullyconv.data.nothing import NO_DATA, no_data
from fullyconv.data.png import BLOCK_BYTES, chunks, inflated
from fullyconv.data.raster import Kind, Raster
from fullyconv.data.tiff import check_page, is_tiff, mask_page, only_page, outside, raster_of
from fullyconv.files import BadFile
from fullyconv.limits import LIMITS

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage

ORIENTATION, PNG_MAGIC = 274, READERS[0][0]
PNG_KINDS: dict[int, tuple[Kind, int]] = {
    0: ("grey", 1),
    2: ("rgb", 3),
    3: ("palette", 1),
    4: ("grey", 2),
    6: ("rgb", 4),
}
EXIF_BYTES = 1 << 16  # that say how a picture lies
CONVERT = "save it as TIFF in tiles or strips, or as plain PNG (both of 8 bits), or give more --memory"

Blocks = Callable[[int], Iterator[tuple[int, Raster]]]
"""Decodes blocks of rows from the one that holds a row on: (the block's first row, its numbers)."""


class Rows:
    """A picture as RGB that is read from the top to the bottom; what has been passed is not kept.

    Args:
        path: The file.
        size: Its height and width.
        blocks: Decodes it.
        holes: Whether the file says which pixels hold nothing.

    ``picture[first:last, left:right]`` reads rows, and remembers those from ``first`` on; going back reads anew.
    """

    def __init__(self, path: Path, size: tuple[int, int], blocks: Blocks, *, holes: bool = False) -> None:
        self.path, self.shape, self.holes = path, (*size, 3), holes
        self._decode = blocks
        self._blocks: Iterator[tuple[int, Raster]] | None = None
        self._held: list[tuple[int, Any, Any]] = []  # first row, colours, which hold nothing
        self._piece: tuple[int, int, np.ndarray] | None = None

    def __getitem__(self, index: tuple[slice, slice]) -> np.ndarray:
        """Read a piece, h x w x 3 uint8."""
        first, last, _ = index[0].indices(self.shape[0])
        if self._piece is None or self._piece[:2] != (first, last):
            self._fetch(first, last)
            self._piece = first, last, self._stacked(0, first, last)
        return self._piece[2][:, index[1]]

    def empty(self, first: int, last: int) -> np.ndarray | None:
        """Return which pixels of rows that are held hold nothing, h x W bool; ``None`` where the file cannot say."""
        return self._stacked(1, first, last) if self.holes else None

    def _stacked(self, which: int, first: int, last: int) -> np.ndarray:
        parts: list[Any] = [
            (colours, empty)[which][max(first - start, 0) : last - start]
            for start, colours, empty in self._held
            if start < last and start + len(colours) > first
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _fetch(self, first: int, last: int) -> None:
        """Hold the rows, and forget those before them."""
        reached = self._held[-1][0] + len(self._held[-1][1]) if self._held else 0
        if self._blocks is None or (self._held and first < self._held[0][0]) or first > reached:
            self._blocks, self._held = self._decode(first), []
        self._held = [block for block in self._held if block[0] + len(block[1]) > first]
        while not self._held or self._held[-1][0] + len(self._held[-1][1]) < last:
            try:
                start, raster = next(self._blocks)
            except StopIteration:
                raise BadFile(self.path, "truncated", "copy or download it again, or leave it out") from None
            except MemoryError:
                raise
            except Exception as error:  # decoders raise many kinds for broken files
                raise error if isinstance(error, BadFile) else unreadable(self.path, error) from None
            warn_of(raster)
            nothing = raster.missing if raster.missing is not None else np.zeros(raster.values.shape[:2], np.bool_)
            if start + len(raster.values) > first:
                self._held.append((start, rgb(raster, self.path), nothing))


def open_rows(path: Path, budget: int, *, per_pixel: int = 16) -> Rows | None:
    """Open a picture that is too large to be read whole.

    Args:
        path: The file.
        budget: Bytes that a picture, its labels and what is made of them may take.
        per_pixel: Bytes that they take, per pixel.

    Returns:
        The picture; ``None`` where it fits, and for what is no picture.

    Raises:
        BadFile: For one that does not fit and cannot be read by rows.
    """
    try:
        size = picture_size(path)
    except Exception:  # whoever reads it says what is wrong
        return None
    if size is None or size[0] * size[1] * per_pixel <= budget:
        return None
    if size[0] * size[1] > LIMITS.streamed_pixels:
        raise BadFile(path, f"{size[1]} x {size[0]} pixels", LIMITS.remedy("streamed_pixels"))
    try:
        blocks, holes = _tiff_blocks(path) if is_tiff(path) else (_png_blocks(path, size), False)
    except Exception as error:
        raise unreadable(path, error) from None
    if blocks is None:
        needed = f"{size[0] * size[1] * per_pixel / 2**30:.1f} GiB"
        what = f"{size[1]} x {size[0]} pixels, read as a whole, take {needed}; it may have {budget >> 20} MiB"
        raise BadFile(path, what, CONVERT)
    return Rows(path, size, blocks, holes=holes)


def picture_size(path: Path) -> tuple[int, int] | None:
    """Return the height and width that a picture's header says; ``None`` for what is no picture."""
    if is_tiff(path):
        from tifffile import TiffFile

        with TiffFile(path, _multifile=False) as file:
            page = only_page(file)
            return int(page.imagelength), int(page.imagewidth)
    with path.open("rb") as opened:
        head = opened.read(1 << 12)
    reader = next((reader for magic, reader in READERS if head.startswith(magic)), None)
    if reader is None:
        return None
    with reader(str(path)) as picture:
        return picture.height, picture.width


def _tiff_blocks(path: Path) -> tuple[Blocks | None, bool]:
    """Return what decodes a TIFF file, strip by strip or tiles side by side; and whether it says what holds nothing."""
    from tifffile import TiffFile

    with TiffFile(path, _multifile=False) as file:
        page = only_page(file)
        check_page(page, file, pixels=LIMITS.streamed_pixels)
        if page.dtype != np.uint8 or page.bitspersample != 8 or page.tags.valueof(ORIENTATION, 1) != 1:
            return None, False
        segment = page.tilelength * page.imagewidth if page.is_tiled else page.rowsperstrip * page.imagewidth
        if segment > LIMITS.pixels:
            return None, False  # in one strip
        mask = mask_page(page, file, pixels=LIMITS.streamed_pixels)
        holes = mask is not None or no_data(page.tags.valueof(NO_DATA)) is not None

    def blocks(first: int) -> Iterator[tuple[int, Raster]]:
        with TiffFile(path, _multifile=False) as file:
            page = only_page(file)
            mask, high = mask_page(page, file, pixels=LIMITS.streamed_pixels), _rows_of_segment(page)
            for row in range(first // high, -(-page.imagelength // high)):
                raster = raster_of(page, _tiff_row(page, file, row, high))
                yield row * high, raster if mask is None else outside(raster, _mask_rows(mask, file, row * high, high))

    return blocks, holes


def _rows_of_segment(page: TiffPage) -> int:
    return int(page.tilelength if page.is_tiled else page.rowsperstrip)


def _mask_rows(mask: TiffPage, file: TiffFile, top: int, count: int) -> np.ndarray:
    """Decode some rows of a mask, whose segments may be of another size than the picture's: h x W."""
    high, bottom = _rows_of_segment(mask), min(top + count, mask.imagelength)
    rows = range(top // high, -(-bottom // high))
    found = np.concatenate([_tiff_row(mask, file, row, high) for row in rows])
    return found[top - rows[0] * high : bottom - rows[0] * high, :, 0]


def _tiff_row(page: TiffPage, file: TiffFile, row: int, high: int) -> np.ndarray:
    """Decode the segments of a row of tiles, or a strip: h x W x C."""
    height, width, samples = page.imagelength, page.imagewidth, page.samplesperpixel
    found = np.full((min(high, height - row * high), width, samples), page.nodata, np.uint8)
    wide = page.tilewidth if page.is_tiled else width
    across, down = -(-width // wide), -(-height // high)
    planes = samples if page.planarconfig == 2 else 1
    options: dict[str, Any] = {} if page.jpegtables is None else {"jpegtables": page.jpegtables}
    for plane in range(planes):
        for column in range(across):
            index = (plane * down + row) * across + column
            file.filehandle.seek(page.dataoffsets[index])
            data = file.filehandle.read(page.databytecounts[index])
            decoded = page.decode(data, index, **options)[0] if data else None
            if decoded is None:
                continue  # left out by its writer: "no data", or zeros
            piece = np.asarray(decoded)[0, : len(found), : width - column * wide]
            channels = slice(plane, plane + 1) if planes > 1 else slice(None)
            found[: len(piece), column * wide : column * wide + piece.shape[1], channels] = piece
    return found


def _png_blocks(path: Path, size: tuple[int, int]) -> Blocks | None:
    """Return what decodes a PNG file of 8 bits that is not interlaced."""
    with path.open("rb") as file:
        if file.read(8) != PNG_MAGIC:
            return None
        header, palette = _png_header(file)
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", header)
    if depth != 8 or interlaced or (height, width) != size or colour not in PNG_KINDS or _turned(path):
        return None
    kind, channels = PNG_KINDS[colour]
    usual = {"grey": 1, "palette": 1}.get(kind, 3)
    colours = None if palette is None else np.frombuffer(palette, np.uint8).reshape(-1, 3)

    def blocks(first: int) -> Iterator[tuple[int, Raster]]:
        start = 0
        with path.open("rb") as file:
            for lines in _png_lines(file, height, width * channels):
                values = lines.reshape(len(lines), width, channels)
                if start + len(lines) > first:
                    clear = bool((values[..., usual:] != 255).any())
                    shown = np.ascontiguousarray(values[..., :usual])
                    yield start, Raster(shown, kind, palette=colours, transparent=clear)
                start += len(lines)

    return blocks


def _turned(path: Path) -> bool:
    with READERS[0][1](str(path)) as picture, path.open("rb") as file:
        if "Raw profile type exif" not in picture.info:  # which ImageMagick writes as text before the pixels
            found = (file.read(min(length, EXIF_BYTES)) for kind, length in chunks(file) if kind == b"eXIf")
            picture.info["exif"] = next(found, b"")  # else Pillow decodes the whole picture to look for it behind
        return orientation(picture) != 1


def _png_header(file: BinaryIO) -> tuple[bytes, bytes | None]:
    header, palette = b"", None
    for kind, length in chunks(file):
        if kind == b"IHDR":
            header = file.read(min(length, 13))
        elif kind == b"PLTE":
            palette = file.read(min(length, 768))
        elif kind == b"IDAT":
            break
    if len(header) != 13:
        raise ValueError("no header")
    return header, palette


def _png_lines(file: BinaryIO, height: int, line: int) -> Iterator[np.ndarray]:
    """Unpack rows of bytes, some at a time, h x ``line`` uint8."""
    from fullyconv.data.unfilter import undo_filters

    file.seek(24)
    depth_and_colour = file.read(2)
    step = PNG_KINDS[depth_and_colour[1]][1]
    rows = max(1, BLOCK_BYTES // (line + 1))
    above = np.zeros(line, np.uint8)
    buffer, done = bytearray(), 0
    for unpacked in inflated(file):
        buffer += unpacked
        while done < height and len(buffer) >= (count := min(rows, height - done)) * (line + 1):
            block = np.frombuffer(buffer[: count * (line + 1)], np.uint8).reshape(count, line + 1)
            del buffer[: count * (line + 1)]
            found = np.empty((count, line), np.uint8)
            if not undo_filters(block, above, step, found):
                raise ValueError("a row with a filter that PNG does not have")
            above = found[-1].copy()
            done += count
            yield found
