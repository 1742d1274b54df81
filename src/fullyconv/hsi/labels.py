"""Label maps of scenes: the file's numbers to class indices."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from fullyconv.files import BadFile
from fullyconv.types import MOST_CLASSES, VOID, ClassSet, palette_colour

Zero = Literal["unlabelled", "class"]
"""What 0 means in a label map: not labelled, as in the data sets of the field, or a class of its own."""

BACKGROUND = "background"  # the class of 0, where that is one
UNLABELLED_NAME = "Unclassified"  # ENVI's word for what has no label
COLOURS = (
    (230, 25, 75), (60, 180, 75), (255, 225, 25), (0, 130, 200), (245, 130, 48), (145, 30, 180), (70, 240, 240),
    (240, 50, 230), (210, 245, 60), (0, 128, 128), (170, 110, 40), (128, 0, 0), (128, 128, 0), (0, 0, 128),
    (250, 190, 212), (170, 255, 195), (220, 190, 255), (255, 215, 180), (128, 128, 128), (255, 250, 200),
)  # fmt: skip
"""Twenty colours that can be told apart (S. Trubetskoy's); classes beyond them get VOC's."""

PURE = 0.8  # of a pixel that counts as one of its largest part's class


def labels_from_map(values: np.ndarray, path: Path, *, zero: Zero = "unlabelled") -> np.ndarray:
    """Turn a map of whole numbers into labels.

    Args:
        values: H x W numbers.
        path: Their file, for errors.
        zero: What 0 means. Where it is not labelled, k becomes class k - 1; where it is a class, class k.

    Returns:
        H x W int16, ``VOID`` where there is no label.

    Raises:
        BadFile: For fractions, negative numbers, and more classes than int16 holds.

    >>> labels_from_map(np.array([[0.0, 2.0]]), Path("map.npy")).tolist()
    [[-1, 1]]

    """
    if values.dtype.kind not in "bui":
        whole = np.isfinite(values).all() and np.array_equal(values, np.round(values))
        if not whole:
            raise BadFile(path, "labels that are no whole numbers", "a label map holds 0 (not labelled), 1, 2, …")
    low, high = values.min(), values.max()
    if low < 0 or high > MOST_CLASSES - int(zero == "class"):
        what = f"labels from {low:g} to {high:g}"
        raise BadFile(path, what, f"a label map holds 0 (not labelled), 1, 2, … {MOST_CLASSES}")
    return values.astype(np.int16) - np.int16(zero == "unlabelled")  # 0 becomes VOID


def labels_from_abundances(abundances: np.ndarray, threshold: float = PURE) -> np.ndarray:
    """Assign each pixel the class of its largest part.

    Args:
        abundances: H x W x C shares of the classes.
        threshold: Where the largest part is smaller, the pixel is mixed and stays unlabelled.

    Returns:
        H x W int16, ``VOID`` where unlabelled.

    Raises:
        ValueError: For another shape, and a threshold outside 0..1.

    >>> labels_from_abundances(np.array([[[0.9, 0.1], [0.5, 0.5]]])).tolist()
    [[0, -1]]

    """
    if abundances.ndim != 3 or not 0 < threshold <= 1:
        raise ValueError(f"abundances are H x W x C and the threshold in 0..1: {abundances.shape}, {threshold}")
    pure = abundances.max(axis=2) >= threshold
    return np.where(pure, abundances.argmax(axis=2), VOID).astype(np.int16)


def are_abundances(values: np.ndarray) -> bool:
    """Return whether an array holds shares of classes, H x W x C from 0 to (but for rounding) 1."""
    return bool(values.ndim == 3 and np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1.001)


def read_labels(values: np.ndarray, path: Path, *, threshold: float = PURE, zero: Zero = "unlabelled") -> np.ndarray:
    """Turn a label map or abundances, whichever it is, into labels; raises ``BadFile``."""
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[..., 0]
    if values.ndim == 2:
        return labels_from_map(values, path, zero=zero)
    if not are_abundances(values):
        shape = " x ".join(map(str, values.shape))
        what = f"{shape} numbers that are neither a label map nor abundances"
        raise BadFile(path, what, "give an H x W map of whole numbers, or H x W x classes of fractions from 0 to 1")
    return labels_from_abundances(values, threshold)


def class_set(count: int, names: tuple[str, ...] = (), *, zero: Zero = "unlabelled") -> ClassSet:
    """Name classes and number them as they are in files.

    Args:
        count: How many there are; more, if there are more names.
        names: Of the numbers 1, 2, …; without good ones they are ``class_1``, ``class_2``, …
        zero: Whether 0 is a class too, called ``background``. Otherwise it stands for pixels without a label; where
            it is a class, the number after the last class does.

    Returns:
        The classes, with colours that can be told apart.

    >>> class_set(2).values, class_set(2).ignore_index, class_set(2, zero="class").names
    ((1, 2), 0, ('background', 'class_1'))

    """
    first = int(zero == "unlabelled")
    numbered = count - (1 - first)  # the classes that are 1, 2, …
    chosen = [f"class_{number}" for number in range(1, numbered + 1)]
    if len(names) >= numbered and len({*names, BACKGROUND}) == len(names) + 1:
        chosen = list(names)
    if not first:
        chosen = [BACKGROUND, *chosen]
    values = tuple(range(first, first + len(chosen)))
    return ClassSet(
        tuple(chosen),
        colours=(*COLOURS[: len(chosen)], *map(palette_colour, range(len(COLOURS) + 1, len(chosen) + 1))),
        ignore_index=0 if first else len(chosen),
        values=values,
    )
