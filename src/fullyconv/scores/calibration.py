"""Whether probabilities mean what they say: expected calibration error, where the errors are, the temperature."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

FINE = 3000  # bins that are counted; every division of ``BINS`` is one of theirs too
BINS = 15  # of the calibration error and the reliability diagram, as usual (Guo et al. 2017)
LEAST_CERTAIN = 0.1
HOTTEST = 20.0  # a temperature, and the inverse of the coldest
HALVINGS = 24  # of the range: to a millionth


def _empty() -> np.ndarray:
    return np.zeros((3, FINE))


@dataclass(frozen=True)
class Calibration:
    """What was counted of the most probable class of each labelled pixel; counts of pictures add up.

    ``counted`` is 3 x ``FINE``, by confidence from 0 to 1: pixels, those that are right, and the sum of confidences.

    >>> sure = count_calibration(np.array([[[0.9, 0.9]], [[0.1, 0.1]]]), np.array([[0, 1]]))
    >>> round(sure.error, 3)
    0.4
    """

    counted: np.ndarray = field(default_factory=_empty)

    def __add__(self, other: Calibration) -> Calibration:
        return Calibration(self.counted + other.counted)

    @property
    def bins(self) -> list[tuple[int, float, float]]:
        """The reliability diagram: pixels, mean confidence and accuracy of each of 15 bins (NaN: empty)."""
        pixels, right, confidence = self.counted.reshape(3, BINS, -1).sum(2)
        with np.errstate(invalid="ignore"):
            rows = zip(pixels, confidence / pixels, right / pixels, strict=True)
            return [(int(count), float(mean), float(share)) for count, mean, share in rows]

    @property
    def error(self) -> float:
        """The expected calibration error, 0..1: how far confidence and accuracy lie apart, over all pixels."""
        _, right, confidence = self.counted.reshape(3, BINS, -1).sum(2)
        pixels = self.counted[0].sum()
        return float(abs(right - confidence).sum() / pixels) if pixels else float("nan")

    @property
    def caught(self) -> float:
        """The share of all wrong pixels that the 10 % least certain pixels hold (by chance: 0.1)."""
        pixels, right, _ = self.counted
        wrong, most = pixels - right, LEAST_CERTAIN * pixels.sum()
        if not wrong.sum():
            return float("nan")
        before = np.cumsum(pixels) - pixels
        part = np.clip((most - before) / np.maximum(pixels, 1), 0, 1)  # of the bin in which the tenth ends
        return float((part * wrong).sum() / wrong.sum())

    def document(self) -> dict[str, Any]:
        """Return everything as plain values for JSON."""
        return {
            "expected_calibration_error": self.error,
            "error_in_least_certain_tenth": self.caught,
            "reliability": [
                {"pixels": count, "confidence": mean, "accuracy": share} for count, mean, share in self.bins
            ],
        }


def count_calibration(probabilities: np.ndarray, truth: np.ndarray) -> Calibration:
    """Count one picture.

    Args:
        probabilities: C x H x W, 0..1.
        truth: H x W; labels outside 0..C-1 are void and not counted.

    Returns:
        Counts that add up over pictures.

    >>> count_calibration(np.array([[[0.75]], [[0.25]]]), np.array([[0]])).bins[11]
    (1, 0.75, 1.0)
    """
    seen = (truth >= 0) & (truth < len(probabilities))
    confidence = probabilities.max(0)[seen].astype(np.float64)
    right = (probabilities.argmax(0) == truth)[seen]
    place = np.minimum((confidence * FINE).astype(np.int64), FINE - 1)
    weights = (None, right.astype(np.float64), confidence)
    return Calibration(np.stack([np.bincount(place, weight, minlength=FINE) for weight in weights]).astype(np.float64))


def temper(logarithms: np.ndarray, temperature: float) -> np.ndarray:
    """Make probabilities less or more certain: the softmax of their logarithms over a temperature.

    The order of the classes stays.

    Args:
        logarithms: C x …, scores before the softmax, or logarithms of probabilities.
        temperature: Above 1 less certain, below 1 more.

    Returns:
        C x …, 0..1.

    >>> temper(np.log([[0.9], [0.1]]), 2.0).round(2).tolist()
    [[0.75], [0.25]]
    """
    return probabilities_of(torch.from_numpy(logarithms), temperature).numpy()


def probabilities_of(scores: Tensor, temperature: float, axis: int = 0) -> Tensor:
    """Turn scores before the softmax into probabilities: what predictions, exported networks and the service give.

    Args:
        scores: Of the classes along ``axis``.
        temperature: See ``temper``.
        axis: That of the classes.

    Returns:
        Of the same shape, 0..1.

    >>> probabilities_of(torch.tensor([[0.9], [0.1]]).log(), 2.0).round(decimals=2).tolist()
    [[0.75], [0.25]]
    """
    return (scores / temperature).softmax(axis)


def fit_temperature(logarithms: np.ndarray, truth: np.ndarray) -> float:
    """Find the temperature of the least cross-entropy (Guo et al. 2017, section 4.2).

    Args:
        logarithms: C x N, as ``temper`` takes them.
        truth: N, 0..C-1.

    Returns:
        The temperature, 1/20 to 20; 1 where there is nothing to learn from.

    >>> chances = np.log(np.array([[0.75, 0.75, 0.75, 0.75], [0.25, 0.25, 0.25, 0.25]]))
    >>> round(fit_temperature(2 * chances, np.array([0, 0, 0, 1])), 3)
    2.0
    """
    if not truth.size:
        return 1.0
    scores = logarithms.astype(np.float64)
    own = scores[truth, np.arange(truth.size)]
    low, high = 1 / HOTTEST, HOTTEST  # of the inverse, in which the loss is convex: its slope rises
    for _ in range(HALVINGS):
        middle = (low * high) ** 0.5
        slope = ((temper(scores, 1 / middle) * scores).sum(0) - own).mean()
        low, high = (low, middle) if slope > 0 else (middle, high)
    return float(1 / (low * high) ** 0.5)
