"""The best IU at each stride on a data set's own masks, from as many of them as a moment allows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from fullyconv.data.dataset import read_labels
from fullyconv.data.pairs import Pair
from fullyconv.files import BadFile
from fullyconv.scores.bounds import STRIDES, Bounds, count_bounds
from fullyconv.types import ClassSet

PIXELS = 10_000_000  # that are counted in all: seconds, and shares of classes to a few per cent
SIDE = 1024  # of the middle of a larger mask, which is what is counted of it


def sample_bounds(
    pairs: Sequence[Pair],
    classes: ClassSet,
    *,
    pixels: int = PIXELS,
    strides: Sequence[int] = STRIDES,
    progress: Callable[[str, int, int], None] | None = None,
) -> Bounds:
    """Measure how good predictions at several strides can get (``fullyconv.scores.bounds``).

    Args:
        pairs: Whose masks to read; of many those at even distances. Masks that cannot be read are left out.
        classes: What the masks hold.
        pixels: About how many to count in all; 0: every pixel of every mask.
        strides: Pixels between two units of the prediction.
        progress: Called with (what is being done, done, total).

    Returns:
        The counts; ``pictures`` of them were looked at.

    >>> sample_bounds([], ClassSet(("road", "sky"))).pictures
    0
    """
    empty = np.zeros((len(strides), len(classes), len(classes)), np.int64)
    found, left = Bounds(tuple(strides), empty, empty), pixels
    order = spread_order(len(pairs))
    for done, place in enumerate(order, start=1):
        try:
            labels = read_labels(pairs[place], classes)
        except BadFile:
            continue  # whoever reads all pairs has complained of it
        if pixels:
            labels = middle(labels)
        found += count_bounds(labels, classes=len(classes), strides=strides)
        left -= labels.size
        if progress is not None:
            progress("upper bounds", pixels - left if pixels else done, pixels or len(pairs))
        if pixels and left <= 0:
            break
    return found


def spread_order(count: int) -> list[int]:
    """Return 0..count-1 in an order whose beginnings are spread evenly, however long they are.

    >>> spread_order(6)
    [0, 4, 2, 1, 5, 3]
    """
    bits = max(1, (count - 1).bit_length())
    turned = (int(f"{place:0{bits}b}"[::-1], 2) for place in range(1 << bits))
    return [place for place in turned if place < count]


def middle(labels: np.ndarray) -> np.ndarray:
    """Return what is looked at of a label map: all of it, or the middle of a large one."""
    top, left = (max(0, (side - SIDE) // 2) for side in labels.shape)
    return labels[top : top + SIDE, left : left + SIDE]
