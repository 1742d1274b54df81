"""PNG's row filters, undone (the standard's section 9): each byte is stored as its difference from a prediction."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fullyconv.compiler import compiled

Bytes = NDArray[np.uint8]
NONE, SUB, UP, AVERAGE, PAETH = 0, 1, 2, 3, 4


@compiled
def paeth(left: Any, above: Any, corner: Any) -> Any:
    """Return the neighbour that is nearest to left + above - corner; of equals the first."""
    across, down, both = abs(above - corner), abs(left - corner), abs(left + above - 2 * corner)
    if across <= down and across <= both:
        return left
    return above if down <= both else corner


@compiled
def undo_filters(block: Bytes, before: Bytes, step: int, found: Bytes) -> bool:
    """Undo the filters of rows, n x (1 + bytes): the first byte of each is its filter.

    Args:
        block: The rows.
        before: The row above them, undone.
        step: The bytes of a pixel.
        found: n x bytes, is written.

    Returns:
        Whether all filters are ones that PNG has.
    """
    above = before
    for row in range(len(block)):
        kind, line = block[row, 0], found[row]
        for x in range(len(line)):
            left: Any = np.int64(line[x - step]) if x >= step else np.int64(0)
            up: Any = np.int64(above[x])
            if kind == NONE:
                guess: Any = np.int64(0)
            elif kind == SUB:
                guess = left
            elif kind == UP:
                guess = up
            elif kind == AVERAGE:
                guess = (left + up) // 2
            elif kind == PAETH:
                guess = paeth(left, up, np.int64(above[x - step]) if x >= step else np.int64(0))
            else:
                return False
            line[x] = (np.int64(block[row, x + 1]) + guess) & 255
        above = line
    return True
