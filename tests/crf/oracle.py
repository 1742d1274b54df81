"""Brute force: every pair of points, float64."""

from __future__ import annotations

import numpy as np


def kernel(features: np.ndarray) -> np.ndarray:
    """All pairs of d x shape features, N x N."""
    points = features.reshape(len(features), -1).astype(np.float64)
    apart = ((points[:, :, None] - points[:, None, :]) ** 2).sum(0)
    return np.exp(-apart / 2)


def normalised(matrix: np.ndarray, normalization: str, *, keep_diagonal: bool, mask: np.ndarray | None) -> np.ndarray:
    if not keep_diagonal:
        matrix = matrix - np.diag(np.diag(matrix))
    if mask is not None:
        matrix = matrix * mask.ravel()[:, None] * mask.ravel()[None]
    sums = np.maximum(matrix.sum(1), 1e-20)
    if normalization == "symmetric":
        return matrix / np.sqrt(sums[:, None] * sums[None])
    if normalization == "before":
        return matrix / sums[None]
    return matrix / sums[:, None] if normalization == "after" else matrix


def mean_field(
    unary: np.ndarray, matrices: list[np.ndarray], penalties: list[np.ndarray], *, iterations: int
) -> np.ndarray:
    """The update as it is printed: Q = softmax(-U - sum_m mu_m K_m Q)."""
    energies = unary.reshape(len(unary), -1).astype(np.float64)
    beliefs = softmax(-energies)
    for _ in range(iterations):
        messages = sum(penalty @ (beliefs @ matrix.T) for matrix, penalty in zip(matrices, penalties, strict=True))
        beliefs = softmax(-energies - messages)
    return beliefs.reshape(unary.shape)


def softmax(scores: np.ndarray) -> np.ndarray:
    chances = np.exp(scores - scores.max(0))
    return chances / chances.sum(0)


def potts(labels: int, weight: float) -> np.ndarray:
    return weight * (1 - np.eye(labels))
