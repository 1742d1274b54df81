"""What a PNG file holds, without decoding it: its chunks, and how much they unpack to."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

BLOCK_BYTES = 1 << 22  # that are unpacked at once
READ_BYTES = 1 << 20  # that are read at once
SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of a pixel, by the colour type
PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""Adam7's pictures within the picture: first column and row, and the steps to the next (PNG specification, 8.2)."""


def chunks(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Go through the chunks: kind and length; the file stands at the chunk's contents."""
    file.seek(8)
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        place = file.tell()
        yield kind, length
        file.seek(place + length + 4)
        if kind == b"IEND":
            return


def inflated(file: BinaryIO) -> Iterator[bytes]:
    """Unpack what the picture's chunks hold, some at a time; raises ``ValueError`` where they are cut off."""
    unpacker = zlib.decompressobj()
    for kind, length in chunks(file):
        while kind == b"IDAT" and length:
            data = file.read(min(length, READ_BYTES))
            if not data:
                raise ValueError("truncated")
            length -= len(data)
            while data:
                yield unpacker.decompress(data, BLOCK_BYTES)
                data = unpacker.unconsumed_tail
    yield unpacker.flush()


def holds_all_rows(path: Path) -> bool:
    """Return whether the rows that a file's header claims are in it.

    Pillow takes one whose compressed rows end too early, and leaves the rest 0.
    """
    with path.open("rb") as file:
        file.seek(16)
        width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", file.read(13))
        missing = claimed_bytes(width, height, depth * SAMPLES[colour], interlaced=bool(interlaced))
        for block in inflated(file):
            missing -= len(block)
            if missing <= 0:
                return True
    return False


def claimed_bytes(width: int, height: int, bits: int, *, interlaced: bool) -> int:
    """Return how many bytes the rows of a picture are, each behind the number of its filter.

    Args:
        width: Of the picture, pixels.
        height: Likewise.
        bits: Of a pixel.
        interlaced: Whether it is stored as Adam7's seven pictures.

    >>> claimed_bytes(10, 2, 1, interlaced=False), claimed_bytes(1, 1, 24, interlaced=True)
    (6, 4)
    """
    sizes = [(width, height)]
    if interlaced:
        sizes = [(-((x - width) // right), -((y - height) // down)) for x, y, right, down in PASSES]
    return sum(high * (1 + (wide * bits + 7) // 8) for wide, high in sizes if wide > 0 and high > 0)
