"""Count first, then divide: one integer confusion matrix over a whole set gives every score (paper, section 5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

INTEGERS = "biu"
SMALL = 256  # a table's side, beyond which several cost more memory than they save time
MOST_SIDE = 1 << 16  # a pair is counted by a code of 32 bits; the table takes 34 GB

CONVENTION = (
    "one confusion matrix over the whole set; void pixels are not counted; a class that is neither in the truth nor "
    "predicted is left out of the means; a class that is predicted but not in the truth counts 0 in mean IU"
)


def confusion(truth: np.ndarray, guess: np.ndarray, *, classes: int) -> np.ndarray:
    """Count the pixels of each pair of classes.

    Args:
        truth: Labels of any shape; those outside 0..C-1 are void and not counted.
        guess: Predictions of the same shape, 0..C-1 where the truth is a class.
        classes: C.

    Returns:
        C x C int64, rows = truth, columns = prediction; matrices of images add up to that of a set.

    Raises:
        ValueError: If the shapes differ or a counted prediction is no class.

    >>> confusion(np.array([0, 0, 1, -1]), np.array([0, 1, 1, 1]), classes=2).tolist()
    [[1, 1], [0, 1]]
    """
    if truth.shape != guess.shape:
        raise ValueError(f"truth {truth.shape} and prediction {guess.shape} differ in size")
    from fullyconv.scores.counting import WAYS, count_pairs  # imports numba

    if truth.dtype.kind not in INTEGERS or guess.dtype.kind not in INTEGERS:
        seen = (truth >= 0) & (truth < classes)
        truth, guess = truth[seen].astype(np.int64), guess[seen].astype(np.int64)
    side = classes + 1  # what is no class has a row and a column of its own
    if side > MOST_SIDE:
        raise ValueError(f"a confusion matrix of {classes} classes: {MOST_SIDE - 1} are the most")
    tables = np.zeros((WAYS if side <= SMALL else 1, side, side), np.int64)
    stride = side * side if len(tables) > 1 else 0
    count_pairs(_labels(truth, classes), _labels(guess, classes), side, stride, tables.ravel())
    counts: np.ndarray = tables.sum(0)
    if counts[:classes, classes].any():
        guessed = guess[(truth >= 0) & (truth < classes)].astype(np.int64)
        raise ValueError(f"predictions must be classes 0..{classes - 1}, not {guessed.min()}..{guessed.max()}")
    return np.ascontiguousarray(counts[:classes, :classes])


def _labels(labels: np.ndarray, classes: int) -> tuple[np.ndarray, np.unsignedinteger[Any]]:
    """Lay integers in a row as unsigned ones of their width, beside the largest that counts as itself.

    Negative ones become the largest of all, beyond the classes: where these reach so far, in a wider type.
    """
    signed = labels.dtype.kind == "i"
    narrow = signed and classes > np.iinfo(labels.dtype).max
    kind = np.dtype(np.int64) if narrow else labels.dtype.newbyteorder("=")
    row = labels.astype(kind, copy=False).ravel().view(f"u{kind.itemsize}")
    return row, row.dtype.type(min(classes, np.iinfo(row.dtype).max))


@dataclass(frozen=True)
class Scores:
    """The paper's four scores, 0..1, and the per-class figures behind them (NaN: class not there)."""

    pixel_accuracy: float
    mean_accuracy: float
    mean_iu: float
    frequency_weighted_iu: float
    per_class_iu: tuple[float, ...]
    per_class_accuracy: tuple[float, ...]
    mean_iu_present: float
    """Mean IU over the classes in the truth alone, as SIFT Flow is scored (three of its classes are never tested)."""
    kappa: float
    """Cohen's kappa: accuracy beyond what the two margins of the matrix give by chance; 1 at best, 0 by chance."""
    per_class_f1: tuple[float, ...]


def score(counts: np.ndarray) -> Scores:
    """Divide the counts of a confusion matrix (paper, section 5).

    Args:
        counts: C x C, rows = truth, of one image or added up over a set.

    Returns:
        The scores. Means skip classes without a value; with no labelled pixel at all, accuracies and mean IU are NaN
        and frequency-weighted IU is 0.

    >>> scores = score(np.array([[3, 1], [0, 4]]))
    >>> scores.pixel_accuracy, scores.per_class_iu
    (0.875, (0.75, 0.8))
    """
    hits, truth = np.diag(counts).astype(np.float64), counts.sum(1).astype(np.float64)
    union = truth + counts.sum(0) - hits
    with np.errstate(invalid="ignore", divide="ignore"):
        accuracy, iu, f1 = hits / truth, hits / union, 2 * hits / (truth + counts.sum(0))
        pixel = hits.sum() / truth.sum()
        share = truth / truth.sum()
        chance = (share * counts.sum(0)).sum() / truth.sum()
        kappa = (pixel - chance) / (1 - chance)
    there = truth > 0
    return Scores(
        pixel_accuracy=float(pixel),
        mean_accuracy=_mean(accuracy),
        mean_iu=_mean(iu),
        frequency_weighted_iu=float((share[there] * iu[there]).sum()),
        per_class_iu=tuple(map(float, iu)),
        per_class_accuracy=tuple(map(float, accuracy)),
        mean_iu_present=_mean(iu[there]),
        kappa=float(kappa),
        per_class_f1=tuple(map(float, f1)),
    )


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")


def shown(value: float, digits: int = 3) -> str:
    """Write a score; a dash where there is none (NaN).

    >>> shown(0.5), shown(float("nan"))
    ('0.500', '–')
    """
    return "–" if np.isnan(value) else f"{value:.{digits}f}"
