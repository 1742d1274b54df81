"""Which labelled pixels of one scene train and which test, and what such a split leaks.

A network that labels a pixel reads a window around it. Where the window of a training pixel holds a
test pixel, the training has seen that pixel's spectrum: the test is no longer one of unseen data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Literal

import numpy as np

from fullyconv.hsi.formats.contents import needs

SplitKind = Literal["random", "blocks", "masks"]

Windows = tuple[np.ndarray, np.ndarray]
"""For every row and every column of a scene the first and the last that is read to label it: H x 2 and W x 2."""

LEAST_SHARE = 0.05  # of a class's pixels (one at least) that must be on a side for the class to count as there
BLOCKS_PER_SIDE = (2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 17, 20)  # of the shorter side, where no block size is asked for
TRIALS = 6  # layouts per size and round
MOST_ROUNDS = 20  # while the guard does not fit


@dataclass(frozen=True)
class PixelSplit:
    """The labelled pixels of a scene, H x W bool each: every one trains, tests or is discarded.

    No test pixel lies within ``guard`` rows and columns of a training pixel; ``discarded`` are the
    pixels given up for that, and those on the training side that were not sampled.
    """

    train: np.ndarray
    test: np.ndarray
    discarded: np.ndarray
    kind: SplitKind
    guard: int = 0

    def counts(self, labels: np.ndarray, classes: int) -> np.ndarray:
        """Count the training, test and discarded pixels of each class.

        Args:
            labels: H x W class indices.
            classes: How many classes there are.

        Returns:
            C x 3.

        """
        sides = (self.train, self.test, self.discarded)
        return np.stack([np.bincount(labels[side], minlength=classes) for side in sides], axis=1)

    def one_sided(self, labels: np.ndarray) -> list[int]:
        """List the classes that occur in the scene but not on both sides."""
        both = set(np.unique(labels[self.train])) & set(np.unique(labels[self.test]))
        return sorted(set(np.unique(labels[labels >= 0]).tolist()) - both)

    def check(self, labels: np.ndarray) -> None:
        """Raise ``ValueError`` unless the parts are disjoint, cover the labelled pixels and keep the guard."""
        parts = (self.train, self.test, self.discarded)
        if any(part.shape != labels.shape for part in parts):
            raise ValueError(f"the split is of a scene of {self.train.shape}, the labels are {labels.shape}")
        times = np.sum(parts, axis=0)
        if (times > 1).any():
            raise ValueError(f"{int((times > 1).sum())} pixels are in two parts of the split")
        if (times != (labels >= 0)).any():
            raise ValueError("the parts of the split are not the labelled pixels")
        for name, part in (("training", self.train), ("test", self.test)):
            if not part.any():
                raise ValueError(f"the split leaves no {name} pixel: choose another fraction, block or guard")
        near = int((_covered(self.train, within(labels.shape, self.guard)) & self.test).sum())
        if near:
            raise ValueError(f"{near} test pixels lie within the guard of {self.guard} px")


def within(shape: tuple[int, ...], reach: int) -> Windows:
    """Return the windows of what looks equally far in every direction.

    Args:
        shape: Height and width of the scene.
        reach: How far it looks, in pixels.

    >>> [ends.tolist() for ends in within((1, 3), 1)]
    [[[0, 0]], [[0, 1], [0, 2], [1, 2]]]

    """
    rows, columns = (
        np.stack([(places := np.arange(length)) - reach, places + reach], axis=1).clip(0, length - 1)
        for length in shape
    )
    return rows, columns


def farthest(windows: Windows) -> int:
    """Return how far a window reaches from its pixel at most."""
    return max(int(np.abs(ends - np.arange(len(ends))[:, None]).max()) for ends in windows)


def turned(rows: Windows, columns: Windows) -> Windows:
    """Widen windows to all that is read when a scene is also flipped and turned by quarters.

    A turn exchanges the network's axes, a flip mirrors its windows: eight views in all.

    Args:
        rows: The windows of the network's two axes along the scene's rows.
        columns: The same along its columns.

    """
    sides = []
    for pair in (rows, columns):
        ways = [*pair, *(len(ends) - 1 - ends[::-1, ::-1] for ends in pair)]
        firsts, lasts = np.stack(ways).min(0)[:, 0], np.stack(ways).max(0)[:, 1]
        sides.append(np.stack([firsts, lasts], axis=1))
    return sides[0], sides[1]


def _covered(mask: np.ndarray, windows: Windows) -> np.ndarray:
    """Mark every pixel in the window of a pixel of ``mask``: corners of rectangles, summed along both axes.

    Painting each window would take time by its area; so it takes the same for a window of any size.
    """
    corners = np.zeros((mask.shape[0] + 1, mask.shape[1] + 1), np.int32)
    rows, columns = np.nonzero(mask)
    (top, bottom), (left, right) = windows[0][rows].T, windows[1][columns].T
    np.add.at(corners, (top, left), 1)
    np.add.at(corners, (bottom + 1, left), -1)
    np.add.at(corners, (top, right + 1), -1)
    np.add.at(corners, (bottom + 1, right + 1), 1)
    covered: np.ndarray = corners.cumsum(0).cumsum(1)[:-1, :-1] > 0
    return covered


def leakage(train: np.ndarray, test: np.ndarray, windows: Windows) -> float:
    """Return the share of the test pixels that lie in the window of a training pixel.

    Args:
        train: H x W bool, the training pixels.
        test: H x W bool, the test pixels.
        windows: What is read to label each pixel, see ``fullyconv.hsi.trial.network_windows``.

    Returns:
        0 (no test pixel was seen in training) to 1; NaN without test pixels.

    >>> row = np.array([[True, False, False, False]])
    >>> leakage(row, ~row, within((1, 4), 1))
    0.3333333333333333

    """
    return float((_covered(train, windows) & test).sum() / test.sum()) if test.any() else float("nan")


def random_split(
    labels: np.ndarray, *, fraction: float = 0.1, per_class: int | None = None, seed: int = 0
) -> PixelSplit:
    """Draw the training pixels of every class at random, as most papers do.

    The test pixels lie among the training pixels, see ``leakage``. One pixel at least stays for the test; a class of
    a single pixel is only tested.

    Args:
        labels: H x W, below 0 where there is none.
        fraction: Of every class, what trains.
        per_class: How many pixels of each class train instead.
        seed: Of the draw.

    Raises:
        ValueError: For labels without a labelled pixel, and for a fraction outside 0..1.

    >>> split = random_split(np.zeros((4, 5), int), fraction=0.25)
    >>> int(split.train.sum()), int(split.test.sum())
    (5, 15)

    """
    _check_request(labels, fraction, per_class)
    rng = np.random.default_rng(seed)
    train = np.zeros(labels.shape, bool)
    for index in np.unique(labels[labels >= 0]):
        places = np.flatnonzero(labels == index)
        wanted = max(1, round(fraction * len(places))) if per_class is None else per_class
        train.flat[rng.choice(places, min(wanted, len(places) - 1), replace=False)] = True
    return PixelSplit(train, (labels >= 0) & ~train, np.zeros(labels.shape, bool), "random")


def mask_split(labels: np.ndarray, train: np.ndarray, test: np.ndarray) -> PixelSplit:
    """Split by given masks; what is labelled and in neither is discarded.

    Args:
        labels: H x W, below 0 where there is none.
        train: H x W, not zero where a pixel trains.
        test: H x W, not zero where a pixel tests.

    Raises:
        ValueError: If they share a labelled pixel or leave a side empty.

    """
    if train.shape != labels.shape or test.shape != labels.shape:
        raise ValueError(f"the masks are {train.shape} and {test.shape}, the labels {labels.shape}")
    labelled = labels >= 0
    sides = (train != 0) & labelled, (test != 0) & labelled
    split = PixelSplit(*sides, labelled & ~sides[0] & ~sides[1], "masks")
    split.check(labels)
    return split


def block_split(
    labels: np.ndarray,
    *,
    guard: int,
    fraction: float = 0.3,
    per_class: int | None = None,
    block: int | None = None,
    seed: int = 0,
) -> PixelSplit:
    """Cut the scene into square blocks, put each on one side, and discard the test pixels near training pixels.

    Many layouts are tried. If none has every class on both sides behind the guard, the one with most classes on both
    sides, then with the widest guard, is taken: a class that is one small field may leave no room for more.

    Args:
        labels: H x W, below 0 where there is none.
        guard: The distance wanted between training and test, in pixels; that of the network's window makes
            ``leakage`` 0.
        fraction: Of every class, what the training side gets, about.
        per_class: Of these pixels, how many of each class train; the others are discarded.
        block: The side of the blocks in pixels; without one, many are tried.
        seed: Of the layouts.

    Returns:
        The split, with the guard that it keeps.

    Raises:
        ValueError: If no layout has a class on both sides, and for numbers out of range.

    """
    _check_request(labels, fraction, per_class)
    if guard < 0 or (block is not None and block < 1):
        raise ValueError(f"guard is 0 or more pixels and block 1 or more, not {guard} and {block}")
    places = [np.flatnonzero(labels == index) for index in np.unique(labels[labels >= 0])]
    sides = [max(1, min(labels.shape) // parts) for parts in BLOCKS_PER_SIDE] if block is None else [block]
    rng = np.random.default_rng(seed)
    best: tuple[tuple[int, int, float], int, np.ndarray, np.ndarray] | None = None
    for _ in range(MOST_ROUNDS):
        for side in TRIALS * sides:
            region = _deal(labels, side, fraction, rng)
            train = _draw(labels, region & (labels >= 0), per_class, rng)
            away = np.where((labels >= 0) & ~region, distance(train, guard), 0)
            merit = _merit(train, away, places, guard)
            if best is None or merit > best[0]:
                best = merit, side, train, away
        if best is None or best[0][:2] == (len(places), guard):
            break
        if block is None:  # the best size so far suits the class that is hardest to cut: look around it
            sides = [side for side in range(best[1] - 2, best[1] + 3) if side >= 1]
    if best is None or best[0][0] == 0:
        raise ValueError("no layout of blocks has a class on both sides: choose a smaller block, or a random split")
    (_, kept_guard, _), _, train, away = best
    test = away > kept_guard
    return PixelSplit(train, test, (labels >= 0) & ~train & ~test, "blocks", kept_guard)


def _check_request(labels: np.ndarray, fraction: float, per_class: int | None) -> None:
    if not (labels >= 0).any():
        raise ValueError("no pixel of the scene is labelled: give the label map")
    if not 0 < fraction < 1 or (per_class is not None and per_class < 1):
        raise ValueError(f"fraction lies between 0 and 1 and per_class is 1 or more, not {fraction} and {per_class}")


def _deal(labels: np.ndarray, side: int, fraction: float, rng: np.random.Generator) -> np.ndarray:
    """Put blocks on the training side (True) by iterative stratification (Sechidis et al. 2011).

    The class with the fewest pixels left to deal out goes first: each of its blocks, in random order,
    goes to the side that still lacks most of that class.
    """
    offsets = rng.integers(side, size=2)
    rows, columns = ((np.arange(length) + offset) // side for length, offset in zip(labels.shape, offsets, strict=True))
    blocks = rows[:, None] * (columns[-1] + 1) + columns[None, :]
    labelled, classes = labels >= 0, int(labels.max()) + 1
    pairs = np.bincount(blocks[labelled] * classes + labels[labelled], minlength=(blocks[-1, -1] + 1) * classes)
    counts = pairs.reshape(-1, classes)
    lacking = np.outer([1 - fraction, fraction], counts.sum(0))  # pixels, by side and class
    chosen, waiting = np.zeros(len(counts), bool), np.asarray(counts.sum(1) > 0)
    while waiting.any():
        left = counts[waiting].sum(0)
        rarest = int(np.where(left > 0, left, left.max() + 1).argmin())
        for index in rng.permutation(np.flatnonzero(waiting & (counts[:, rarest] > 0))):
            chosen[index] = lacking[1, rarest] > lacking[0, rarest]
            lacking[int(chosen[index])] -= counts[index]
            waiting[index] = False
    region: np.ndarray = chosen[blocks]
    return region


def _draw(labels: np.ndarray, allowed: np.ndarray, per_class: int | None, rng: np.random.Generator) -> np.ndarray:
    if per_class is None:
        return allowed
    drawn = np.zeros(labels.shape, bool)
    for index in np.unique(labels[allowed]):
        places = np.flatnonzero(allowed & (labels == index))
        drawn.flat[rng.choice(places, min(per_class, len(places)), replace=False)] = True
    return drawn


def distance(mask: np.ndarray, most: int) -> np.ndarray:
    """Measure each pixel's distance to a mask, the larger of rows and columns.

    Args:
        mask: H x W bool.
        most: The largest distance that matters, in pixels; what is farther gets one more.

    >>> distance(np.array([[True, False, False, False]]), 1).tolist()
    [[0, 1, 2, 2]]

    """
    if not mask.any():  # SciPy's transform has no answer where there is nothing to be away from
        return np.full(mask.shape, most + 1)
    transform = needs("scipy.ndimage", to="split a scene by blocks").distance_transform_cdt
    away: np.ndarray = np.minimum(transform(~mask, metric="chessboard"), most + 1)
    return away


def _merit(train: np.ndarray, away: np.ndarray, places: Sequence[np.ndarray], guard: int) -> tuple[int, int, float]:
    """Judge a layout: classes on both sides, the guard (as far as wanted) they leave room for, the worst share.

    ``away`` is each test pixel's distance from the training pixels, 0 for what cannot be tested; ``places``
    are the flat indices of each class's pixels.
    """
    trained = [int(np.count_nonzero(train.flat[here])) for here in places]
    distances = [away.flat[here] for here in places]
    margins = [
        int(np.partition(apart, -least)[-least]) - 1
        for count, apart in zip(trained, distances, strict=True)
        if count and (least := max(1, ceil(LEAST_SHARE * len(apart))))
    ]
    both = [margin for margin in margins if margin >= 0]
    fits = min([guard, *both]) if both else 0
    shares = [
        min(count, int(np.count_nonzero(apart > fits))) / len(apart)
        for count, apart in zip(trained, distances, strict=True)
    ]
    return len(both), fits, min(shares)
