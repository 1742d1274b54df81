"""What ``fullyconv.predict.ladder`` climbs: the steps with their weights by phase, and the maps between them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch

from fullyconv.networks.alignment import UpsamplingStage
from fullyconv.threads import side_by_side
from fullyconv.upsample import Upsample, bilinear_taps

Pair = tuple[int, int]
Writing = Callable[[int, int], Any]
"""Writes some rows of a map, from the first of them to the one that is left."""
GRAIN = 1 << 17  # numbers that are worth waking another thread of PyTorch's for
OWN_GRAIN = 1 << 19  # one of ours, which sleeps: compact networks' maps are written by one thread as fast as by two
LEAST_LANES, MOST_LANES = 8, 16
TAPS = 4  # units that a pixel reads


@dataclass(frozen=True, eq=False)
class Rung:
    """One step up the ladder: how its rows and columns meet the next map, and what weights its units have there."""

    stages: tuple[UpsamplingStage, UpsamplingStage]
    upsample: Upsample

    @property
    def factor(self) -> Pair:
        """How many upsampled units there are per unit, along rows and columns."""
        return self.stages[0].factor, self.stages[1].factor

    @property
    def kept(self) -> Pair:
        """The first upsampled rows and columns that are kept."""
        return self.stages[0].kept, self.stages[1].kept

    @property
    def met(self) -> Pair:
        """The row and column of the finer map that they are added to."""
        return self.stages[0].met, self.stages[1].met

    @property
    def repeats(self) -> bool:
        """Whether the edge is repeated beyond it."""
        return self.upsample.border == "replicate"

    def size(self, units: Pair, finer: Pair) -> Pair:
        """Count the rows and columns that are fused, of so many coarse and fine ones."""
        return self.stages[0].size(units[0], finer[0]), self.stages[1].size(units[1], finer[1])

    @cached_property
    def bank(self) -> np.ndarray:
        """The filters, C x k x k float32; 1 x k x k where all classes have one that is positive everywhere."""
        if self.upsample.weight is None:
            rows, columns = (bilinear_taps(kernel) for kernel in self.upsample.kernel)
            return torch.outer(rows, columns).float().numpy()[None]
        bank = self.upsample.weight.detach().float().cpu()[:, 0]
        return (bank[:1] if bool((bank == bank[:1]).all() and (bank > 0).all()) else bank).numpy()

    @cached_property
    def phases(self) -> np.ndarray:
        """The weights by phase and unit, C (or 1) x f x f' x 4; the units: two above, then two below."""
        (high, wide), bank = self.factor, self.bank
        taps = np.zeros((len(bank), 2 * high, 2 * wide), np.float32)
        taps[:, : bank.shape[1], : bank.shape[2]] = bank
        # Phase p of a cell lies p after its later unit and p + f after its earlier one.
        by_unit = taps.reshape(-1, 2, high, 2, wide)[:, ::-1, :, ::-1]
        return np.ascontiguousarray(by_unit.transpose(0, 2, 4, 1, 3)).reshape(len(bank), high, wide, 4)

    @cached_property
    def growth(self) -> float:
        """How many times larger than the units a sum can become."""
        return max(1.0, float(np.abs(self.phases).sum(-1).max()))

    @cached_property
    def class_tables(self) -> np.ndarray:
        """The weights for sums over all classes at once: f x f' x 4 x ``padded``, flat."""
        tables = np.zeros((*self.factor, TAPS, padded(self.upsample.channels)), np.float32)
        tables[..., : self.upsample.channels] = self.phases.transpose(1, 2, 3, 0)
        return tables.reshape(-1)

    @cached_property
    def tiling(self) -> tuple[Pair, Pair]:
        """How a cell is cut into vectors: rows and columns of pixels in one, and how many there are down and across."""
        wide = next((width for width in (4, 8) if self.factor[1] <= width), MOST_LANES)  # few, for each is compiled
        high = MOST_LANES // wide
        return (high, wide), (-(-self.factor[0] // high), -(-self.factor[1] // wide))

    @cached_property
    def pixel_tables(self) -> np.ndarray:
        """The weights for many pixels at once, C (or 1) x vectors of a cell x 4 x pixels of a vector."""
        (high, wide), (down, across) = self.tiling
        tables = np.zeros((len(self.phases), down * high, across * wide, TAPS), np.float32)
        tables[:, : self.factor[0], : self.factor[1]] = self.phases
        tables = tables.reshape(-1, down, high, across, wide, TAPS).transpose(0, 1, 3, 5, 2, 4)
        return np.ascontiguousarray(tables).reshape(len(tables), -1)


def lanes(count: int) -> tuple[None, ...]:
    """Return what tells a compiled loop the width of its vectors."""
    return (None,) * count


def width(classes: int) -> int:
    """Return how many classes are computed at once."""
    return LEAST_LANES if classes <= LEAST_LANES else MOST_LANES


def padded(classes: int) -> int:
    """Return how many numbers a unit takes.

    >>> padded(3), padded(11), padded(21)
    (8, 16, 32)
    """
    return -(-classes // width(classes)) * width(classes)


class Units:
    """The units of a map of scores between ghosts, as the compiled loops take them (``fullyconv.predict.kernels``).

    Args:
        batch: N.
        classes: C.
        size: Rows and columns.
        own: Whether threads are others than PyTorch's (``side_by_side``).
    """

    def __init__(self, batch: int, classes: int, size: Pair, *, own: bool = False) -> None:
        # Imported here: numba takes a third of a second to import.
        from fullyconv.predict import kernels

        self.loops: Any = kernels
        self.batch, self.classes, self.size, self.own = batch, classes, size, own
        self.lanes, self.padded = lanes(width(classes)), padded(classes)
        self.ghosted = batch * (size[0] + 2 * kernels.GHOSTS) * (size[1] + 2 * kernels.GHOSTS)
        self.values = np.empty(self.ghosted * self.padded, np.float32)

    def _threads(self, numbers: int) -> int:
        """Return how many threads it is worth waking for so many numbers."""
        return 1 + numbers // (OWN_GRAIN if self.own else GRAIN)

    @property
    def extent(self) -> tuple[int, int, int]:
        """Rows, columns and numbers per unit."""
        return (*self.size, self.padded)

    def lay(self, scores: np.ndarray) -> Writing:
        """Return what copies N x h x w x C scores."""
        return partial(self.loops.lay, scores.reshape(-1), self.values, self.classes, self.extent, self.lanes)

    def fuse(self, coarse: Units, fine: np.ndarray, rung: Rung) -> Writing:
        """Return what adds coarse units, upsampled, and N x h x w x C fine scores."""
        step = coarse.extent, self.extent, fine.shape[1:3], rung.factor, rung.kept, rung.met
        return partial(
            self.loops.fuse,
            coarse.values,
            fine.reshape(-1),
            rung.class_tables,
            self.values,
            self.classes,
            step,
            self.lanes,
        )

    def write(self, rows: Writing, *, repeats: bool) -> None:
        """Write all rows, and around them the ghosts: the edge repeated once, or zeros."""

        def job(start: int, stop: int) -> None:
            rows(start, stop)
            self.loops.surround(self.values, self.extent, repeats, start, stop)

        side_by_side(job, self.batch * self.size[0], self._threads(len(self.values)), own=self.own)

    def write_last(self, rows: Writing, *, repeats: bool, growth: float) -> tuple[np.ndarray, bool]:
        """Write all rows, and find each unit's best class.

        Returns:
            The best classes, and whether all scores are finite, also ``growth`` times larger.
        """
        winners = np.empty(self.ghosted, np.int32)

        def job(start: int, stop: int) -> bool:
            rows(start, stop)
            self.loops.surround(self.values, self.extent, repeats, start, stop)
            return bool(
                self.loops.find_winners(
                    self.values, winners, self.classes, self.extent, growth, self.lanes, start, stop
                )
            )

        return winners, all(side_by_side(job, self.batch * self.size[0], self._threads(len(self.values)), own=self.own))

    def label(self, winners: np.ndarray, rung: Rung, labels: np.ndarray) -> None:
        """Write the labels of N x H x W pixels."""
        size = labels.shape[1:]
        (high, wide), tiles = rung.tiling
        first = [kept // factor for kept, factor in zip(rung.kept, rung.factor, strict=True)]
        last = [
            (kept + length - 1) // factor for kept, length, factor in zip(rung.kept, size, rung.factor, strict=True)
        ]
        cells = last[0] - first[0] + 1, last[1] - first[1] + 1
        tables = rung.pixel_tables
        own = tables.shape[1] if len(tables) > 1 else 0
        loop = partial(
            self.loops.label,
            self.values,
            winners,
            tables.reshape(-1),
            labels.reshape(-1),
            self.classes,
            (self.extent, size, rung.factor, rung.kept, tuple(first), cells, tiles),
            own,
            (self.lanes, lanes(high * wide), lanes(wide)),
        )
        side_by_side(loop, self.batch * cells[0], self._threads(2 * labels.size), own=self.own)
