"""Palettes of masks: whether a colour has the same number in all of them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from fullyconv.data.masks import RawMask

FIX = "save the masks as RGB pictures, whose colours are read, or with one palette"

Painted = tuple[tuple[int, int], ...]
"""Colours, as one number each, with the mask's number that has them; those of several numbers say nothing."""


def painted(raw: RawMask) -> Painted:
    """Return which colours a mask shows, and by which number.

    >>> painted(RawMask(np.array([[0, 2]]), np.array([[0, 0, 0], [9, 9, 9], [0, 0, 255]], np.uint8)))
    ((0, 0), (255, 2))
    """
    if raw.palette is None:
        return ()
    codes = (raw.palette.astype(np.int32) @ np.array([65_536, 256, 1], np.int32)).tolist()
    used = [(codes[value], value) for value in np.unique(raw.values).tolist() if value < len(codes)]
    count = Counter(code for code, _ in used)
    return tuple((code, value) for code, value in used if count[code] == 1)


class Palettes:
    """Compares masks, one at a time: drawing programs number colours anew in each file."""

    def __init__(self) -> None:
        self._first: dict[int, tuple[int, Path | None]] = {}
        self.disagreeing: tuple[str, Path | None] | None = None

    def see(self, colours: Painted, path: Path | None = None) -> None:
        """Take note of a mask's colours; keep the first that an earlier mask has at another number."""
        for code, value in colours:
            number, before = self._first.setdefault(code, (value, path))
            if number != value and self.disagreeing is None:
                elsewhere = "one" if before is None else before.name
                said = f"the colour #{code:06x} is {number} in {elsewhere} and {value} in "
                self.disagreeing = said + ("another" if path is None else path.name), path
