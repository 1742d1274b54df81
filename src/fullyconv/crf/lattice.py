"""The permutohedral lattice: Gaussian filtering of N points in d dimensions in O(N d^2) (Adams et al. 2010).

Points are spread over the d + 1 corners of the simplex around them (splat), the corners are blurred
along the d + 1 axes of the lattice, and every point collects what its corners hold (slice).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import numpy as np

from fullyconv.threads import Team, shares

MOST_BITS = 62  # of a vertex's key, beyond which coordinates are hashed
LEAST_SHARE = 4096  # points or vertices; less is not worth a thread

# Odd multipliers (splitmix64's stream) for keys that do not fit: two of a million vertices share a
# key with a chance of 1e-7.
_STREAM = 0x9E3779B97F4A7C15


@dataclass(frozen=True)
class Lattice:
    """The vertices that a set of points touches.

    ``offsets`` (int32) and ``weights`` (float32), N x (d+1): each point's corners and its share in
    them, which add up to 1. ``neighbours``, (d+1) x V x 2 int32: the vertices before and after along
    each axis, V where there is none. ``parts`` are the shares of the points (start, stop) that
    threads build and use side by side; ``touched`` the vertices of every share but the first, in order.
    """

    offsets: np.ndarray
    weights: np.ndarray
    neighbours: np.ndarray
    parts: tuple[tuple[int, int], ...]
    touched: tuple[np.ndarray, ...]

    @property
    def vertices(self) -> int:
        """How many vertices there are."""
        return int(self.neighbours.shape[1])

    @property
    def axes(self) -> int:
        """How many axes it is blurred along, d + 1."""
        return int(self.neighbours.shape[0])

    @property
    def gain(self) -> float:
        """What a sliced value is multiplied by, so that a point on a vertex answers 1 to itself."""
        # The blur's 1/2, 1, 1/2 carries a vertex's value back to it in three ways: by no step (1), and by one step
        # along every axis, forwards or backwards (2 times 1/2^axes), as the steps of all axes add up to nothing.
        return 1 / (1 + 2.0 ** (1 - self.axes))


def kernels() -> Any:
    """Import the compiled loops (numba takes a third of a second to import)."""
    from fullyconv.crf import kernels, simplex

    return kernels, simplex


def build_lattice(
    features: np.ndarray, team: Team, *, offsets: np.ndarray | None = None, weights: np.ndarray | None = None
) -> Lattice:
    """Build the lattice of a set of points.

    Args:
        features: d x N float32, in units of the Gaussian's standard deviation.
        team: The threads that share the work.
        offsets: N x (d+1) int32 that is filled, if given.
        weights: N x (d+1) float32, likewise.

    Returns:
        The vertices around the points, numbered in the order in which they are met.

    Raises:
        ValueError: For points that are not finite or too far apart.
    """
    _, simplex = kernels()
    dims, points = features.shape
    offsets = np.empty((points, dims + 1), np.int32) if offsets is None else offsets
    weights = np.empty((points, dims + 1), np.float32) if weights is None else weights
    # Splat, blur and slice together spread a value by a variance of 2/3 (d+1)^2 per axis of the lattice: points are
    # scaled by its root, so that one standard deviation is one (Adams et al. 2010, section 3). The second root makes
    # the embedding into the hyperplane an isometry.
    scales = np.sqrt(2 / 3) * (dims + 1) / np.sqrt(np.arange(1, dims + 1) * np.arange(2, dims + 2))
    lows, strides, base = _key_plan(features, scales)
    # Every thread numbers the vertices of its share by itself; then the tables are put into the first, in order.
    parts = shares(points, max(1, min(team.size, points // LEAST_SHARE)))
    axes = (None,) * (dims + 1)
    embed = partial(simplex.embed, features, scales.astype(np.float32), lows, strides, axes, offsets, weights)
    (table, count), *others = team.run([partial(embed, *part) for part in parts])
    renumberings, touched = [], []
    for (start, stop), (found, new) in zip(parts[1:], others, strict=True):
        numbers = np.empty(new, np.int32)
        table, count = simplex.absorb(simplex.keys_of(found, new), count, table, numbers)
        touched.append(np.sort(numbers))
        renumberings += [
            partial(simplex.renumber, offsets, numbers, start + a, start + b)
            for a, b in shares(stop - start, team.size)
        ]
    team.run(renumberings)
    keys = simplex.keys_of(table, count)
    neighbours = np.full((dims + 1, count, 2), count, np.int32)
    connect = partial(simplex.connect, keys, table, strides, base, neighbours)
    team.run([partial(connect, *part) for part in shares(count, team.size)])
    return Lattice(offsets, weights, neighbours, tuple(parts), tuple(touched))


def _key_plan(features: np.ndarray, scales: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Choose how the coordinates of a vertex become one 64-bit key: lowest coordinates, strides, classes' base."""
    dims = features.shape[0]
    low, high = features.min(1) * scales, features.max(1) * scales  # d
    if not np.isfinite(high - low).all() or np.abs([low, high]).max() > 1e6:
        raise ValueError("features must be finite and less than a million standard deviations: enlarge the bandwidths")
    # An elevated coordinate is -axis times a feature plus the sum of those after it: its range follows from theirs.
    bottoms, tops = np.zeros(dims + 1), np.zeros(dims + 1)  # of the elevated coordinates
    for axis in range(dims + 1):
        if axis:
            bottoms[axis], tops[axis] = -axis * high[axis - 1], -axis * low[axis - 1]
        bottoms[axis] += low[axis:].sum()
        tops[axis] += high[axis:].sum()
    # Corners lie within one unit of a point and their neighbours one further; the rest is for rounding in float32.
    lows = np.floor(bottoms / (dims + 1)).astype(np.int64) - 4
    spans = np.ceil(tops / (dims + 1)).astype(np.int64) + 4 - lows
    base = 1 << int(dims).bit_length()  # room for the remainder class, 0..d
    strides = np.zeros(dims + 1, np.int64)  # the last coordinate follows from the others
    if prod(map(int, spans[:dims])) * base < 1 << MOST_BITS:
        for axis in range(dims):
            strides[axis] = base * prod(map(int, spans[:axis]))
    else:
        for axis in range(dims):
            word = _mixed((axis + 1) * _STREAM) // base * base
            strides[axis] = np.uint64(word).astype(np.int64)
    return lows, strides, base


def _mixed(word: int) -> int:
    """Return splitmix64's output for a state."""
    full = (1 << 64) - 1
    word &= full
    word = (word ^ word >> 30) * 0xBF58476D1CE4E5B9 & full
    word = (word ^ word >> 27) * 0x94D049BB133111EB & full
    return word ^ word >> 31
