"""How far scores can be trusted: 95 % intervals by bootstrap over pictures, or over groups of them."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

LEVEL = 0.95
RESAMPLES = 2000
SEED = 1411  # the same counts give the same intervals
FEW = 10  # groups below which intervals come out too narrow

Interval = tuple[float, float]


def margins(counts: np.ndarray) -> np.ndarray:
    """Return all that scores need of a confusion matrix.

    Args:
        counts: C x C, rows = truth.

    Returns:
        3 x C int64: pixels that are right, that are truly of the class, that are predicted as it.

    >>> margins(np.array([[3, 1], [0, 4]])).tolist()
    [[3, 4], [4, 4], [3, 5]]
    """
    return np.stack([np.diag(counts), counts.sum(1), counts.sum(0)])


@dataclass(frozen=True)
class Intervals:
    """The interval of every score, each (low, high), 0..1 (NaN: no score).

    ``units`` are what was drawn: ``count`` pictures or groups.
    """

    pixel_accuracy: Interval
    mean_accuracy: Interval
    mean_iu: Interval
    frequency_weighted_iu: Interval
    per_class_iu: tuple[Interval, ...]
    per_class_accuracy: tuple[Interval, ...]
    units: str
    count: int

    @property
    def convention(self) -> str:
        """Say in a line what the intervals are."""
        few = f"; with fewer than {FEW} {self.units} they come out too narrow" if self.count < FEW else ""
        return f"{LEVEL:.0%} intervals: {RESAMPLES} bootstrap samples of {self.count} {self.units}, percentiles{few}"


def bootstrap(
    pictures: np.ndarray, groups: Sequence[Hashable] | None = None, *, samples: int = RESAMPLES, seed: int = SEED
) -> Intervals | None:
    """Draw pictures (or whole groups) with replacement, score each sample, and take percentiles of the scores.

    Pictures of one drive, patient or slide are alike, so a new drive differs more than a new picture of the same:
    intervals over groups say how far the score would move on other groups.

    Args:
        pictures: N x 3 x C, the ``margins`` of each picture's confusion matrix.
        groups: What each picture belongs to; without it every picture is drawn by itself.
        samples: How often to draw.
        seed: Of the draws.

    Returns:
        The central 95 % of each score, or ``None`` for fewer than two pictures or groups.

    >>> one, two = margins(np.array([[3, 1], [0, 4]])), margins(np.array([[4, 0], [2, 2]]))
    >>> bootstrap(np.stack([one, two])).pixel_accuracy
    (0.75, 0.875)
    """
    units = "pictures" if groups is None else "groups"
    if groups is not None:
        names = {name: place for place, name in enumerate(dict.fromkeys(groups))}
        gathered = np.zeros((len(names), *pictures.shape[1:]), np.int64)
        np.add.at(gathered, [names[group] for group in groups], pictures)
        pictures = gathered
    if len(pictures) < 2:
        return None
    rng = np.random.default_rng(seed)
    even = np.full(len(pictures), 1 / len(pictures))
    times = rng.multinomial(len(pictures), even, size=samples)
    # In float64 sums of pixels are exact up to 2 ** 53.
    sums = times.astype(np.float64) @ pictures.reshape(len(pictures), -1).astype(np.float64)
    scores = _score_all(sums.reshape(samples, *pictures.shape[1:]))
    whole = {name: _percentiles(values) for name, values in scores.items() if values.ndim == 1}
    single = {
        name: tuple(_percentiles(values[:, index]) for index in range(values.shape[1]))
        for name, values in scores.items()
        if values.ndim == 2
    }
    return Intervals(**whole, **single, units=units, count=len(pictures))  # type: ignore[arg-type]


def _score_all(sums: np.ndarray) -> dict[str, np.ndarray]:
    """Score samples x 3 x C margins as ``fullyconv.scores.metrics.score`` does one matrix."""
    hits, truth, guess = sums.swapaxes(0, 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        iu, accuracy, share = hits / (truth + guess - hits), hits / truth, truth / truth.sum(1, keepdims=True)
        pixel = hits.sum(1) / truth.sum(1)
    return {
        "pixel_accuracy": pixel,
        "mean_accuracy": _mean(accuracy),
        "mean_iu": _mean(iu),
        "frequency_weighted_iu": np.where(truth > 0, share * np.nan_to_num(iu), 0).sum(1),
        "per_class_iu": iu,
        "per_class_accuracy": accuracy,
    }


def _mean(values: np.ndarray) -> np.ndarray:
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(known, values, 0).sum(1) / known.sum(1))


def _percentiles(values: np.ndarray) -> Interval:
    known = values[~np.isnan(values)]
    if not known.size:
        return float("nan"), float("nan")
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
