"""Pixels stored as lengths of runs: COCO's (plain or packed in text), CVAT's, and Label Studio's brush; or as a PNG.

Decoders of our own: pycocotools trusts what a file claims (a size of gigabytes, runs past the end).
"""

from __future__ import annotations

import base64
import binascii
import io
import zlib
from collections.abc import Sequence

import numpy as np
from PIL import PngImagePlugin

from fullyconv.limits import LIMITS

CHANNELS = 4  # of Label Studio's brush: RGBA, of which the last says what is painted
LONGEST = 12  # letters of one number in COCO's text: 60 bits


def column_runs(counts: Sequence[int], height: int, width: int) -> np.ndarray:
    """Unfold COCO's runs, which go down the columns and begin with what is outside.

    Returns:
        H x W bool.

    Raises:
        ValueError: For runs that do not fill the picture.

    >>> column_runs([1, 2, 3], 2, 3).astype(int).tolist()
    [[0, 1, 0], [1, 0, 0]]
    """
    return row_runs(counts, width, height).T


def row_runs(counts: Sequence[int], height: int, width: int) -> np.ndarray:
    """Unfold CVAT's runs, which go along the rows and begin with what is outside; as ``column_runs``."""
    if height * width > LIMITS.pixels:
        raise ValueError(f"runs for {width} x {height} pixels")
    if min(counts, default=-1) < 0 or sum(counts) != height * width:
        raise ValueError(f"runs of {sum(counts)} pixels for {height} x {width}")
    lengths = np.array(counts, np.int64)
    return np.repeat(np.arange(len(lengths)) % 2 == 1, lengths).reshape(height, width)


def packed_counts(text: str) -> list[int]:
    """Read the runs that COCO packs into text.

    Five bits a letter, the lowest first, the sixth says whether more follow; from the third on, a number is the
    difference to the last but one.

    Raises:
        ValueError: For text that is none.

    >>> packed_counts("05401")
    [0, 5, 4, 5, 5]
    """
    counts: list[int] = []
    value = shift = 0
    for letter in text:
        bits = ord(letter) - 48
        if not 0 <= bits < 64 or shift >= 5 * LONGEST:
            raise ValueError(f"packed runs with {letter!r} in them" if shift < 5 * LONGEST else "a run without end")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (1 << shift) if bits & 16 else 0
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    if shift:
        raise ValueError("packed runs that are cut off")
    return counts


def brush_pixels(data: Sequence[int], height: int, width: int) -> np.ndarray:
    """Unfold Label Studio's brush: runs of RGBA bytes, packed bit by bit; what is not transparent is painted.

    Returns:
        H x W bool.

    Raises:
        ValueError: For data that is broken or of another size.
    """
    if height * width > LIMITS.pixels:
        raise ValueError(f"a brush for {width} x {height} pixels")
    try:
        bits = _Bits(bytes(data))
        total, word = bits.read(32), bits.read(5) + 1
        sizes = [bits.read(4) + 1 for _ in range(4)]
        if total != CHANNELS * height * width or word != 8:
            raise ValueError(f"a brush of {total} numbers of {word} bits for {width} x {height} pixels")
        return _unfold(bits, total, sizes).reshape(height, width, CHANNELS)[..., CHANNELS - 1] > 0
    except (EOFError, OverflowError):
        raise ValueError("a brush that is cut off") from None


def png_pixels(data: str, *, packed: bool = False) -> np.ndarray:
    """Read a PNG that is written in base 64 (Supervisely's are ``packed`` by zlib besides).

    Returns:
        What is not 0 and not transparent, H x W bool.

    Raises:
        ValueError: For what is broken or too large.
    """
    try:
        file = base64.b64decode(data, validate=True)
        if packed:
            file = zlib.decompressobj().decompress(file, LIMITS.array_bytes)
        picture = PngImagePlugin.PngImageFile(io.BytesIO(file))
        if picture.width * picture.height > LIMITS.pixels:
            raise ValueError(f"{picture.width} x {picture.height} pixels")
        pixels = np.asarray(picture.convert("RGBA") if picture.mode in ("RGBA", "LA", "PA") else picture)
    except (binascii.Error, zlib.error, SyntaxError, OSError, EOFError) as error:
        raise ValueError(f"a bitmap that is broken ({error})") from None
    inside: np.ndarray = (pixels[..., 3] if pixels.ndim == 3 else pixels) > 0
    return inside


def _unfold(bits: _Bits, total: int, sizes: Sequence[int]) -> np.ndarray:
    out, at = np.empty(total, np.uint8), 0
    while at < total:
        same = bits.read(1)
        end = at + 1 + bits.read(sizes[bits.read(2)])
        if end > total:
            raise ValueError("a brush that runs past its end")
        if same:
            out[at:end] = bits.read(8)
        else:
            out[at:end] = bits.read_bytes(end - at)
        at = end
    return out


class _Bits:
    """Bits of bytes, the highest first."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def read(self, count: int) -> int:
        first, self._at = self._at, self._at + count
        if self._at > 8 * len(self._data):
            raise EOFError
        word = int.from_bytes(self._data[first // 8 : (self._at + 7) // 8], "big")
        return word >> (-self._at % 8) & ((1 << count) - 1)

    def read_bytes(self, count: int) -> np.ndarray:
        return np.frombuffer(self.read(8 * count).to_bytes(count, "big"), np.uint8)
