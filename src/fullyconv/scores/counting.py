"""The compiled loop that counts pairs of labels."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fullyconv.compiler import compiled

Labels: TypeAlias = tuple[NDArray[np.unsignedinteger[Any]], np.unsignedinteger[Any]]
"""A run of labels, and the number that those which are no class (larger ones) are counted as."""

BLOCK = 32  # pixels whose codes are made, and compared, by a few machine instructions
WAYS = 4  # tables that neighbouring pixels count in


@compiled
def count_pairs(truth: Labels, guess: Labels, side: int, stride: int, tables: NDArray[np.int64]) -> None:
    """Add the pairs of two runs of labels to ``tables``: that of (t, g) at ``t * side + g``.

    Table k begins at ``k * stride``; all of them add up to the counts.
    """
    # Most blocks of a label map lie inside one region: one addition counts them. In the others, equal pairs follow
    # each other, and an addition to the number that was just written waits for it: hence tables in turn.
    (true, most_true), (guessed, most_guessed), wide = truth, guess, np.uint32(side)
    codes = np.empty(BLOCK, np.uint32)
    whole = true.size - true.size % BLOCK
    for first in range(0, whole, BLOCK):
        rows, columns = true[first : first + BLOCK], guessed[first : first + BLOCK]
        code, apart = np.uint32(min(rows[0], most_true)) * wide + np.uint32(min(columns[0], most_guessed)), np.uint32(0)
        for pixel in range(BLOCK):
            here = np.uint32(min(rows[pixel], most_true)) * wide + np.uint32(min(columns[pixel], most_guessed))
            codes[pixel] = here
            apart |= here ^ code
        if apart == 0:
            tables[code] += BLOCK
            continue
        for pixel in range(0, BLOCK, WAYS):
            tables[codes[pixel]] += 1
            tables[codes[pixel + 1] + stride] += 1
            tables[codes[pixel + 2] + 2 * stride] += 1
            tables[codes[pixel + 3] + 3 * stride] += 1
    for pixel in range(whole, true.size):
        tables[np.uint32(min(true[pixel], most_true)) * wide + np.uint32(min(guessed[pixel], most_guessed))] += 1
