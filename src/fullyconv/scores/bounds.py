"""How good a coarse prediction can get: the best IU at a stride (the paper's table of upper bounds)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from fullyconv.files import counted
from fullyconv.scores.metrics import confusion, score

STRIDES = (32, 16, 8, 4, 2)
"""Pixels between two units of a prediction, coarse to fine."""

ENOUGH, THIN = 0.9, 0.5
"""A stride is fine enough where the mean IU can reach the first, and every class the second."""

AT_ONCE = 1 << 22  # numbers that are upsampled at a time

CONVENTION = (
    "labels are counted in blocks of stride x stride pixels; 'blocks' predicts each block's most frequent class, "
    "'bilinear' upsamples the classes' shares of the blocks and takes the largest; void is not counted"
)


def block_shares(labels: np.ndarray, *, classes: Sequence[int], stride: int) -> np.ndarray:
    """Count the labels of each class in blocks.

    Args:
        labels: H x W; what is not in ``classes`` counts nowhere.
        classes: The K classes to count.
        stride: Side of a block in pixels; blocks begin at the upper left, those at the far edges may be cut.

    Returns:
        K x ceil(H / stride) x ceil(W / stride) float32, pixels over ``stride ** 2``.

    >>> block_shares(np.array([[0, 0, 1], [0, 1, 1]]), classes=(0, 1), stride=2).tolist()
    [[[0.75, 0.0]], [[0.25, 0.5]]]
    """
    height, width = labels.shape
    rows, columns = -(-height // stride), -(-width // stride)
    marked = np.zeros((len(classes), rows * stride, columns * stride), np.bool_)
    for plane, index in zip(marked, classes, strict=True):
        plane[:height, :width] = labels == index
    blocks = marked.reshape(len(classes), rows, stride, columns, stride)
    # Along rows first: the longer sum is over neighbours in memory.
    return np.asarray(blocks.sum(4, dtype=np.int32).sum(2) / np.float32(stride**2), np.float32)


def predict_coarsely(labels: np.ndarray, *, stride: int) -> tuple[np.ndarray, np.ndarray]:
    """Predict a label map as well as a map of scores at a stride can.

    Args:
        labels: H x W; negative labels are void.
        stride: Pixels between two units, whose middles lie in the middle of their blocks.

    Returns:
        Labels predicted by blocks, and by bilinear upsampling of the blocks' shares; H x W each.

    >>> blocks, smooth = predict_coarsely(np.array([[0, 0, 0, 1]]), stride=2)
    >>> blocks.tolist(), smooth.tolist()
    ([[0, 0, 0, 0]], [[0, 0, 0, 0]])
    """
    height, width = labels.shape
    there = np.unique(labels[labels >= 0])
    if not there.size:
        return np.zeros_like(labels), np.zeros_like(labels)
    shares = block_shares(labels, classes=there.tolist(), stride=stride)
    blocks = shares.argmax(0).repeat(stride, 0).repeat(stride, 1)
    smooth = _upsampled(shares, stride)
    return there[blocks[:height, :width]], there[smooth[:height, :width]]


def _upsampled(shares: np.ndarray, stride: int) -> np.ndarray:
    """Return the largest of bilinearly upsampled shares; beyond the outermost units their value is repeated.

    Computed only in blocks that have another class in them or beside them: in finer maps few are.
    """
    rows, columns = shares.shape[1:]
    framed = np.pad(shares, ((0, 0), (1, 1), (1, 1)), mode="edge")
    around = sliding_window_view(framed, (3, 3), axis=(1, 2))  # K x h x w x 3 x 3
    found = shares.argmax(0).astype(np.int16)
    alone = np.count_nonzero((around > 0).any((3, 4)), axis=0) <= 1
    found[alone] = around.max((3, 4)).argmax(0)[alone]  # a block of void between blocks of one class
    labels = np.broadcast_to(found[:, :, None, None], (rows, columns, stride, stride)).copy()
    place = (np.arange(stride) + 0.5) / stride - 0.5  # of pixels, in units from the middle one
    taps = np.maximum(0, 1 - abs(place[:, None] - np.array([-1, 0, 1]))).astype(np.float32)  # stride x 3
    mixed = np.argwhere(~alone)
    for part in np.array_split(mixed, 1 + len(mixed) * len(shares) * stride**2 // AT_ONCE):
        y, x = part.T
        labels[y, x] = (taps @ around[:, y, x] @ taps.T).argmax(0)
    return labels.swapaxes(1, 2).reshape(rows * stride, columns * stride)


@dataclass(frozen=True)
class Bounds:
    """What was counted of predictions at each stride; counts of pictures add up.

    ``blocks`` and ``bilinear`` are strides x C x C confusion matrices, rows = truth.
    """

    strides: tuple[int, ...]
    blocks: np.ndarray
    bilinear: np.ndarray
    pictures: int = 0

    def __add__(self, other: Bounds) -> Bounds:
        if self.strides != other.strides:
            raise ValueError(f"bounds at strides {self.strides} and {other.strides} do not add up")
        pictures = self.pictures + other.pictures
        return Bounds(self.strides, self.blocks + other.blocks, self.bilinear + other.bilinear, pictures)

    @property
    def mean_ius(self) -> dict[int, tuple[float, float]]:
        """Mean IU by blocks and by bilinear upsampling, 0..1, by stride."""
        return {
            stride: (score(blocks).mean_iu, score(smooth).mean_iu)
            for stride, blocks, smooth in zip(self.strides, self.blocks, self.bilinear, strict=True)
        }

    @property
    def mean_iu(self) -> dict[int, float]:
        """The better mean IU of the two at each stride, 0..1, by stride."""
        return {stride: max(both) for stride, both in self.mean_ius.items()}

    def class_iu(self, index: int) -> dict[int, tuple[float, float]]:
        """Return a class's IU at each stride by blocks and by bilinear upsampling, 0..1 (NaN: not there)."""
        return {
            stride: (score(blocks).per_class_iu[index], score(smooth).per_class_iu[index])
            for stride, blocks, smooth in zip(self.strides, self.blocks, self.bilinear, strict=True)
        }

    @property
    def advice(self) -> int:
        """The coarsest stride that is fine enough (``ENOUGH`` in the mean, ``THIN`` for every class), else the finest.

        >>> count_bounds(np.repeat([0, 1], 32)[None], classes=2, strides=(32, 64)).advice
        32
        """
        return self.coarsest(ENOUGH, THIN)

    def coarsest(self, mean: float, least: float) -> int:
        """Return the coarsest stride at which the mean IU and every class's can reach so much, else the finest."""
        blocks, smooth = (
            np.array([score(counts).per_class_iu for counts in each]) for each in (self.blocks, self.bilinear)
        )
        fine = [
            stride
            for stride, values in zip(self.strides, np.fmax(blocks, smooth), strict=True)
            if self.mean_iu[stride] >= mean and not (values < least).any()
        ]
        return max(fine, default=min(self.strides))


def advise(bounds: Bounds, names: Sequence[str], stride: int | None = None) -> str:
    """Say in a sentence which stride to take, and what a coarser one costs.

    Args:
        bounds: What was counted.
        names: Of the classes, in their order.
        stride: The one to take; default: ``bounds.advice``.

    Returns:
        A sentence with the class that a coarser stride hurts most.

    >>> lines = np.where(np.arange(64) % 16 == 5, 1, 0)[None].repeat(64, 0)
    >>> print(advise(count_bounds(lines, classes=2), ("road", "pole")))
    advice: stride 2; at stride 4 'pole' reaches an IU of 0.00 at most, the mean 0.47 (1 mask looked at)
    """
    if not bounds.blocks.any():
        return "advice: none, for no pixel that was looked at has a label"
    chosen = bounds.advice if stride is None else stride
    coarser = min((stride for stride in bounds.strides if stride > chosen), default=None)
    looked = f"({counted(bounds.pictures, 'mask')} looked at)"
    if coarser is None:
        return f"advice: stride {chosen} loses nothing that counts {looked}"
    best = {name: max(bounds.class_iu(index)[coarser]) for index, name in enumerate(names)}
    worst = min((name for name in names if best[name] == best[name]), key=lambda name: best[name])
    return (
        f"advice: stride {chosen}; at stride {coarser} {worst!r} reaches an IU of {best[worst]:.2f} at most, "
        f"the mean {bounds.mean_iu[coarser]:.2f} {looked}"
    )


def count_bounds(
    labels: np.ndarray, *, classes: int, strides: Sequence[int] = STRIDES, void_as: int | None = None
) -> Bounds:
    """Count one label map.

    Args:
        labels: H x W; labels outside 0..C-1 are void.
        classes: C.
        strides: Pixels between two units of the prediction.
        void_as: The class that void is taken for where blocks are counted (it is not scored all the same); the
            paper's table comes out with background. ``None``: void counts nowhere.

    Returns:
        Counts that add up over pictures; one without a labelled pixel counts as none.

    >>> count_bounds(np.array([[0, 0, 1, 1]]), classes=2, strides=(2, 4)).mean_iu
    {2: 1.0, 4: 0.25}
    """
    known = np.where((labels >= 0) & (labels < classes), labels, -1)
    shown = known if void_as is None else np.where(known < 0, void_as, known)
    counts = [
        [confusion(known, guess, classes=classes) for guess in predict_coarsely(shown, stride=stride)]
        for stride in strides
    ]
    blocks, bilinear = np.swapaxes(np.asarray(counts, np.int64).reshape(len(strides), 2, classes, classes), 0, 1)
    return Bounds(tuple(strides), blocks, bilinear, int((known >= 0).any()))
