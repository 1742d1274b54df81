"""PNG files that are decoded some rows at a time."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from fullyconv.data.images import PNG_MAGIC, READERS, orientation
from fullyconv.data.png import BLOCK_BYTES, chunks, inflated
from fullyconv.data.raster import Kind, Raster

PNG_KINDS: dict[int, tuple[Kind, int]] = {
    0: ("grey", 1),
    2: ("rgb", 3),
    3: ("palette", 1),
    4: ("grey", 2),
    6: ("rgb", 4),
}
EXIF_BYTES = 1 << 16  # that say how a picture lies


def png_blocks(path: Path, size: tuple[int, int]) -> Callable[[int], Iterator[tuple[int, Raster]]] | None:
    """Return what decodes a PNG file of 8 bits that is not interlaced.

    Args:
        path: The file.
        size: Height and width, as its header says.

    Returns:
        Decodes blocks of rows from the one that holds a row on; ``None`` for other files.
    """
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
