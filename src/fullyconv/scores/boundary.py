"""Scores of boundaries: IU near them (trimap), and how well they are met (boundary F-score)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np

from fullyconv.scores.metrics import confusion, score
from fullyconv.types import VOID

WIDTHS = tuple(range(1, 21))
"""Widths of the trimap in pixels."""

TOLERANCE = 0.0075
"""How far a boundary may lie from the true one, as a share of the image's diagonal (Csurka et al. 2013)."""

ROUNDING = 1e-9  # so that a width of sqrt(20) reaches a pixel 4 rows and 2 columns away

CONVENTION = (
    "trimap of width w: pixels at most w px (Euclidean) from a pixel of another class in the truth, or of a ring of "
    "void between two classes, IU from one confusion matrix over the set; boundary F-score: per class over the whole "
    "set, matched within 0.75 % of the diagonal, then the mean, the boundary in the middle of a ring; a ring is at "
    "most twice that wide, the edges of wider void are no boundaries, and void pixels are not counted"
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

    ``trimap`` is widths x C x C: the confusion matrix (rows = truth) of the pixels within each of ``widths``.
    ``matched`` and ``drawn`` are C: predicted boundary pixels near a true one of their class, and all
    of them; ``met`` and ``true`` the same for the truth's.
    """

    trimap: np.ndarray
    matched: np.ndarray
    drawn: np.ndarray
    met: np.ndarray
    true: np.ndarray
    widths: tuple[float, ...] = WIDTHS

    def __add__(self, other: BoundaryCounts) -> BoundaryCounts:
        return BoundaryCounts(
            self.trimap + other.trimap,
            self.matched + other.matched,
            self.drawn + other.drawn,
            self.met + other.met,
            self.true + other.true,
            self.widths,
        )

    @property
    def trimap_iu(self) -> dict[float, float]:
        """Mean IU within each width, by width in pixels."""
        return {width: score(counts).mean_iu for width, counts in zip(self.widths, self.trimap, strict=True)}

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


def count_boundaries(
    truth: np.ndarray, guess: np.ndarray, *, classes: int, widths: Sequence[float] = WIDTHS
) -> BoundaryCounts:
    """Count one image.

    The band around object boundaries is that of Kohli et al. (2009) and Krähenbühl and Koltun (2011); where the truth
    has a ring of void around objects, as PASCAL VOC's masks do, the band goes out from that (Chen et al. 2015).

    Args:
        truth: H x W; labels outside 0..C-1 (255 among them) are void and count nowhere.
        guess: H x W, 0..C-1.
        classes: C.
        widths: Of the band, in pixels; a pixel exactly so far away belongs to it.

    Returns:
        Counts that add up over images.

    >>> truth = np.repeat([[0, 0, 0, 255, 255, 1, 1, 1]], 4, axis=0)
    >>> counts = count_boundaries(truth, np.repeat([[0, 0, 0, 0, 1, 1, 1, 1]], 4, axis=0), classes=2, widths=(1,))
    >>> counts.f_score, counts.trimap_iu, int(counts.trimap.sum())
    (1.0, {1: 1.0}, 8)
    """
    if classes < 1 or not all(0 < width < np.inf for width in widths):
        raise ValueError(f"boundaries need classes and widths above 0, not {classes} and {tuple(widths)}")
    void = (truth < 0) | (truth >= classes)
    truth = np.where(void, VOID, truth)
    filled, ring = _rings(truth, reach=_tolerance(truth.shape))
    near = _nearest_other(truth, ring, reach=ceil(max(widths)))
    counts = [
        confusion(np.where(near <= float(width) ** 2 * (1 + ROUNDING), truth, VOID), guess, classes=classes)
        for width in widths
    ]
    seen = np.where(filled < 0, VOID, guess)
    matched, drawn, met, true = _matches(filled, seen, classes)
    return BoundaryCounts(np.stack(counts), matched, drawn, met, true, tuple(widths))


def _tolerance(shape: tuple[int, ...]) -> int:
    return max(1, round(TOLERANCE * float(np.hypot(shape[0], shape[1]))))


def _rings(truth: np.ndarray, *, reach: int) -> tuple[np.ndarray, np.ndarray]:
    """Find the void that only draws boundaries: at most ``2 reach`` px wide, between two classes.

    Returns the truth with all void of that width filled by the nearest labels, so that boundaries run in its middle,
    and where the rings are.
    """
    void = truth < 0
    if not void.any() or void.all():
        return truth, np.zeros_like(void)
    thin = void & ~_around(~_around(~void, reach), reach)
    filled, nearest = truth.copy(), np.full(truth.shape, (reach + 1) ** 2)
    for label in np.unique(truth[~void]):
        distance = squared_distance(truth == label, reach=reach)
        closer = thin & (distance < nearest)
        filled[closer], nearest[closer] = label, distance[closer]
    return filled, thin & _around(boundaries(filled), 2 * reach)


def _around(marked: np.ndarray, reach: int) -> np.ndarray:
    """Mark squares around the marked pixels; squares, so that a rectangle's corners are as wide as the rectangle."""
    for axis in (0, 1):
        counted = np.pad(
            np.cumsum(marked, axis=axis, dtype=np.int32), [(1, 0) if each == axis else (0, 0) for each in (0, 1)]
        )
        last = marked.shape[axis]
        index = np.arange(last)
        after, before = np.minimum(index + reach + 1, last), np.maximum(index - reach, 0)
        marked = np.take(counted, after, axis) > np.take(counted, before, axis)
    return marked


def _nearest_other(truth: np.ndarray, ring: np.ndarray, *, reach: int) -> np.ndarray:
    """Return each labelled pixel's squared distance to the nearest pixel of another class or of a ring."""
    near = np.full(truth.shape, (reach + 1) ** 2)
    solid = (truth >= 0) | ring
    for label in np.unique(truth[truth >= 0]):
        own = truth == label
        near[own] = squared_distance(solid & ~own, reach=reach)[own]
    return near


def _matches(truth: np.ndarray, guess: np.ndarray, classes: int) -> tuple[np.ndarray, ...]:
    """Count, class by class, boundary pixels of the prediction and of the truth, and those that meet."""
    tolerance = _tolerance(truth.shape)
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
