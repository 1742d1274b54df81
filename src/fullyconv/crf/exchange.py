"""Messages between pixels over one or more lattices at once: splat, blur, slice, fused with the softmax."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import zip_longest
from typing import Any

import numpy as np

from fullyconv.crf.lattice import Lattice, kernels
from fullyconv.threads import Team, shares

WIDEST = 64  # labels in one machine vector; more go block by block
LANES = 8
MEETING = 6000  # vertices that a thread blurs along an axis in the time (50 µs) that threads take to meet


def lanes_for(labels: int) -> tuple[int, int]:
    """Choose how many lanes of a machine vector, and how many vectors, hold a row of labels."""
    blocks = -(-labels // WIDEST)
    lanes = -(-labels // (blocks * LANES)) * LANES
    return (lanes if labels > 1 else 1), blocks  # one number per pixel: for norms


class Exchange:
    """Room for the rows of labels on the vertices of ``lattices``, and the passes over them.

    ``offsets`` is N x K int32, the lattices' offsets side by side. Rows live in two regions per
    lattice, between which the blur goes back and forth; ``side`` says which holds them now. The last
    row of a lattice's region is zero: the neighbour that is not there.
    """

    def __init__(self, lattices: Sequence[Lattice], offsets: np.ndarray, *, labels: int, team: Team) -> None:
        self.lattices, self.offsets, self.team = list(lattices), offsets, team
        lanes, blocks = lanes_for(labels)
        self._shape = ((None,) * lanes, (None,) * blocks, (None,) * offsets.shape[1])
        self.width = lanes * blocks
        self.firsts = np.cumsum([0, *(lattice.vertices + 1 for lattice in lattices)])
        self.side = [0] * len(self.lattices)
        self.pool = np.zeros(2 * self._region, np.float32)
        self._parts = lattices[0].parts if lattices else ((0, len(offsets)),)
        self._sums = [np.zeros(self._region, np.float32) for _ in self._parts[1:]]
        self._kernels: Any = kernels()[0]

    @property
    def _region(self) -> int:
        return int(self.firsts[-1]) * self.width

    def _first_rows(self, sides: Sequence[int]) -> np.ndarray:
        """Return the first row of each lattice's region in the pool."""
        return np.asarray(self.firsts[:-1] + np.array(sides, np.int64) * self.firsts[-1])

    def _shifts(self, first_rows: np.ndarray) -> np.ndarray:
        """Repeat a number per lattice for each of its columns of ``offsets``."""
        return np.repeat(first_rows, [lattice.axes for lattice in self.lattices])

    def rows(self, index: int) -> np.ndarray:
        """Show the rows of one lattice where they are now, V x width."""
        first = int(self._first_rows(self.side)[index])
        held: np.ndarray = self.pool.reshape(-1, self.width)[first : first + self.lattices[index].vertices]
        return held

    def update(
        self,
        rows: np.ndarray,
        slices: np.ndarray,
        splats: np.ndarray,
        *,
        modes: tuple[bool, bool, bool],
        planes: np.ndarray | None = None,
    ) -> None:
        """Slice, softmax, splat in one pass; ``modes``: see ``kernels.update``.

        ``planes`` (C x P) are the energies that fill the rows before the first update, which does not
        slice, or receive the marginals after the last.
        """
        other = [1 - side for side in self.side]
        if modes[1]:
            self._clear(other)
        sources, own = self._shifts(self._first_rows(self.side)), self._shifts(self.firsts[:-1])
        into_pool = np.stack([sources, self._shifts(self._first_rows(other))])
        into_own = np.stack([sources, own])
        kernel = self._kernels.update
        if planes is not None:
            kernel = partial(self._kernels.finish if modes[0] else self._kernels.begin, planes)
        jobs = []
        for index, (start, stop) in enumerate(self._parts):
            sums, shifts = (self._sums[index - 1], into_own) if index else (self.pool, into_pool)
            given = (rows, self.pool, sums, self.offsets, slices, splats, shifts, modes, self._shape)
            jobs.append(partial(kernel, *given, start, stop))
        self.team.run(jobs)
        if modes[1]:
            self.side = other
            self._merge()

    def splat(self, rows: np.ndarray, weights: np.ndarray) -> None:
        """Splat rows onto the vertices."""
        self._clear(self.side)
        into_pool, into_own = self._shifts(self._first_rows(self.side)), self._shifts(self.firsts[:-1])
        jobs = []
        for index, (start, stop) in enumerate(self._parts):
            sums, shifts = (self._sums[index - 1], into_own) if index else (self.pool, into_pool)
            given = (rows, self.offsets, weights, shifts, sums, self._shape)
            jobs.append(partial(self._kernels.splat, *given, start, stop))
        self.team.run(jobs)
        self._merge()

    def slice(self, rows: np.ndarray, weights: np.ndarray) -> None:
        """Slice into every row what the corners of its pixel hold."""
        shifts = self._shifts(self._first_rows(self.side))
        given = (self.pool, self.offsets, weights, shifts, rows, self._shape)
        self.team.run([partial(self._kernels.slice_rows, *given, start, stop) for start, stop in self._parts])

    def slice_column(self, index: int, weights: np.ndarray) -> np.ndarray:
        """Slice one lattice when rows are one number wide, into a number per pixel."""
        found = np.empty(len(self.offsets), np.float32)
        first = int(self._first_rows(self.side)[index])
        column = sum(lattice.axes for lattice in self.lattices[:index])
        columns = (None,) * self.lattices[index].axes
        given = (self.pool, self.offsets, weights, column, columns, first, found)
        self.team.run([partial(self._kernels.slice_column, *given, start, stop) for start, stop in self._parts])
        return found

    def blur(self, *, backwards: bool = False) -> None:
        """Blur every lattice along all its axes; ``backwards`` is the transposed operation."""
        steps = [self._blur_steps(index, backwards) for index in range(len(self.lattices))]
        work = [lattice.axes * lattice.vertices for lattice in self.lattices]
        waits = MEETING * max((lattice.axes for lattice in self.lattices), default=0)
        if max(work, default=0) <= sum(work) / self.team.size + waits:
            # A lattice for each thread, axis after axis, is sooner done than all by all, which meet every time.
            whole = [partial(_each, [job for step in own for job in step(1)]) for own in steps]
            self.team.run([partial(_each, whole[thread :: self.team.size]) for thread in range(self.team.size)])
            return
        for together in zip_longest(*steps):
            jobs = [step(self.team.size) for step in together if step is not None]
            self.team.run([partial(_each, share) for share in zip(*jobs, strict=True)])

    def _blur_steps(self, index: int, backwards: bool) -> list[Callable[[int], list[Any]]]:
        """List how one lattice is blurred along one axis after another: the jobs of so many threads each."""
        lattice, steps = self.lattices[index], list[Callable[[int], list[Any]]]()
        for axis in reversed(range(lattice.axes)) if backwards else range(lattice.axes):
            sides = self.side, [1 - side for side in self.side]
            source, target = (int(self._first_rows(side)[index]) for side in sides)
            kernel = partial(self._kernels.blur, self.pool, lattice.neighbours[axis], source, target, self._shape)
            steps.append(partial(_shared, kernel, lattice.vertices))
            self.side[index] = 1 - self.side[index]
        return steps

    def _clear(self, sides: Sequence[int]) -> None:
        jobs = []
        for first, lattice in zip(self._first_rows(sides), self.lattices, strict=True):
            jobs += [
                partial(self._kernels.clear, self.pool, int(first + start) * self.width, int(first + stop) * self.width)
                for start, stop in shares(lattice.vertices, self.team.size)
            ]
        self.team.run(jobs)

    def _merge(self) -> None:
        """Add the other threads' sums to the pool, each thread a run of vertices.

        Always in the order of the shares, not of the threads' ends: sums of floats depend on their order, and a
        result must not depend on timing.
        """
        if not self._sums:
            return
        together: list[list[Any]] = [[] for _ in range(self.team.size)]
        for lattice, mine, first in zip(self.lattices, self.firsts, self._first_rows(self.side), strict=False):
            for sums, touched in zip(self._sums, lattice.touched, strict=True):
                given = (sums, self.pool, touched, int(mine), int(first), self._shape)
                for jobs, (start, stop) in zip(together, shares(lattice.vertices, self.team.size), strict=True):
                    run = np.searchsorted(touched, (start, stop))
                    jobs.append(partial(self._kernels.merge, *given, int(run[0]), int(run[1])))
        self.team.run([partial(_each, jobs) for jobs in together])


def _shared(kernel: Callable[..., Any], count: int, threads: int) -> list[Any]:
    """Share a loop over ``count`` things among threads."""
    return [partial(kernel, *part) for part in shares(count, threads)]


def _each(jobs: Sequence[Any]) -> None:
    for job in jobs:
        job()
