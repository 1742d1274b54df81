"""What pairs of pixels are compared by: the Gaussian kernels of a dense CRF, and unary energies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

Normalization = Literal["symmetric", "before", "after", "none"]

LEAST_PROBABILITY = 1e-8  # what no network denies more than


@dataclass(frozen=True)
class Gaussian:
    """A kernel ``exp(-|f_i - f_j|^2 / 2)`` over any features, filtered on the permutohedral lattice.

    ``features`` is d x shape: positions, colours, bands, divided by their standard deviations.
    ``compatibility`` is the penalty for each pair of labels, C x C, times ``weight``; ``None`` is
    Potts: 1 for different labels, 0 for the same.
    """

    features: np.ndarray = field(repr=False)
    weight: float = 1.0
    compatibility: np.ndarray | None = field(default=None, repr=False)


@dataclass(frozen=True)
class GridGaussian:
    """A kernel over positions alone, computed exactly, axis by axis.

    ``deviations`` are its standard deviations in pixels, one per axis of the grid. The rest is as in
    ``Gaussian``. Costs O(N (H + W)) where the lattice costs O(N).
    """

    deviations: tuple[float, ...]
    weight: float = 1.0
    compatibility: np.ndarray | None = field(default=None, repr=False)


def positions(shape: Sequence[int], deviations: Sequence[float]) -> np.ndarray:
    """Return each point's grid coordinates divided by ``deviations`` (one per axis), d x shape float32.

    The last axis comes first (x, y): the order of the features turns the lattice, and published
    results were made with this one.
    """
    if len(shape) != len(deviations) or min(deviations, default=0.0) <= 0:
        raise ValueError(
            f"a grid of {len(shape)} axes needs as many positive standard deviations, not {tuple(deviations)}"
        )
    features = np.empty((len(shape), *shape), np.float32)
    for axis, (length, deviation) in enumerate(zip(shape, deviations, strict=True)):
        steps = np.arange(length, dtype=np.float32) / np.float32(deviation)
        features[-1 - axis] = steps.reshape(-1, *[1] * (len(shape) - axis - 1))
    return features


def appearance(image: np.ndarray, sxy: float, srgb: float) -> np.ndarray:
    """Return positions over ``sxy`` and the channels of an H x W (x K) image over ``srgb``, (2+K) x H x W float32."""
    image = image[..., None] if image.ndim == 2 else image
    height, width, channels = image.shape
    features = np.empty((2 + channels, height, width), np.float32)
    features[:2] = positions((height, width), (sxy, sxy))
    for channel in range(channels):
        np.multiply(image[..., channel], np.float32(1 / srgb), out=features[2 + channel], casting="unsafe")
    return features


def unary_from_probabilities(probabilities: np.ndarray) -> np.ndarray:
    """Return energies -log p of C x ... probabilities; 1e-8 at least is granted to every label."""
    granted = np.maximum(probabilities, LEAST_PROBABILITY, dtype=np.float32)
    return np.asarray(-np.log(granted))


def unary_from_scores(scores: np.ndarray) -> np.ndarray:
    """Return energies -log softmax of C x ... class scores."""
    shifted = scores.astype(np.float32) - scores.max(0)
    energies: np.ndarray = np.log(np.exp(shifted).sum(0)) - shifted
    return energies


def unary_from_labels(labels: np.ndarray, *, classes: int, confidence: float) -> np.ndarray:
    """Return energies of labels that are right with probability ``confidence``, C x ... float32.

    The other classes share the rest. Labels outside 0..C-1 know nothing: all classes alike. Raises
    ``ValueError`` for a confidence outside (0, 1).
    """
    if not 0 < confidence < 1 or classes < 2:
        raise ValueError(
            f"labels need a confidence between 0 and 1 and two classes or more, not {confidence} and {classes}"
        )
    energies = np.full((classes, *labels.shape), -np.log((1 - confidence) / (classes - 1)), np.float32)
    known = (labels >= 0) & (labels < classes)
    energies[:, ~known] = np.log(classes)
    index = np.nonzero(known)
    energies[(labels[index], *index)] = -np.log(confidence)
    return energies
