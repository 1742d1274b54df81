"""From outlines to pixels: those whose middles lie inside, by the even-odd rule."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def fill(rings: Sequence[np.ndarray], size: tuple[int, int], *, most: int | None = None) -> np.ndarray:
    """Fill the area between rings; what an odd number of them encloses is inside.

    Args:
        rings: N x 2 corners (x, y) each, in pixels from the upper left corner; edges may run at any angle.
        size: Height and width of the picture.
        most: Crossings of edges and rows that a ring may have.

    Returns:
        H x W bool.

    Raises:
        ValueError: For a ring of more crossings.

    >>> fill([np.array([(0, 0), (3, 0), (0, 3)])], (3, 3)).astype(int).tolist()
    [[1, 1, 0], [1, 0, 0], [0, 0, 0]]
    """
    height, width = size
    toggled = np.zeros((height, width + 1), np.uint8)
    for ring in rings:
        rows, columns = _crossings(ring, height, width, most)
        np.bitwise_xor.at(toggled, (rows, columns), 1)
    inside: np.ndarray = np.bitwise_xor.accumulate(toggled, axis=1)[:, :-1].astype(bool)
    return inside


def _crossings(ring: np.ndarray, height: int, width: int, most: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Find where edges cross the middle lines of rows: each crossing's row, and the first column behind it."""
    ahead = np.roll(ring, -1, axis=0)
    upper = np.where((ring[:, 1] <= ahead[:, 1])[:, None], ring, ahead)  # so that both ways along an edge are one
    lower = np.where((ring[:, 1] <= ahead[:, 1])[:, None], ahead, ring)
    first = np.clip(np.ceil(upper[:, 1] - 0.5), 0, height).astype(np.int64)
    last = np.clip(np.ceil(lower[:, 1] - 0.5), 0, height).astype(np.int64)  # the end of an edge is not of it
    count = last - first
    if most is not None and count.sum() > most:
        raise ValueError(f"an outline of {len(ring)} points that crosses rows {count.sum()} times")
    edge = np.repeat(np.arange(len(ring)), count)
    rows = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count) + first[edge]
    along = (rows + 0.5 - upper[edge, 1]) / (lower[edge, 1] - upper[edge, 1])
    crossed = upper[edge, 0] + along * (lower[edge, 0] - upper[edge, 0])
    return rows, np.clip(np.ceil(crossed - 0.5), 0, width).astype(np.int64)
