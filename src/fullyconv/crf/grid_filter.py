"""Exact Gaussian filtering over the positions of a grid: one matrix per axis."""

from __future__ import annotations

import numpy as np
import torch

from fullyconv.crf.terms import GridGaussian, Normalization, check_deviations


def axis_kernel(length: int, deviation: float) -> np.ndarray:
    """Return ``exp(-(i - j)^2 / 2 deviation^2)`` for all pairs of an axis, length x length float32.

    >>> axis_kernel(3, 1.0)[0].round(3).tolist()
    [1.0, 0.6069999933242798, 0.13500000536441803]
    """
    steps = np.arange(length, dtype=np.float64) / deviation
    return np.exp(-0.5 * (steps[:, None] - steps[None, :]) ** 2).astype(np.float32)


class GridFilter:
    """A normalised Gaussian over a grid's positions, with its diagonal: P x C in, P x C out."""

    def __init__(
        self,
        term: GridGaussian,
        shape: tuple[int, ...],
        *,
        normalization: Normalization,
        active: np.ndarray | None,
        keep_diagonal: bool = True,
    ) -> None:
        check_deviations(shape, term.deviations)
        self.term, self.shape = term, shape
        self._axes = [axis_kernel(length, deviation) for length, deviation in zip(shape, term.deviations, strict=True)]
        points = int(np.prod(shape))
        ones = np.ones(points, np.float32) if active is None else active
        sums = self._filter(ones[:, None])[:, 0]
        self._sender, self._receiver = norms(sums if keep_diagonal else sums - ones, normalization)
        self._sender, self._receiver = self._sender * ones, self._receiver * ones
        self.own = np.zeros(0, np.float32) if keep_diagonal else self._sender * self._receiver

    def __call__(self, beliefs: np.ndarray) -> np.ndarray:
        """Filter P x C marginals; without the diagonal, a pixel's message to itself is taken off."""
        messages: np.ndarray = self._filter(beliefs * self._sender[:, None]) * self._receiver[:, None]
        if self.own.size:
            messages -= self.own[:, None] * beliefs
        return messages

    def _filter(self, values: np.ndarray) -> np.ndarray:
        # A Gaussian over positions is the product of one per axis: P x C as (before, axis, after * C).
        held = torch.from_numpy(np.ascontiguousarray(values))
        before, after = 1, values.size
        for kernel, length in zip(self._axes, self.shape, strict=True):
            after //= length
            held = torch.matmul(torch.from_numpy(kernel), held.reshape(before, length, after))
            before *= length
        filtered: np.ndarray = held.reshape(values.shape).numpy()
        return filtered


LEAST_NORM = 1e-20  # a point that no other reaches, its diagonal removed, has a row sum of 0


def norms(sums: np.ndarray, normalization: Normalization) -> tuple[np.ndarray, np.ndarray]:
    """Return the factors of senders and receivers from a kernel's row sums.

    >>> [factors.tolist() for factors in norms(np.array([4.0, 16.0], np.float32), "symmetric")]
    [[0.5, 0.25], [0.5, 0.25]]
    """
    one = np.ones_like(sums)
    if normalization == "none":
        return one, one
    sums = np.maximum(sums, LEAST_NORM, dtype=np.float32)
    if normalization == "symmetric":
        root = 1 / np.sqrt(sums)
        return root, root
    return (1 / sums, one) if normalization == "before" else (one, 1 / sums)
