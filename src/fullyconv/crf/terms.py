"""What pairs of pixels are compared by: the Gaussian kernels of a dense CRF, and unary energies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch

Normalization = Literal["symmetric", "before", "after", "none"]

LEAST_PROBABILITY = 1e-8  # granted to every label: an energy of 18.4 at most
MOST_ENERGY = 1e25  # far beyond any float's exp, far below the energy that fills rows of labels up (1e30)


@dataclass(frozen=True)
class Gaussian:
    """A kernel ``exp(-|f_i - f_j|^2 / 2)`` over any features, filtered on the permutohedral lattice.

    Attributes:
        features: d x shape: positions, colours, bands, divided by their standard deviations.
        weight: What the kernel is multiplied by.
        compatibility: C x C, times ``weight``: row l, column k is the penalty of label l where others have label k.
            It is taken as it is: the authors' package takes the mean of a matrix and its transpose. A vector of C is a
            diagonal, as there: what a label pays (or, below 0, gains) where others have the same. ``None`` is Potts: 1
            for different labels, 0 for the same.

    Raises:
        ValueError: For a weight or a compatibility that is NaN or infinite.

    >>> Gaussian(positions((4, 6), (3, 3)), weight=2.0).features.shape
    (2, 4, 6)
    """

    features: np.ndarray = field(repr=False)
    weight: float = 1.0
    compatibility: np.ndarray | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "compatibility", _checked(self.weight, self.compatibility))


@dataclass(frozen=True)
class GridGaussian:
    """A kernel over positions alone, computed exactly, axis by axis.

    Costs O(N (H + W)) where the lattice costs O(N).

    Attributes:
        deviations: Its standard deviations in pixels, one per axis of the grid.
        weight: As in ``Gaussian``.
        compatibility: As in ``Gaussian``.

    >>> GridGaussian((3.0, 3.0), weight=2.0)
    GridGaussian(deviations=(3.0, 3.0), weight=2.0)
    """

    deviations: tuple[float, ...]
    weight: float = 1.0
    compatibility: np.ndarray | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "compatibility", _checked(self.weight, self.compatibility))


def _checked(weight: float, compatibility: np.ndarray | None) -> np.ndarray | None:
    """Return compatibilities as C x C; raises ``ValueError`` for numbers that would make every marginal NaN."""
    if not np.isfinite(weight) or (compatibility is not None and not np.isfinite(compatibility).all()):
        raise ValueError("the weight and the compatibilities of a kernel must be finite numbers")
    return np.diag(compatibility) if compatibility is not None and np.ndim(compatibility) == 1 else compatibility


def check_deviations(shape: Sequence[int], deviations: Sequence[float]) -> None:
    """Raise ``ValueError`` unless there is a positive, finite standard deviation for each axis of a grid."""
    if len(shape) != len(deviations) or not all(0 < deviation < np.inf for deviation in deviations):
        raise ValueError(
            f"a grid of {len(shape)} axes needs as many positive standard deviations, not {tuple(deviations)}"
        )


def check_energies(unary: np.ndarray) -> None:
    """Raise ``ValueError`` for unary energies that are NaN, infinite or beyond what labels can be told apart by."""
    # One pass each, without a copy; a NaN makes both comparisons false.
    if not (unary.size == 0 or (unary.min() > -MOST_ENERGY and unary.max() < MOST_ENERGY)):
        raise ValueError(
            "unary energies must be finite (no NaN, no infinity): look for NaN in the network's scores or weights; "
            f"give an impossible label a large energy such as {-math.log(LEAST_PROBABILITY):.0f}"
        )


def positions(shape: Sequence[int], deviations: Sequence[float]) -> np.ndarray:
    """Return each point's grid coordinates in standard deviations, the features of a smoothness kernel.

    Args:
        shape: The grid's, such as (H, W).
        deviations: The kernel's standard deviations in pixels, one per axis.

    Returns:
        d x shape float32. The last axis comes first (x, y): the order of the features turns the lattice, and
        published results were made with this one.

    Raises:
        ValueError: Unless every axis has a positive, finite deviation.

    >>> positions((1, 3), (1.0, 2.0)).tolist()
    [[[0.0, 0.5, 1.0]], [[0.0, 0.0, 0.0]]]
    """
    check_deviations(shape, deviations)
    features = np.empty((len(shape), *shape), np.float32)
    for axis, (length, deviation) in enumerate(zip(shape, deviations, strict=True)):
        steps = np.arange(length, dtype=np.float32) / np.float32(deviation)
        features[-1 - axis] = steps.reshape(-1, *[1] * (len(shape) - axis - 1))
    return features


def along_axes(sxy: float | tuple[float, ...]) -> tuple[float, float]:
    """Return the deviations along rows and columns: of one number, or of (x, y) as the authors' package has it.

    >>> along_axes(3.0), along_axes((5.0, 2.0))
    ((3.0, 3.0), (2.0, 5.0))
    """
    across, down = sxy if isinstance(sxy, tuple | list) else (sxy, sxy)
    return float(down), float(across)


def appearance(image: np.ndarray, sxy: float | tuple[float, ...], srgb: float | tuple[float, ...]) -> np.ndarray:
    """Return positions and colours in standard deviations, the features of an appearance kernel.

    Args:
        image: H x W or H x W x K, of any range: RGB, depth, spectral bands.
        sxy: Standard deviation of the positions in pixels, or two: along x and y.
        srgb: Standard deviation of the channels, on the image's scale, or one for each.

    Returns:
        (2 + K) x H x W float32.

    Raises:
        ValueError: Unless there is one deviation, or one for each channel.

    >>> appearance(np.array([[0, 26]], np.uint8), sxy=2.0, srgb=13.0).tolist()
    [[[0.0, 0.5]], [[0.0, 0.0]], [[0.0, 2.0]]]
    """
    image = image[..., None] if image.ndim == 2 else image
    height, width, channels = image.shape
    features = np.empty((2 + channels, height, width), np.float32)
    features[:2] = positions((height, width), along_axes(sxy))
    deviations = srgb if isinstance(srgb, tuple | list) else (srgb,) * channels
    if len(deviations) != channels:
        raise ValueError(f"an image of {channels} channels needs one deviation or as many, not {len(deviations)}")
    for channel, deviation in enumerate(deviations):
        np.multiply(image[..., channel], np.float32(1 / deviation), out=features[2 + channel], casting="unsafe")
    return features


def as_array(values: np.ndarray | torch.Tensor) -> np.ndarray:
    """Look at a tensor as an array, without a copy where it is on the CPU (and NumPy knows its type)."""
    if not isinstance(values, torch.Tensor):
        return values
    values = values.detach().cpu()
    return (values.float() if values.dtype == torch.bfloat16 else values).numpy()


def unary_from_probabilities(
    probabilities: np.ndarray | torch.Tensor, *, scale: float = 1.0, clip: float = LEAST_PROBABILITY
) -> np.ndarray:
    """Return the energies -log p of probabilities, such as a softmax.

    Args:
        probabilities: C x ..., from 0 to 1; an array or a tensor of any floating type.
        scale: How certain they are, above 0 to 1: they are mixed with (1 - scale) / C.
        clip: The least that is granted to every label, above 0.

    Returns:
        C x ... float32.

    Raises:
        ValueError: For values that are no probabilities, NaN among them, and for a scale or clip out of range.

    >>> unary_from_probabilities(np.array([1.0, 0.0])).round(2).tolist()
    [-0.0, 18.420000076293945]
    """
    probabilities = as_array(probabilities)
    if not (0 < scale <= 1 and 0 < clip < 1):
        raise ValueError(f"scale lies above 0 up to 1, clip between 0 and 1, not {scale} and {clip}")
    # Rounding in half precision may leave a softmax a little above 1.
    if probabilities.size and not (probabilities.min() >= 0 and probabilities.max() <= 1.01):
        raise ValueError(
            f"probabilities lie between 0 and 1, not {probabilities.min()}..{probabilities.max()}: "
            "look for NaN in the network's scores, or use unary_from_scores"
        )
    mixed = scale * probabilities + (1 - scale) / len(probabilities) if scale < 1 else probabilities
    granted = np.maximum(mixed, clip, dtype=np.float32)
    return np.asarray(-np.log(granted))


def unary_from_scores(scores: np.ndarray | torch.Tensor) -> np.ndarray:
    """Return the energies -log softmax of class scores.

    Args:
        scores: C x ..., any finite numbers.

    Returns:
        C x ... float32.

    Raises:
        ValueError: For scores that are NaN or infinite.

    >>> np.exp(-unary_from_scores(np.zeros((4, 1)))).ravel().tolist()
    [0.25, 0.25, 0.25, 0.25]
    """
    scores = as_array(scores)
    if not np.isfinite(scores).all():
        raise ValueError("class scores must be finite (no NaN, no infinity): look for NaN in the network's weights")
    # Less the largest score, so that no exponential overflows.
    shifted = scores.astype(np.float32) - scores.max(0)
    energies: np.ndarray = np.log(np.exp(shifted).sum(0)) - shifted
    return energies


def unary_from_labels(labels: np.ndarray, *, classes: int, confidence: float) -> np.ndarray:
    """Return the energies of labels that are right with a given probability.

    Args:
        labels: Integers of any shape; where they lie outside 0..C-1 all classes are alike. (The authors' package takes
            0 for "unsure" and counts from 1: give it ``labels - 1``.)
        classes: How many classes there are.
        confidence: The probability of the label, between 0 and 1; the other classes share the rest.

    Returns:
        C x ... float32.

    Raises:
        ValueError: For a confidence outside (0, 1), or fewer than two classes.

    >>> np.exp(-unary_from_labels(np.array([1, -1]), classes=2, confidence=0.75)).round(2).tolist()
    [[0.25, 0.5], [0.75, 0.5]]
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
