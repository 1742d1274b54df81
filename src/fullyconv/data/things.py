"""Masks that number things (cells, nuclei) instead of naming kinds of things: told by what their numbers look like."""

from __future__ import annotations

import numpy as np

from fullyconv.data.raster import Refused
from fullyconv.types import ClassSet

THINGS = ClassSet(("background", "object"), ignore_index=65_535, instances=True)
LOOKED_AT = 100  # masks
MANY = 20  # numbers: more kinds of things are rarely told apart, each of one area
FEWEST = 4  # in one mask, where numbers are counted up in each
WHOLE = 0.85  # of the numbers are one connected area, in masks of things
READ_AS = "read them as background and object, '--set instances=true' (data check --instances), or write a classes.yaml"


class Things:
    """Looks at masks, one at a time, for signs that their numbers count things."""

    def __init__(self) -> None:
        self._counts: list[int] = []  # of numbers in each mask that has any
        self._whole = 0  # numbers, over all masks, that are one connected area
        self._numbers: set[int] = set()
        self._counted_up = True  # 1 to the number of things, in each mask

    def see(self, values: np.ndarray) -> None:
        """Look at a mask, H x W numbers 0..65535."""
        if len(self._counts) >= LOOKED_AT:
            return
        numbers = euler_numbers(values)
        numbers.pop(0, None)
        if numbers:
            self._counts.append(len(numbers))
            self._whole += sum(each == 1 for each in numbers.values())
            self._numbers.update(numbers)
            self._counted_up &= max(numbers) == len(numbers)

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
