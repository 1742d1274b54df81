"""Pixels that hold nothing: what files say of them ("no data", NaN), and where they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

import numpy as np

NO_DATA = 42113  # GDAL's tag of a TIFF file: a number, as text
FILLS = (-9999, -99999, -999, -32768, -32767, 32767, 65535, -2147483648, 2147483647)
"""Numbers that programs write for nothing; so are those beyond ``BEYOND`` (1e20, netCDF's 9.97e36, GDAL's -3.4e38)."""

BEYOND = 1e15  # what is measured is smaller
APART = 0.1  # of the span of all other numbers, by which a usual number for nothing lies apart from them
FAR = 2.0  # likewise for any other number, which is repeated in so many pixels, of so many different numbers besides:
OFTEN, FEWEST, DIFFERENT = 0.0005, 10, 16
LOOKED_AT = 100_000  # numbers, for how many are different


def no_data(tag: object) -> float | None:
    """Read the number of pixels that hold nothing from GDAL's tag.

    >>> no_data("-9999"), no_data("-3.4e+38"), no_data(None)
    (-9999, -3.4e+38, None)
    """
    text = str(tag).strip("\x00 ")
    try:
        return int(text) if len(text) <= 20 and text.lstrip("-").isdecimal() else float(text)
    except ValueError:
        return None


def hollow(values: np.ndarray, number: float | None) -> tuple[np.ndarray, np.ndarray | None]:
    """Find numbers that are none: NaN, infinity and a file's "no data".

    Args:
        values: H x W x C numbers of any type.
        number: The file's number for nothing.

    Returns:
        The numbers, NaN where a floating-point one is none; and which pixels hold nothing in any band, H x W, ``None``
        where every number is one.

    >>> hollow(np.array([[[1, -9999], [-9999, -9999]]], np.int16), -9999)[1].tolist()
    [[False, True]]
    """
    if values.dtype.kind == "f":
        empty = ~np.isfinite(values)
        if number is not None:
            with np.errstate(over="ignore"):
                empty |= values == values.dtype.type(number)  # -3.4e38 is not the same number with 32 bits and with 64
        if not empty.any():
            return values, None
        return np.where(empty, values.dtype.type(np.nan), values), empty.all(2)
    if number is None or not isfinite(number) or number != int(number):
        return values, None
    kind = np.iinfo(values.dtype)
    missing = (values == int(number)).all(2) if kind.min <= number <= kind.max else None
    return values, missing if missing is not None and missing.any() else None


@dataclass(frozen=True)
class Lone:
    """A number that may stand for nothing, though nobody says so.

    ``share`` of all numbers are it, 0..1; the others lie from ``low`` to ``high``.
    """

    number: float
    share: float
    low: float
    high: float

    @property
    def words(self) -> str:
        """Say what was found, of a file that is named before."""
        what = f"{self.number:g} stands in {self.share:.2%} of its pixels, far from all others"
        return f"{what} ({self.low:.5g} to {self.high:.5g}), and is taken as a number like any other, not for 'no data'"


def find_lone(values: np.ndarray) -> Lone | None:
    """Find a number that looks as if it stood for nothing: the least or the greatest, often repeated, far from others.

    Args:
        values: Those of one band, of any shape; NaN and infinity are passed over.

    Returns:
        The one that more pixels have, if there are two.

    >>> find_lone(np.array([-9999] * 30 + [*range(70)]))
    Lone(number=-9999.0, share=0.3, low=0.0, high=68.0)
    >>> find_lone(np.arange(1000))
    """
    if values.dtype.kind == "f":
        values = values[np.isfinite(values)].astype(np.float64)
    if not values.size:
        return None
    ends = values.min(), values.max()
    at = [values == end for end in ends]
    rest = values[~(at[0] | at[1])]
    if not rest.size:
        return None
    low, high = float(rest.min()), float(rest.max())
    different = len(np.unique(rest[:: max(1, rest.size // LOOKED_AT)]))
    found = []
    for end, where, gap in zip(map(float, ends), at, (low - float(ends[0]), float(ends[1]) - high), strict=True):
        count = int(np.count_nonzero(where))
        usual = count > 1 and gap > APART * (high - low) and (end in FILLS or abs(end) > BEYOND)
        often = count >= max(FEWEST, OFTEN * values.size) and different >= DIFFERENT
        if usual or (often and gap > FAR * (high - low)):
            found.append(Lone(end, count / values.size, low, high))
    return max(found, key=lambda each: each.share, default=None)


def all_missing(parts: Sequence[np.ndarray | None]) -> np.ndarray | None:
    """Return which pixels hold nothing in any of several parts of a picture, ``None`` where no part says so.

    >>> all_missing([np.array([[True, False]]), np.array([[True, True]])]).tolist(), all_missing([None])
    ([[True, False]], None)
    """
    if all(each is None for each in parts):
        return None
    found: np.ndarray = np.logical_and.reduce([np.False_ if each is None else each for each in parts])
    return found
