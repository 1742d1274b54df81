"""Pictures that are too large to be held: read from the top to the bottom, some rows at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fullyconv.data.images import READERS, VOIDED, picture_levels, unreadable, warn_of
from fullyconv.data.pngrows import png_blocks
from fullyconv.data.raster import COLOURS, Raster, Refused, check_level, white_level
from fullyconv.data.stores import open_store, said
from fullyconv.data.tiff import is_tiff, mask_page, nothing_of, outside, raster_of
from fullyconv.data.tiff_header import MOST_BYTES, check_page
from fullyconv.data.tiff_pages import page_at
from fullyconv.files import BadFile, is_store
from fullyconv.limits import LIMITS
from fullyconv.types import Levels

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage

ORIENTATION = 274
CONVERT = "save it as TIFF in tiles or strips, as Zarr, or as plain PNG of 8 bits, or give more --memory"

Blocks = Callable[[int], Iterator[tuple[int, Raster]]]
"""Decodes blocks of rows from the one that holds a row on: (the block's first row, its numbers)."""


@dataclass(frozen=True)
class Sight:
    """What a network sees of files.

    Attributes:
        levels: How deep numbers become levels; ``None``: of each picture by its own white.
        channels: Of the network.
        level: Which of a picture's sizes, 0 the full one.
    """

    levels: Levels | None = None
    channels: int = COLOURS
    level: int = 0

    @property
    def page(self) -> int | None:
        """Which page of several is read."""
        pages = None if self.levels is None else self.levels.pages
        return pages if isinstance(pages, int) else None

    @property
    def by_rows(self) -> bool:
        """Whether pictures may be read by rows: all channels are in one page of one file."""
        if self.levels is None:
            return self.channels == COLOURS
        return not self.levels.beside and self.levels.pages != "channels"


class Rows:
    """A picture as a network sees it, read from the top to the bottom; what has been passed is not kept.

    Args:
        path: The file.
        size: Its height and width.
        blocks: Decodes it.
        sight: What the network sees of it.
        holes: Whether the file says which pixels hold nothing.

    ``picture[first:last, left:right]`` reads rows, and remembers those from ``first`` on; going back reads anew.
    """

    def __init__(self, path: Path, size: tuple[int, int], blocks: Blocks, *, sight: Sight, holes: bool = False) -> None:
        self.path, self.shape, self.sight, self.holes = path, (*size, sight.channels), sight, holes
        self._decode, self._levels = blocks, sight.levels
        self._blocks: Iterator[tuple[int, Raster]] | None = None
        self._held: list[tuple[int, Any, Any]] = []  # first row, colours, which hold nothing
        self._piece: tuple[int, int, np.ndarray] | None = None

    def __getitem__(self, index: tuple[slice, slice]) -> np.ndarray:
        """Read a piece, h x w x channels uint8."""
        first, last, _ = index[0].indices(self.shape[0])
        if self._piece is None or self._piece[:2] != (first, last):
            self.fetch(first, last)
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

    def fetch(self, first: int, last: int) -> None:
        """Hold the rows from ``first`` to the one before ``last``, and forget those before them."""
        if first >= last:
            return
        reached = self._held[-1][0] + len(self._held[-1][1]) if self._held else 0
        if self._blocks is None or (self._held and first < self._held[0][0]) or first > reached:
            self._blocks, self._held = self._decode(first), []
        self._held = [block for block in self._held if block[0] + len(block[1]) > first]
        while not self._held or self._held[-1][0] + len(self._held[-1][1]) < last:
            try:
                start, raster = next(self._blocks)
            except StopIteration:
                raise BadFile(self.path, "truncated", "copy or download it again, or leave it out") from None
            warn_of(raster, self.path, VOIDED)
            nothing = raster.missing if raster.missing is not None else np.zeros(raster.values.shape[:2], np.bool_)
            if start + len(raster.values) > first:
                self._held.append((start, self._seen(raster), nothing))

    def _seen(self, raster: Raster) -> np.ndarray:
        if self._levels is None and raster.deep and raster.kind != "bands":
            self._levels = _own_white(self._decode, self.path)
        return picture_levels(raster, self.path, self._levels, self.sight.channels)


def open_rows(path: Path, budget: int, sight: Sight = Sight(), *, per_pixel: int = 16) -> Rows | None:
    """Open a picture that is too large to be read whole.

    Deep numbers without ``levels`` are read twice: first all of them, for the picture's own white.

    Args:
        path: The file, or the folder of a Zarr store.
        budget: Bytes that a picture, its labels and what is made of them may take.
        sight: What the network sees of it.
        per_pixel: Bytes that they take, per pixel.

    Returns:
        The picture; ``None`` where it fits, and for what is no picture.

    Raises:
        BadFile: For one that does not fit and cannot be read by rows.
    """
    try:
        size = picture_size(path, sight)
    except Exception:  # whoever reads it says what is wrong
        return None
    if size is None or size[0] * size[1] * per_pixel <= budget:
        return None
    if size[0] * size[1] > LIMITS.streamed_pixels:
        raise BadFile(path, f"{size[1]} x {size[0]} pixels", LIMITS.remedy("streamed_pixels"))
    blocks, holes = _blocks(path, size, sight)
    if blocks is None:
        needed = f"{size[0] * size[1] * per_pixel / 2**30:.1f} GiB"
        what = f"{size[1]} x {size[0]} pixels, read as a whole, take {needed}; it may have {budget >> 20} MiB"
        raise BadFile(path, what, CONVERT)
    return Rows(path, size, blocks, sight=sight, holes=holes)


def picture_size(path: Path, sight: Sight = Sight()) -> tuple[int, int] | None:
    """Return the height and width that a picture's header says; ``None`` for what is no picture."""
    if is_store(path):
        return open_store(path, sight.level, LIMITS.streamed_pixels).size
    if not path.is_file():
        return None  # a pipe would be waited for
    if is_tiff(path):
        from tifffile import TiffFile

        with TiffFile(path, _multifile=False) as file:
            page = page_at(file, sight.level, sight.page)
            return int(page.imagelength), int(page.imagewidth)
    with path.open("rb") as opened:
        head = opened.read(1 << 12)
    reader = next((reader for magic, reader in READERS if head.startswith(magic)), None)
    if reader is None:
        return None
    with reader(str(path)) as picture:
        check_level(sight.level, [(picture.height, picture.width)])
        return picture.height, picture.width


def refuse_level(paths: Iterable[Path], sight: Sight) -> None:
    """Refuse a level that none of some pictures has, before anything is made of them.

    Args:
        paths: The pictures; where one of them has it, or cannot be opened, whoever reads them says what is wrong.
        sight: What the network sees of them.

    Raises:
        BadFile: For the first, with the levels that it has.
    """
    first: BadFile | None = None
    for path in paths:
        try:
            picture_size(path, sight)
        except Refused as error:
            first = first or BadFile(path, error.what, error.fix)
        except BadFile as bad:
            first = first or bad
        except Exception:  # decoders raise many kinds for broken files
            return
        else:
            return
    if first is not None:
        raise first


def _blocks(path: Path, size: tuple[int, int], sight: Sight) -> tuple[Blocks | None, bool]:
    """Return what decodes a picture, ``None`` for what is read whole, and whether it says which pixels hold nothing.

    Whatever decoders raise is said as ``BadFile``.
    """
    telling = said if is_store(path) else _told
    with telling(path):
        decode, holes = _decoder(path, size, sight)
    if decode is None:
        return None, False

    def blocks(first: int) -> Iterator[tuple[int, Raster]]:
        with telling(path):
            yield from decode(first)

    return blocks, holes


def _decoder(path: Path, size: tuple[int, int], sight: Sight) -> tuple[Blocks | None, bool]:
    if is_store(path):
        return _store_blocks(path, sight)
    if is_tiff(path):
        return _tiff_blocks(path, sight)
    return None if sight.level else png_blocks(path, size), False


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except (BadFile, MemoryError):
        raise
    except Exception as error:  # decoders raise many kinds for broken files
        raise unreadable(path, error) from None


def _own_white(blocks: Blocks, path: Path) -> Levels:
    """Find what is white in a picture of deep numbers, by looking at all of them."""
    ends: list[np.ndarray] = []
    bits = 0
    for _, raster in blocks(0):
        bits, values = raster.bits, raster.filled().values
        ends = [np.array([each(array) for array in (*ends, values)]) for each in (np.min, np.max)]
    try:
        return Levels(((0.0, white_level(np.array(ends), bits)),))
    except ValueError as error:
        raise BadFile(path, str(error), "rescale it to 8 or 16 bit") from None


def _store_blocks(path: Path, sight: Sight) -> tuple[Blocks, bool]:
    """Return what unpacks a Zarr store, chunks side by side; and whether it says what holds nothing."""
    found = open_store(path, sight.level, LIMITS.streamed_pixels)

    def blocks(first: int) -> Iterator[tuple[int, Raster]]:
        for row in range(first // found.high * found.high, found.size[0], found.high):
            yield row, found.read(row, min(row + found.high, found.size[0]))

    return blocks, found.holes


def _tiff_blocks(path: Path, sight: Sight) -> tuple[Blocks | None, bool]:
    """Return what decodes a TIFF file, strip by strip or tiles side by side; and whether it says what holds nothing."""
    from tifffile import TiffFile

    with TiffFile(path, _multifile=False) as file:
        page = page_at(file, sight.level, sight.page)
        check_page(page, file, pixels=LIMITS.streamed_pixels)
        kind = page.dtype
        if kind is None or page.bitspersample != 8 * kind.itemsize or page.tags.valueof(ORIENTATION, 1) != 1:
            return None, False
        if _rows_of_segment(page) * page.size // page.imagelength * kind.itemsize > MOST_BYTES * LIMITS.pixels:
            return None, False  # in one strip
        mask, nothing = mask_page(page, file, pixels=LIMITS.streamed_pixels), nothing_of(file, page)
        holes = mask is not None or nothing is not None or kind.kind == "f"

    def blocks(first: int) -> Iterator[tuple[int, Raster]]:
        with TiffFile(path, _multifile=False) as file:
            page = page_at(file, sight.level, sight.page)
            mask, high = mask_page(page, file, pixels=LIMITS.streamed_pixels), _rows_of_segment(page)
            for row in range(first // high, -(-page.imagelength // high)):
                raster = raster_of(page, _tiff_row(page, file, row, high), nothing)
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
    found = np.full((min(high, height - row * high), width, samples), page.nodata, page.dtype)
    wide = page.tilewidth if page.is_tiled else width
    across, down = -(-width // wide), -(-height // high)
    planes = samples if page.planarconfig == 2 else 1
    tables = {"jpegtables": page.jpegtables, "jpegheader": page.jpegheader}
    options: dict[str, Any] = {name: table for name, table in tables.items() if table is not None}
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
