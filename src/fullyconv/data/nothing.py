"""Pixels that hold nothing: what files say of them ("no data", NaN), and where they are."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

import numpy as np

NO_DATA = 42113  # GDAL's tag of a TIFF file: a number, as text


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


def all_missing(parts: Sequence[np.ndarray | None]) -> np.ndarray | None:
    """Return which pixels hold nothing in any of several parts of a picture, ``None`` where no part says so.

    >>> all_missing([np.array([[True, False]]), np.array([[True, True]])]).tolist(), all_missing([None])
    ([[True, False]], None)
    """
    if all(each is None for each in parts):
        return None
    found: np.ndarray = np.logical_and.reduce([np.False_ if each is None else each for each in parts])
    return found
