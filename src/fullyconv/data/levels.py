"""The range of numbers that the pictures of a data set become levels 0..255 by, and how many channels they have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from fullyconv.data.channels import read_channels
from fullyconv.data.images import PNG_MAGIC
from fullyconv.data.pairs import Pair
from fullyconv.data.raster import COLOURS, Raster, white_level
from fullyconv.data.tiff import is_tiff
from fullyconv.files import BadFile
from fullyconv.types import Levels

DEEP = (".tif", ".tiff", ".png", ".jp2", ".dcm")  # what can hold more than 8 bits or more than colours
FITTED = 200  # pictures, at even distances, that a range is fitted on
SAMPLED = 20_000  # pixels of each
ENDS = (0.1, 99.9)  # percentiles between which numbers are spread where they do not fill their type
BETWEEN = 0.2  # of the pixels: so many that are neither clear nor opaque are a channel that is called alpha

Pages = int | Literal["channels"] | None


def fit_levels(pairs: Sequence[Pair], pages: Pages = None, beside: tuple[str, ...] = ()) -> tuple[Levels | None, int]:
    """Find out how the images of training pairs are to be read.

    Numbers of 8 bits are levels already. Deeper ones fill their type if the brightest in a thousand reach half of
    what is white by ``white_level``, over all pictures: that is then 255, and 0 is 0. Otherwise the range between the
    0.1 and 99.9 percentiles of all pictures becomes 0..255, what a GeoTIFF calls "no data" aside: one range
    for grey and colours, one for each band of pictures that have others.
    A fourth band that is called alpha, but holds a picture, is one of these.

    Args:
        pairs: The training pairs.
        pages: Of files of several pages, which one, or all as ``channels``.
        beside: Where further channels of each picture lie, see ``Levels``.

    Returns:
        The ranges, ``None`` where all pictures are colours of 8 bits, and the number of channels.
    """
    unfitted = Levels(((0.0, 255.0),), pages, beside)
    candidates = [pair for pair in pairs if beside or pair.image.suffix.lower() in DEEP]
    with ThreadPoolExecutor() as pool:
        deep = [
            pair for pair, found in zip(candidates, pool.map(_may_be_deep, candidates), strict=True) if beside or found
        ]
        chosen = deep[:: max(1, -(-len(deep) // FITTED))]
        looks = [each for each in pool.map(lambda pair: _look(pair.image, unfitted), chosen) if each is not None]
    if not looks:
        return (unfitted if beside else None), COLOURS
    channels = Counter(each.channels for each in looks).most_common(1)[0][0]
    alike = [each for each in looks if each.channels == channels and (each.stretched or channels != COLOURS)]
    if not alike:
        return (None if pages is None else unfitted), COLOURS
    together = channels == COLOURS and not all(each.banded for each in alike)
    numbers = np.concatenate([each.numbers.reshape(-1, 1 if together else channels) for each in alike])
    bits = max(each.bits for each in alike)
    ranges = tuple(fit_range(band, bits) for band in numbers.T)
    return replace(unfitted, ranges=ranges[:1] if channels == COLOURS and len(set(ranges)) == 1 else ranges), channels


def fit_range(numbers: np.ndarray, bits: int) -> tuple[float, float]:
    """Choose the numbers that become 0 and 255.

    >>> fit_range(np.array([0, 40_000], np.uint16), 16), fit_range(np.array([0.0, 0.9]), 64)
    ((0.0, 65535.0), (0.0, 1.0))
    >>> fit_range(np.full(9, -3.0), 64)
    (-3.0, -2.0)
    """
    finite = numbers[np.isfinite(numbers)] if numbers.dtype.kind == "f" else numbers
    if not finite.size:
        return 0.0, 1.0
    low, high = (float(value) for value in np.percentile(finite, ENDS))
    white = _white(finite, bits)
    if white is not None and (bits <= 8 or high >= white / 2):
        return 0.0, white
    return (low, high) if low < high else (low, low + 1)


def _white(numbers: np.ndarray, bits: int) -> float | None:
    """Return what is white by the rule for single pictures, ``None`` where it has none."""
    try:
        return white_level(numbers, bits)
    except ValueError:
        return None


def channels_of(raster: Raster) -> int:
    """Return how many channels a network needs to see a picture: 3 for grey and colours."""
    count = raster.bands().shape[2] if raster.kind == "bands" or _is_picture(raster.alpha) else COLOURS
    return max(count, COLOURS)  # a second band stands for the third, too


def _is_picture(alpha: np.ndarray | None) -> bool:
    """Return whether a band that is called alpha holds what no alpha does: levels in between all over."""
    if alpha is None:
        return False
    values = alpha[:: max(1, len(alpha) // 100)]
    return bool(((values > values.min()) & (values < values.max())).mean() > BETWEEN)


def _may_be_deep(pair: Pair) -> bool:
    """Tell from the header of a PNG; other formats are read."""
    if not pair.image.is_file():  # a pipe would be waited for
        return False
    try:
        with pair.image.open("rb") as file:
            head = file.read(26)
        if head.startswith(PNG_MAGIC):
            return head[24] > 8
        return pair.image.suffix.lower() != ".png" or is_tiff(pair.image)
    except (OSError, IndexError):
        return False


@dataclass(frozen=True)
class _Look:
    """Some pixels of a picture, N x C; ``bits`` of whole numbers, 64 of others; whether they need a range, each one."""

    channels: int
    numbers: np.ndarray
    bits: int
    stretched: bool
    banded: bool


def _look(path: Path, unfitted: Levels) -> _Look | None:
    try:
        raster = read_channels(path, unfitted)
    except BadFile:
        return None  # whoever reads all pairs complains of it
    channels = channels_of(raster)
    banded = raster.kind == "bands"
    numbers = raster.channels(channels) if banded or channels > COLOURS else raster.values
    # -9999 at the border of a map would be black, all else white
    pixels = numbers.reshape(-1, numbers.shape[2]) if raster.missing is None else numbers[~raster.missing]
    sampled = pixels[:: max(1, len(pixels) // SAMPLED)].copy()
    bits = raster.bits if numbers.dtype.kind in "bu" else 64
    return _Look(channels, sampled, bits, raster.deep or banded, banded)
