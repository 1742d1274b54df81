"""Masks that number things (cells, nuclei) instead of naming kinds of things: told by what their numbers look like."""

from __future__ import annotations

import numpy as np

from fullyconv.data.masks import RawMask, colour_codes
from fullyconv.data.raster import Refused
from fullyconv.types import ClassSet

THINGS = ClassSet(("background", "object"), ignore_index=65_535, instances=True)
LOOKED_AT = 100  # masks
MANY = 20  # numbers: more kinds of things are rarely told apart, each of one area
FEWEST = 4  # in one mask, where numbers are counted up in each
ALIKE = 3  # masks of the same numbers, by chance rarely
WHOLE = 0.85  # of the numbers are one connected area, in masks of things
READ_AS = "read them as background and object, '--set instances=true' (data check --instances), or write a classes.yaml"


class Things:
    """Looks at masks, one at a time, for signs that their numbers count things."""

    def __init__(self) -> None:
        self._counts: list[int] = []  # of numbers in each mask that has any
        self._whole = 0  # numbers, over all masks, that are one connected area
        self._numbers: set[int] = set()
        self._kinds: set[frozenset[int]] = set()  # of numbers that are in one mask together
        self._counted_up = True  # 1 to the number of things, in each mask

    def see(self, raw: RawMask) -> None:
        """Look at a mask of numbers 0..65535, or of colours of which black is the background."""
        if len(self._counts) >= LOOKED_AT:
            return
        values = raw.values
        if values.ndim == 3:
            found, numbered = np.unique(colour_codes(values), return_inverse=True)
            values = numbered.reshape(values.shape[:2]) + bool(found[0])
        numbers = euler_numbers(values)
        numbers.pop(0, None)
        if numbers:
            self._counts.append(len(numbers))
            self._whole += sum(each == 1 for each in numbers.values())
            self._numbers.update(numbers)
            self._kinds.add(frozenset(numbers))
            self._counted_up &= max(numbers) == len(numbers)

    def look_like_classes(self) -> str:
        """Say why the numbers look like kinds of things, not things; empty if they do not.

        There are two or more, and many of them are several areas in a mask, or all masks hold the same ones.
        """
        total = sum(self._counts)
        if len(self._numbers) < 2:
            return ""
        if self._whole < WHOLE * total:
            return f"{total - self._whole} of {total} numbers in masks are several areas, or have holes"
        alike = len(self._kinds) == 1 and len(self._counts) >= ALIKE
        return f"all of {len(self._counts)} masks hold the same {len(self._numbers)} numbers" if alike else ""

    def refuse(self) -> None:
        """Raise ``Refused`` if the masks number things.

        There are more numbers than one tells kinds apart, or each mask counts from 1 up to a number of its own; nearly
        each number is one connected area, and masks hold different counts of them.
        """
        counts = set(self._counts)
        many = len(self._numbers) > MANY and len(counts) > 1
        counted = self._counted_up and len(counts) > 2 and max(counts) >= FEWEST
        if (many or counted) and self._whole >= WHOLE * sum(self._counts):
            what = (
                f"the masks number things, not kinds of things: each number is one area, up to {max(counts)} in a mask"
            )
            raise Refused(what, READ_AS)


def euler_numbers(values: np.ndarray) -> dict[int, int]:
    """Return for each number of a mask how many connected areas it has, less the holes in them.

    By Euler's formula for pixels as corners: corners - edges + squares of four.

    Args:
        values: H x W, 0..65535.

    >>> euler_numbers(np.array([[1, 1, 0, 2], [1, 1, 0, 0], [3, 0, 0, 3]]))
    {0: 1, 1: 1, 2: 1, 3: 2}
    """
    values = values.astype(np.intp, copy=False)
    across, down = values[:, 1:] == values[:, :-1], values[1:] == values[:-1]
    square = across[1:] & across[:-1] & down[:, 1:]
    most = int(values.max(initial=0)) + 1
    corners, *rest = (
        np.bincount(each.ravel(), minlength=most)
        for each in (values, values[:, 1:][across], values[1:][down], values[1:, 1:][square])
    )
    found = corners - rest[0] - rest[1] + rest[2]
    return {int(number): int(found[number]) for number in np.flatnonzero(corners)}
