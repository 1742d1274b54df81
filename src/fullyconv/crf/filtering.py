"""The lattice as a linear filter by itself: N values in, N values out, forwards or transposed."""

from __future__ import annotations

from functools import partial

import numpy as np

from fullyconv.crf.exchange import Exchange
from fullyconv.crf.lattice import build_lattice, kernels
from fullyconv.threads import Team, shares


class LatticeFilter:
    """Gaussian filtering of values at the points of d x N features (in standard deviations), float32.

    ``filter(values)[i]`` is near ``sum_j exp(-|f_i - f_j|^2 / 2) values[j]``, up to a factor that all
    points nearly share. Linear; the transposed filter blurs along the axes in reverse.
    """

    def __init__(self, features: np.ndarray) -> None:
        self._kernels = kernels()[0]
        with Team() as team:
            self._lattice = build_lattice(np.ascontiguousarray(features, np.float32), team)
        self.points = features.shape[1]

    def __call__(self, values: np.ndarray, *, transposed: bool = False) -> np.ndarray:
        """Filter C x N values."""
        if values.ndim != 2 or values.shape[1] != self.points:
            raise ValueError(f"values are C x {self.points}, one per point, not {values.shape}")
        lattice = self._lattice
        planes = np.ascontiguousarray(values, np.float32)
        filtered = np.empty_like(planes)
        with Team() as team:
            exchange = Exchange([lattice], lattice.offsets, labels=max(2, len(planes)), team=team)
            rows = np.zeros(self.points * exchange.width, np.float32)
            parts = shares(self.points, team.size)
            team.run([partial(self._kernels.to_rows, planes, 1.0, rows, exchange.width, *part) for part in parts])
            rows.reshape(self.points, -1)[:, len(planes) :] = 0
            exchange.splat(rows, lattice.weights)
            exchange.blur(backwards=transposed)
            rows[:] = 0
            exchange.slice(rows, lattice.weights)
            team.run([partial(self._kernels.to_planes, rows, filtered, exchange.width, *part) for part in parts])
        filtered *= np.float32(lattice.gain)
        return filtered
