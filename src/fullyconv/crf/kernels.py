"""The compiled loops of mean-field inference on a lattice: splat, blur, slice and softmax, rows of labels at a time.

All loops work on a share of the pixels or vertices (``start`` to ``stop``) without holding the
interpreter lock, so threads of any kind can run them side by side. ``pool`` and ``rows`` are flat
float32 arrays of rows, one per vertex or pixel. ``shape`` is three tuples whose lengths are known when
a loop is compiled: the lanes of a machine vector, the vectors in a row, the columns of ``offsets``.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fullyconv.compiler import compiled
from fullyconv.crf.vectors import add, exponential, largest, load, multiply_add, pointer, scale, store, total

Floats: TypeAlias = NDArray[np.float32]
Ints: TypeAlias = NDArray[np.int32]
Longs: TypeAlias = NDArray[np.int64]
Lanes: TypeAlias = tuple[None, ...]
Axes: TypeAlias = tuple[None, ...]

Shape: TypeAlias = tuple[Lanes, Axes, Axes]

TILE = 64  # pixels that are turned from planes to rows and back while the cache holds them
FEW = 8  # pixels that go through an update together
IMPOSSIBLE = np.float32(-1e30)  # the negative energy of a label that is not there; see ``terms.MOST_ENERGY``


@compiled
def to_rows(planes: Floats, factor: float, rows: Floats, width: int, start: int, stop: int) -> None:
    """Turn C x P planes, times ``factor``, into rows of ``width`` labels; those beyond C are as good as impossible."""
    scaled = np.float32(factor)
    for first in range(start, stop, TILE):
        last = min(first + TILE, stop)
        for label in range(planes.shape[0]):
            for pixel in range(first, last):
                rows[pixel * width + label] = planes[label, pixel] * scaled
        for pixel in range(first, last):
            for label in range(planes.shape[0], width):
                rows[pixel * width + label] = IMPOSSIBLE


@compiled
def to_planes(rows: Floats, planes: Floats, width: int, start: int, stop: int) -> None:
    """Turn rows of ``width`` labels into C x P planes."""
    for first in range(start, stop, TILE):
        last = min(first + TILE, stop)
        for label in range(planes.shape[0]):
            for pixel in range(first, last):
                planes[label, pixel] = rows[pixel * width + label]


@compiled
def slice_block(
    row: Any, vertices: Any, corners: Ints, weights: Floats, shifts: Longs, block: int, shape: Shape
) -> Any:
    """Slice: add to one block of a pixel's row what the corners of its simplex hold."""
    lanes, blocks, columns = shape
    for column in range(len(columns)):
        place = (corners[column] + shifts[column]) * (len(lanes) * len(blocks)) + block
        row = multiply_add(weights[column], load(vertices, place, lanes), row)
    return row


@compiled
def splat_block(
    row: Any, vertices: Any, corners: Ints, weights: Floats, shifts: Longs, block: int, shape: Shape
) -> None:
    """Splat: add one block of a pixel's row to the corners of its simplex."""
    lanes, blocks, columns = shape
    for column in range(len(columns)):
        place = (corners[column] + shifts[column]) * (len(lanes) * len(blocks)) + block
        store(vertices, place, multiply_add(weights[column], row, load(vertices, place, lanes)))


@compiled
def exponentiate(beliefs: Any, shares: Floats, few: int, shape: Shape) -> None:
    """Exponentiate a few rows, less their highest values (in ``shares``, where 1 / their sums take their place)."""
    lanes, blocks, _ = shape
    width = len(lanes) * len(blocks)
    for each in range(few):
        mass = np.float32(0)
        for place in range(each * width, (each + 1) * width, len(lanes)):
            row = exponential(load(beliefs, place, lanes), shares[each])
            store(beliefs, place, row)
            mass += total(row)
        shares[each] = np.float32(1) / mass


@compiled
def splat(
    rows: Floats, offsets: Ints, weights: Floats, shifts: Longs, pool: Floats, shape: Shape, start: int, stop: int
) -> None:
    """Splat every pixel's row: ``pool[offset + shift] += weight * row``."""
    lanes, blocks, _ = shape
    wide, width = len(lanes), len(lanes) * len(blocks)
    all_rows, vertices = pointer(rows), pointer(pool)
    for pixel in range(start, stop):
        for block in range(0, width, wide):
            row = load(all_rows, pixel * width + block, lanes)
            splat_block(row, vertices, offsets[pixel], weights[pixel], shifts, block, shape)


@compiled
def slice_rows(
    pool: Floats, offsets: Ints, weights: Floats, shifts: Longs, rows: Floats, shape: Shape, start: int, stop: int
) -> None:
    """Slice into every pixel's row: ``row += weight * pool[offset + shift]``."""
    lanes, blocks, _ = shape
    wide, width = len(lanes), len(lanes) * len(blocks)
    all_rows, vertices = pointer(rows), pointer(pool)
    for pixel in range(start, stop):
        for block in range(0, width, wide):
            row = load(all_rows, pixel * width + block, lanes)
            row = slice_block(row, vertices, offsets[pixel], weights[pixel], shifts, block, shape)
            store(all_rows, pixel * width + block, row)


@compiled
def collect(
    rows: Floats, pool: Floats, offsets: Ints, slices: Floats, sources: Longs, slicing: bool, first: int, few: int,
    beliefs: Any, highest: Floats, shape: Shape,
) -> None:  # fmt: skip
    """Put a few pixels' negative energies, and the messages to them, into ``beliefs``; their highest values beside."""
    lanes, blocks, _ = shape
    wide, width = len(lanes), len(lanes) * len(blocks)
    all_rows, vertices = pointer(rows), pointer(pool)
    for each in range(few):
        pixel, most = first + each, np.float32(-3e38)
        for block in range(0, width, wide):
            row = load(all_rows, pixel * width + block, lanes)
            if slicing:
                row = slice_block(row, vertices, offsets[pixel], slices[pixel], sources, block, shape)
            store(beliefs, each * width + block, row)
            most = max(most, largest(row))
        highest[each] = most


@compiled
def distribute(
    rows: Floats, sums: Floats, offsets: Ints, splats: Floats, targets: Longs, modes: tuple[bool, bool, bool],
    first: int, few: int, beliefs: Any, shares: Floats, shape: Shape,
) -> None:  # fmt: skip
    """Multiply a few pixels' beliefs by their shares; splat the marginals, or put them into ``rows``, or both."""
    lanes, blocks, _ = shape
    wide, width = len(lanes), len(lanes) * len(blocks)
    all_rows, vertices = pointer(rows), pointer(sums)
    for each in range(few):
        pixel = first + each
        for block in range(0, width, wide):
            row = scale(shares[each], load(beliefs, each * width + block, lanes))
            if modes[1]:
                splat_block(row, vertices, offsets[pixel], splats[pixel], targets, block, shape)
            if modes[2]:
                store(all_rows, pixel * width + block, row)


@compiled
def update(
    rows: Floats, pool: Floats, sums: Floats, offsets: Ints, slices: Floats, splats: Floats, shifts: Longs,
    modes: tuple[bool, bool, bool], shape: Shape, start: int, stop: int,
) -> None:  # fmt: skip
    """Make one mean-field update of every pixel in one pass.

    Slice: the messages in ``pool`` are added to the pixel's row of negative energies. Softmax. Splat:
    the marginals go to ``sums``, for the next messages. ``modes`` says whether to slice, whether to
    splat, and whether to put the marginals into ``rows`` in place of the energies; ``shifts`` is 2 x K,
    where each term's region begins in ``pool`` and in ``sums``.
    """
    # Step by step for a few pixels: one pixel's steps wait for each other, those of several do not, and a processor
    # looks no further ahead than two pixels' worth of all steps.
    width = len(shape[0]) * len(shape[1])
    belief, shares = np.empty(FEW * width, np.float32), np.empty(FEW, np.float32)
    beliefs, sources, targets = pointer(belief), shifts[0], shifts[1]
    for first in range(start, stop, FEW):
        few = min(FEW, stop - first)
        collect(rows, pool, offsets, slices, sources, modes[0], first, few, beliefs, shares, shape)
        exponentiate(beliefs, shares, few, shape)
        distribute(rows, sums, offsets, splats, targets, modes, first, few, beliefs, shares, shape)


@compiled
def begin(
    planes: Floats, rows: Floats, pool: Floats, sums: Floats, offsets: Ints, slices: Floats, splats: Floats,
    shifts: Longs, modes: tuple[bool, bool, bool], shape: Shape, start: int, stop: int,
) -> None:  # fmt: skip
    """Turn C x P energies into rows of negative ones and make the first update, tile by tile."""
    width = len(shape[0]) * len(shape[1])
    for first in range(start, stop, TILE):
        last = min(first + TILE, stop)
        to_rows(planes, -1.0, rows, width, first, last)
        update(rows, pool, sums, offsets, slices, splats, shifts, modes, shape, first, last)


@compiled
def finish(
    planes: Floats, rows: Floats, pool: Floats, sums: Floats, offsets: Ints, slices: Floats, splats: Floats,
    shifts: Longs, modes: tuple[bool, bool, bool], shape: Shape, start: int, stop: int,
) -> None:  # fmt: skip
    """Make the last update and turn the rows of beliefs into C x P planes, tile by tile."""
    width = len(shape[0]) * len(shape[1])
    for first in range(start, stop, TILE):
        last = min(first + TILE, stop)
        update(rows, pool, sums, offsets, slices, splats, shifts, modes, shape, first, last)
        to_planes(rows, planes, width, first, last)


@compiled
def blur(pool: Floats, neighbours: Ints, source: int, target: int, shape: Shape, start: int, stop: int) -> None:
    """Blur along one axis of the lattice: 1/2, 1, 1/2 over each vertex and its two neighbours (V x 2).

    Twice Adams et al.'s 1/4, 1/2, 1/4: the factors are made good by ``Lattice.gain``, once.
    """
    lanes, blocks, _ = shape
    wide, width = len(lanes), len(lanes) * len(blocks)
    half, vertices = np.float32(0.5), pointer(pool)
    for vertex in range(start, stop):
        before = (source + neighbours[vertex, 0]) * width
        after = (source + neighbours[vertex, 1]) * width
        here, there = (source + vertex) * width, (target + vertex) * width
        for place in range(0, width, wide):
            sides = add(load(vertices, before + place, lanes), load(vertices, after + place, lanes))
            store(vertices, there + place, multiply_add(half, sides, load(vertices, here + place, lanes)))


@compiled
def merge(
    sums: Floats, pool: Floats, touched: Ints, mine: int, first: int, shape: Shape, start: int, stop: int
) -> None:
    """Add one thread's sums at the ``touched`` vertices to the pool, and clear them for the next time.

    ``mine`` and ``first`` are where the lattice's rows begin in the sums and in the pool.
    """
    lanes, blocks, _ = shape
    wide, width = len(lanes), len(lanes) * len(blocks)
    own, vertices = pointer(sums), pointer(pool)
    for index in range(start, stop):
        given, place = (mine + touched[index]) * width, (first + touched[index]) * width
        for block in range(0, width, wide):
            row = load(own, given + block, lanes)
            store(vertices, place + block, add(row, load(vertices, place + block, lanes)))
            store(own, given + block, scale(np.float32(0), row))


@compiled
def clear(pool: Floats, start: int, stop: int) -> None:
    """Set part of the pool to zero."""
    part = pool[start:stop]
    for place in range(part.size):
        part[place] = np.float32(0)


@compiled
def slice_column(
    pool: Floats, offsets: Ints, weights: Floats, first: int, columns: Axes, shift: int, values: Floats, start: int,
    stop: int,
) -> None:  # fmt: skip
    """Slice where a vertex holds one number, over the columns from ``first`` on: the filtered value of every pixel."""
    for pixel in range(start, stop):
        corners, shares = offsets[pixel], weights[pixel]
        value = np.float32(0)
        for column in range(len(columns)):
            value += shares[first + column] * pool[corners[first + column] + shift]
        values[pixel] = value


@compiled
def rescale(weights: Floats, factors: Floats, columns: tuple[int, int], scaled: Floats, start: int, stop: int) -> None:
    """Multiply every pixel's weights in a range of columns by the pixel's factor; ``scaled`` may be ``weights``."""
    for pixel in range(start, stop):
        for column in range(columns[0], columns[1]):
            scaled[pixel, column] = weights[pixel, column] * factors[pixel]
