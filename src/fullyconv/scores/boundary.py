"""Scores of boundaries: IU near them (trimap), and how well they are met (boundary F-score)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fullyconv.scores.metrics import confusion, score
from fullyconv.types import VOID

WIDTHS = tuple(range(1, 21))
"""Widths of the trimap in pixels."""

TOLERANCE = 0.0075
"""How far a boundary may lie from the true one, as a share of the image's diagonal (Csurka et al. 2013)."""

CONVENTION = (
    "trimap of width w: pixels at most w px (Euclidean) from a pixel of another class in the truth, IU from one "
    "confusion matrix over the set; boundary F-score: per class over the whole set, matched within 0.75 % of the "
    "diagonal, then the mean; the edges of void are no boundaries and void pixels are not counted"
)


def boundaries(labels: np.ndarray) -> np.ndarray:
    """Mark the pixels with a 4-neighbour of another class.

    Args:
        labels: H x W; negative labels are no class, and no boundary runs beside them.

    Returns:
        H x W bool.

    >>> boundaries(np.array([[0, 0, 1, -1, 2]])).tolist()
    [[False, True, True, False, False]]
    """
    edge = np.zeros(labels.shape, np.bool_)
    for one, other in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])):
        cut = (labels[one] != labels[other]) & (labels[one] >= 0) & (labels[other] >= 0)
        edge[one] |= cut
        edge[other] |= cut
    return edge


def squared_distance(marked: np.ndarray, *, reach: int) -> np.ndarray:
    """Return the squared Euclidean distance to the nearest marked pixel, exact up to ``reach`` px.

    Along rows first, then over the 2 reach + 1 rows around: the nearest pixel of each row is enough. By NumPy alone,
    as SciPy is an extra; bounded, as no score looks farther.

    Args:
        marked: H x W bool.
        reach: Pixels, from 0 on.

    Returns:
        H x W int64; ``(reach + 1)^2`` for what is farther away.

    >>> squared_distance(np.array([[True, False, False, False]]), reach=2).tolist()
    [[0, 1, 4, 9]]
    """
    far = reach + 1
    height, width = marked.shape
    index = np.broadcast_to(np.arange(width), marked.shape)
    left = np.maximum.accumulate(np.where(marked, index, -far), axis=1)
    right = np.minimum.accumulate(np.where(marked, index, width + far)[:, ::-1], axis=1)[:, ::-1]
    along = np.minimum(np.minimum(index - left, right - index), far) ** 2
    nearest = np.minimum(along, far**2)
    for step in range(1, min(reach, height - 1) + 1):
        nearest[step:] = np.minimum(nearest[step:], along[:-step] + step**2)
        nearest[:-step] = np.minimum(nearest[:-step], along[step:] + step**2)
    return np.asarray(nearest)


@dataclass(frozen=True)
class BoundaryCounts:
    """What was counted along boundaries; counts of images add up.

    ``trimap`` is widths x C x C: the confusion matrix (rows = truth) of the pixels within each width.
    ``matched`` and ``drawn`` are C: predicted boundary pixels near a true one of their class, and all
    of them; ``met`` and ``true`` the same for the truth's.
    """

    trimap: np.ndarray
    matched: np.ndarray
    drawn: np.ndarray
    met: np.ndarray
    true: np.ndarray

    def __add__(self, other: BoundaryCounts) -> BoundaryCounts:
        return BoundaryCounts(
            self.trimap + other.trimap,
            self.matched + other.matched,
            self.drawn + other.drawn,
            self.met + other.met,
            self.true + other.true,
        )

    @property
    def trimap_iu(self) -> dict[int, float]:
        """Mean IU within each width, by width in pixels."""
        return {width: score(counts).mean_iu for width, counts in zip(WIDTHS, self.trimap, strict=True)}

    @property
    def f_scores(self) -> tuple[float, ...]:
        """The boundary F-score of each class; NaN where neither truth nor prediction has a boundary."""
        precision, recall = self.matched / np.maximum(self.drawn, 1), self.met / np.maximum(self.true, 1)
        both = np.maximum(precision + recall, np.finfo(np.float64).tiny)
        scores = np.where(self.drawn + self.true > 0, 2 * precision * recall / both, np.nan)
        return tuple(map(float, scores))

    @property
    def f_score(self) -> float:
        """The mean F-score of the classes that have one."""
        known = [value for value in self.f_scores if not np.isnan(value)]
        return float(np.mean(known)) if known else float("nan")


def count_boundaries(truth: np.ndarray, guess: np.ndarray, *, classes: int) -> BoundaryCounts:
    """Count one image.

    Args:
        truth: H x W; labels outside 0..C-1 count nowhere.
        guess: H x W, 0..C-1.
        classes: C.

    Returns:
        Counts that add up over images.

    >>> truth = np.repeat([[0, 0, 0, 1, 1, 1]], 4, axis=0)
    >>> count_boundaries(truth, truth, classes=2).f_score
    1.0
    """
    void = (truth < 0) | (truth >= classes)
    truth, guess_seen = np.where(void, VOID, truth), np.where(void, VOID, guess)
    near = squared_distance(boundaries(truth), reach=max(WIDTHS))
    # The pixels next to a boundary are at distance 0 of it and 1 of the other class: ring 1.
    rings = np.ceil(np.sqrt(near)).astype(np.int64) + 1
    counts = [confusion(np.where(rings == width, truth, VOID), guess, classes=classes) for width in WIDTHS]
    return BoundaryCounts(np.cumsum(counts, axis=0), *_matches(truth, guess_seen, classes))


def _matches(truth: np.ndarray, guess: np.ndarray, classes: int) -> tuple[np.ndarray, ...]:
    """Count, class by class, boundary pixels of the prediction and of the truth, and those that meet."""
    tolerance = max(1, round(TOLERANCE * float(np.hypot(*truth.shape))))
    found = np.zeros((4, classes), np.int64)
    edges = {"drawn": boundaries(guess), "true": boundaries(truth)}
    for index in range(classes):
        drawn, true = edges["drawn"] & (guess == index), edges["true"] & (truth == index)
        if not drawn.any() and not true.any():
            continue
        by_drawn = squared_distance(drawn, reach=tolerance) <= tolerance**2
        by_true = squared_distance(true, reach=tolerance) <= tolerance**2
        found[:, index] = (drawn & by_true).sum(), drawn.sum(), (true & by_drawn).sum(), true.sum()
    return tuple(found)
