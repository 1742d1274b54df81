"""The stored numbers of a picture file, and the colours that they stand for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from PIL import Image

from fullyconv.types import Levels

Kind = Literal["grey", "rgb", "palette", "cmyk", "bands"]
COLOURS = 3

BAND_PX = 1 << 22  # colours are computed so many pixels at a time: temporaries stay small beside the result
LEAST = -1e30  # below any range, and multiplied still a number
DARKEST_WHITE = 16  # of 255: a picture of deep numbers none of which reaches this is refused, not shown black

UPRIGHT = {  # what undoes each EXIF orientation: swap rows and columns, then walk rows and columns backwards
    1: (False, 1, 1), 2: (False, 1, -1), 3: (False, -1, -1), 4: (False, -1, 1),
    5: (True, 1, 1), 6: (True, 1, -1), 7: (True, -1, -1), 8: (True, -1, 1),
}  # fmt: skip


CHOOSE_PAGES = (
    "choose one, pages=0 ('--set pages=0', 'data check --pages 0'), or take all as channels, pages=channels; "
    "a trained model takes what it was trained on: save the page by itself"
)


class Refused(ValueError):
    """A whole file that is not used: why, and what to do about it."""

    def __init__(self, what: str, fix: str) -> None:
        super().__init__(f"{what}: {fix}")
        self.what, self.fix = what, fix


def check_level(level: int, sizes: Sequence[tuple[int, int]]) -> None:
    """Refuse a level that a picture does not have, with those that it has.

    Args:
        level: From 0, the largest.
        sizes: Height and width of each.

    >>> check_level(2, [(600, 800), (300, 400)])
    Traceback (most recent call last):
    fullyconv.data.raster.Refused: no level 2 in it: choose 0 (800 x 600) or 1 (400 x 300)
    """
    if 0 <= level < len(sizes):
        return
    each = [f"{number} ({width} x {height})" for number, (height, width) in enumerate(sizes)]
    fix = (
        f"choose {', '.join(each[:-1])} or {each[-1]}" if len(each) > 1 else f"leave it out, for {each[0]} is the only"
    )
    raise Refused(f"no level {level} in it", fix)


@dataclass(frozen=True)
class Raster:
    """A picture as its file stores it.

    ``values`` are H x W x C numbers of the file's own type, one channel for grey and palette pictures, three
    for RGB, four for CMYK, any number for ``bands``; ``alpha`` is H x W x 1, if the file has it. ``bits`` is the
    depth of a sample; ``inverted`` says that 0 is white; ``palette`` is K x 3 uint8; ``transparent`` that some pixels
    have an alpha below full;
    ``lossy`` that the file's compression changes numbers; ``turn`` is the EXIF orientation, 1 to 8, by which
    ``values`` still have to be turned, ``turned`` the one by which they were. ``missing`` are the pixels that hold
    nothing, H x W bool, if the file says so; single numbers that are none are NaN.
    """

    values: np.ndarray
    kind: Kind
    bits: int = 8
    inverted: bool = False
    palette: np.ndarray | None = None
    transparent: bool = False
    lossy: str = ""
    turn: int = 1
    turned: int = 1
    alpha: np.ndarray | None = None
    missing: np.ndarray | None = None

    def upright(self) -> Raster:
        """Turn the pixels as their EXIF orientation says.

        >>> Raster(np.array([[[1], [2]]]), "grey", turn=6).upright().values[..., 0].tolist()
        [[1], [2]]
        """
        alpha, missing = (None if each is None else _turned(each, self.turn) for each in (self.alpha, self.missing))
        values = _turned(self.values, self.turn)
        return replace(self, values=values, alpha=alpha, missing=missing, turn=1, turned=self.turn)

    @property
    def deep(self) -> bool:
        """Whether numbers have to be brought to 0..255 by a range."""
        return self.kind in ("grey", "rgb", "bands") and (self.bits > 8 or self.values.dtype.kind not in "bu")

    def filled(self, *, lowest: bool = False) -> Raster:
        """Put black where deep numbers are missing: what stands there (-9999, NaN) is no level.

        Black is 0, or the picture's smallest number where that is negative; ``lowest``: a number below any range.

        >>> Raster(np.array([[[np.nan], [7]]]), "grey", 32, missing=np.array([[True, False]])).filled().values.tolist()
        [[[0.0], [7.0]]]
        """
        if self.missing is None or not self.deep:
            return self
        numbers = [self.values] if self.alpha is None else [self.values, self.alpha]
        values, *alpha = (_blackened(each, self.missing, lowest=lowest) for each in numbers)
        return replace(self, values=values, alpha=alpha[0] if alpha else None)

    def bands(self) -> np.ndarray:
        """Return all numbers of every pixel, alpha among them, H x W x C."""
        if self.kind == "palette":
            shown: np.ndarray = checked_palette(self)[self.values[..., 0]]
            return shown
        return self.values if self.alpha is None else np.concatenate([self.values, self.alpha], axis=2)

    def channels(self, count: int) -> np.ndarray:
        """Return ``bands`` for a network of so many channels: of two bands, the second also stands for the third."""
        numbers = self.bands()
        return numbers[..., [0, 1, 1]] if numbers.shape[2] == 2 and count == COLOURS else numbers


def _blackened(values: np.ndarray, missing: np.ndarray, *, lowest: bool) -> np.ndarray:
    empty = np.isnan(values) if values.dtype.kind == "f" else np.zeros(values.shape, np.bool_)
    empty |= missing[..., None]
    least = np.iinfo(values.dtype).min if values.dtype.kind in "iu" else max(np.finfo(values.dtype).min, LEAST)
    black = least if lowest else min(0, values[~empty].min(initial=0))
    return np.where(empty, values.dtype.type(black), values)


def _turned(values: np.ndarray, turn: int) -> np.ndarray:
    swap, rows, columns = UPRIGHT[turn]
    return np.ascontiguousarray((values.swapaxes(0, 1) if swap else values)[::rows, ::columns])


def levels_of(raster: Raster, levels: Levels | None, channels: int = COLOURS) -> np.ndarray:
    """Bring a picture to the levels that a network sees.

    Args:
        raster: The picture.
        levels: The ranges of deep numbers; without them each picture has its own white (``white_level``).
        channels: Of the network.

    Returns:
        H x W x ``channels`` uint8.

    Raises:
        ValueError: For a picture of another number of bands, and numbers that stand for no level.
    """
    of_each = raster.deep and levels is not None and len(levels.ranges) > 1
    if channels == COLOURS and raster.kind != "bands" and not of_each:
        return colours(raster, levels if raster.deep else None)
    numbers = raster.filled(lowest=True).channels(channels)
    if numbers.shape[2] != channels or levels is None:
        wanted = "colours" if channels == COLOURS else f"{channels} bands"
        raise ValueError(f"{numbers.shape[2]} bands of {numbers.dtype}, not {wanted}")
    return levels(numbers)


def white_level(values: np.ndarray, bits: int) -> float:
    """Find the number that is white: a rule for pictures whose numbers do not fill their type.

    - up to 8 bits: the largest number of the type;
    - floating point from 0 to 1: 1;
    - else 255, 1023, 4095, 16383, 65535, …: the numbers of 8, 10, 12, 14, 16, … bits, the first that is not
      below the picture's largest number. So the brightest pixel of a picture is at least a quarter of white,
      and pictures of one camera are scaled alike unless one of them is much darker than the others.

    Args:
        values: Numbers of any shape, not empty.
        bits: Of a sample in the file.

    Raises:
        ValueError: For negative and infinite numbers and NaN, and where the largest is so small that the
            picture would be black: 1 to 15 in a deep type, 1.02 in floating point.

    >>> [white_level(np.array([largest], np.uint16), 16) for largest in (200, 3000, 10000, 65535)]
    [255.0, 4095.0, 16383.0, 65535.0]
    >>> white_level(np.array([0.0, 0.7]), 32)
    1.0
    """
    smallest, largest = float(values.min()), float(values.max())
    if not (np.isfinite(smallest) and np.isfinite(largest)):
        raise ValueError("it holds numbers that are infinite or not a number (NaN)")
    if smallest < 0:
        raise ValueError(f"its values {smallest:g} to {largest:g} are no grey levels")
    if values.dtype.kind == "f" and largest <= 1:
        return 1.0
    if values.dtype.kind in "bu" and bits <= 8:
        return float(2**bits - 1)
    if 0 < largest < DARKEST_WHITE:
        raise ValueError(f"its largest value is {largest:g}: it would be black in a range of 0 to 255")
    depth = 8
    while 2**depth - 1 < largest:
        depth += 2
    return float(2 ** min(depth, bits) - 1) if values.dtype.kind == "u" else float(2**depth - 1)


def colours(raster: Raster, levels: Levels | None = None) -> np.ndarray:
    """Compute the colours of a picture, H x W x 3 uint8 RGB.

    Grey levels and RGB are scaled by ``levels``, without them so that white (``white_level``) is 255, rounded; what is
    min-is-white is inverted. Alpha is not applied: colours are those stored.

    Raises:
        ValueError: For numbers that stand for no colour.
    """
    if raster.kind == "rgb" and raster.values.dtype == np.uint8 and raster.bits == 8 and not raster.inverted:
        return raster.values
    raster = raster.filled(lowest=levels is not None)
    height, width, _ = raster.values.shape
    table = _table(raster, levels)
    picture = np.empty((height, width, 3), np.uint8)
    rows = max(1, BAND_PX // width)
    for top in range(0, height, rows):
        band = raster.values[top : top + rows]
        painted = _cmyk(band) if raster.kind == "cmyk" else _look_up(band, table)
        for channel in range(3):  # three times as fast as to spread grey over the last axis
            picture[top : top + rows, :, channel] = painted[..., min(channel, painted.shape[2] - 1)]
    return picture


Table = np.ndarray | tuple[Levels, bool]
"""The colours of every number, or its levels and whether 0 is white, where a table would be too long."""


def _table(raster: Raster, levels: Levels | None) -> Table:
    if raster.kind == "palette":
        return checked_palette(raster)
    if raster.kind == "cmyk":
        return Levels(((0.0, 255.0),)), False
    if raster.kind == "bands":
        raise ValueError(f"{raster.values.shape[2]} bands of {raster.values.dtype}, not grey or RGB")
    levels = levels or Levels(((0.0, white_level(raster.values, raster.bits)),))
    if raster.values.dtype.kind not in "bu" or raster.values.dtype.itemsize > 2:
        return levels, raster.inverted
    return _scaled(np.arange(2 ** (8 * raster.values.dtype.itemsize))[:, None], levels, raster.inverted)[:, 0]


def _scaled(values: np.ndarray, levels: Levels, inverted: bool) -> np.ndarray:
    found = levels(values)
    return 255 - found if inverted else found


def _look_up(band: np.ndarray, table: Table) -> np.ndarray:
    if isinstance(table, tuple):
        return _scaled(band, *table)
    painted: np.ndarray = table[band] if table.ndim == 1 else table[band[..., 0]]
    return painted


def _cmyk(band: np.ndarray) -> np.ndarray:
    if band.dtype != np.uint8:
        raise ValueError("CMYK of more than 8 bits")
    return np.asarray(Image.fromarray(band, "CMYK").convert("RGB"))


def checked_palette(raster: Raster) -> np.ndarray:
    """Return the palette of a picture, K x 3 uint8; raises ``ValueError`` if a pixel is beyond its end."""
    if raster.palette is None:
        raise ValueError("no palette")
    largest = int(raster.values.max(initial=0))
    if largest >= len(raster.palette):
        raise ValueError(f"a pixel has colour {largest} of a palette of {len(raster.palette)} colours")
    return raster.palette
