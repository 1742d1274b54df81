"""The compiled loops of ``fullyconv.predict.ladder``: fuse score maps, find winners, label pixels cell by cell.

All loops work on a share of the rows (``start`` to ``stop``, counted through the batch) without holding the
interpreter lock. ``units`` is a flat N x (h + 4) x (w + 4) x P float32 array: a map with two ghost units on every
side, classes innermost, P of them (C and some that never win). Output pixel Y of an upsampling by f (before the crop)
reads the units Y // f - 1 and Y // f: pixels with the same two (four, along both axes) make up a cell, and cell c has
the units c + 1 and c + 2, counted with the ghosts. Lanes are tuples whose lengths are known when a loop is compiled.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fullyconv.compiler import compiled
from fullyconv.crf.vectors import largest, load, multiply_add, pointer, scale, store
from fullyconv.predict.lanes import (
    above,
    all_zero,
    data_of,
    filled,
    higher,
    load_some,
    lowest,
    multiply_add_lanes,
    reaching,
    renamed,
    store_labels,
)

Floats: TypeAlias = NDArray[np.float32]
Ints: TypeAlias = NDArray[np.int32]
Lanes: TypeAlias = tuple[None, ...]
Numbers: TypeAlias = tuple[int, ...]

GHOSTS = 2  # units on every side of a map: the outermost pixels of a replicated border read the second
NEVER = np.float32(np.finfo(np.float32).min)  # the score of the lanes beyond the last class


@compiled
def lay(scores: Floats, units: Floats, classes: int, extent: Numbers, lanes: Lanes, start: int, stop: int) -> None:
    """Copy rows of an N x h x w x C map between the ghosts."""
    height, width, padded = extent
    given, wanted = pointer(scores), pointer(units)
    for row in range(start, stop):
        image, y = row // height, row % height
        place = ((image * (height + 4) + y + 2) * (width + 4) + 2) * padded
        for x in range(width):
            pixel = (row * width + x) * classes
            for block in range(0, padded, len(lanes)):
                found = load_some(given, pixel + block, classes - block, NEVER, lanes)
                store(wanted, place + x * padded + block, found)


@compiled
def fuse(
    coarse: Floats, fine: Floats, tables: Floats, units: Floats, classes: int, step: Any, lanes: Lanes,
    start: int, stop: int,
) -> None:  # fmt: skip
    """Upsample the coarse units, add the fine scores where the grids meet, and lay rows of sums between the ghosts.

    ``step`` is the extents of coarse and fused map and the size of the fine one, then factor, first unit kept and fine
    unit met, along rows and columns. ``tables`` is f x f x 4 x P: for each phase the weights of its four units.
    """
    (high, wide, _), extent, fine_size, factor, kept, met = step
    height, width, padded = extent
    lower, finer, weights, wanted = pointer(coarse), pointer(fine), pointer(tables), pointer(units)
    across = (wide + 4) * padded
    for row in range(start, stop):
        image, y = row // height, row % height
        cell, phase = (y + kept[0]) // factor[0], (y + kept[0]) % factor[0]
        above_row = (image * (high + 4) + cell + 1) * across
        place = ((image * (height + 4) + y + 2) * (width + 4) + 2) * padded
        pixel = ((image * fine_size[0] + y + met[0]) * fine_size[1] + met[1]) * classes
        for x in range(width):
            column = x + kept[1]
            corner = above_row + (column // factor[1] + 1) * padded
            table = (phase * factor[1] + column % factor[1]) * 4 * padded
            for block in range(0, padded, len(lanes)):
                total = load_some(finer, pixel + x * classes + block, classes - block, NEVER, lanes)
                for tap in range(4):
                    unit = corner + (tap // 2) * across + (tap % 2) * padded + block
                    factors = load(weights, table + tap * padded + block, lanes)
                    total = multiply_add_lanes(factors, load(lower, unit, lanes), total)
                store(wanted, place + x * padded + block, total)


@compiled
def surround(units: Floats, extent: Numbers, repeats: bool, start: int, stop: int) -> None:
    """Write the ghosts of rows, and those above the first and below the last: zeros, or the edge and then zeros."""
    height, width, padded = extent
    across = (width + 4) * padded
    for row in range(start, stop):
        image, y = row // height, row % height
        place = (image * (height + 4) + y + 2) * across
        for lane in range(padded):
            units[place + lane] = 0.0
            units[place + padded + lane] = units[place + 2 * padded + lane] if repeats else 0.0
            units[place + across - 2 * padded + lane] = units[place + across - 3 * padded + lane] if repeats else 0.0
            units[place + across - padded + lane] = 0.0
        if y == 0:
            for lane in range(across):
                units[place - across + lane] = units[place + lane] if repeats else 0.0
                units[place - 2 * across + lane] = 0.0
        if y == height - 1:
            for lane in range(across):
                units[place + across + lane] = units[place + lane] if repeats else 0.0
                units[place + 2 * across + lane] = 0.0


@compiled
def first_of(scores: Any, unit: int, best: float, padded: int, lanes: Lanes) -> int:
    """Return the first class of a unit whose score is ``best``; ``padded`` or more where none is."""
    for block in range(0, padded, len(lanes)):
        bits = reaching(load(scores, unit + block, lanes), best)
        if bits != 0:
            return int(block + lowest(bits))
    return padded


@compiled
def surround_winners(winners: Ints, place: int, across: int, top: bool, bottom: bool) -> None:
    """Give the ghosts of the row from ``place`` on, and those above and below it at an end, their neighbour's class."""
    winners[place : place + 2] = winners[place + 2]
    winners[place + across - 2 : place + across] = winners[place + across - 3]
    for x in range(place, place + across):
        for beyond in range(across, 3 * across, across):
            if top:
                winners[x - beyond] = winners[x]
            if bottom:
                winners[x + beyond] = winners[x]


@compiled
def find_winners(
    units: Floats, winners: Ints, classes: int, extent: Numbers, growth: float, lanes: Lanes, start: int, stop: int
) -> bool:
    """Find the best class of every unit in rows; returns whether all scores, ``growth`` times larger, are finite.

    A ghost has the winner of the unit next to it: its own scores are the same, or zeros for every class.
    """
    height, width, padded = extent
    scores = pointer(units)
    sums = filled(np.float32(0), lanes)
    for row in range(start, stop):
        image, y = row // height, row % height
        place = (image * (height + 4) + y + 2) * (width + 4)
        for x in range(2, width + 2):
            unit = (place + x) * padded
            most = load(scores, unit, lanes)
            for block in range(0, padded, len(lanes)):
                found = load_some(scores, unit + block, classes - block, np.float32(0), lanes)
                sums = multiply_add(np.float32(0), scale(np.float32(growth), found), sums)  # NaN if one is not finite
                most = higher(load(scores, unit + block, lanes), most)
            winners[place + x] = min(first_of(scores, unit, largest(most), padded, lanes), classes - 1)
        surround_winners(winners, place, width + 4, y == 0, y == height - 1)
    return bool(all_zero(sums))


@compiled
def strongest(units: Floats, winners: Ints, cell: int, width: int, padded: int) -> int:
    """Choose, among the winners at a cell's four corners, the one with the highest sum of scores there."""
    best, most = 0, np.float32(-np.inf)
    for tap in range(4):
        candidate = int(winners[cell + (tap // 2) * width + tap % 2])
        place = cell * padded + candidate
        total = units[place] + units[place + padded]
        place += width * padded
        total += units[place] + units[place + padded]
        if total > most:
            best, most = candidate, total
    return best


@compiled
def contenders(
    scores: Any, units: Floats, corner: int, across: int, padded: int, rival: int, found: Ints, lanes: Lanes
) -> int:
    """List the classes that beat ``rival`` at one of a cell's corners, and itself; returns how many.

    The others beat it nowhere between the corners, for the weights are the same for all classes and not negative.
    """
    count = 0
    north, south = corner + padded, corner + across
    bounds = units[corner + rival], units[north + rival], units[south + rival], units[south + padded + rival]
    for block in range(0, padded, len(lanes)):
        bits = above(load(scores, corner + block, lanes), bounds[0])
        bits |= above(load(scores, north + block, lanes), bounds[1])
        bits |= above(load(scores, south + block, lanes), bounds[2])
        bits |= above(load(scores, south + padded + block, lanes), bounds[3])
        if block <= rival < block + len(lanes):
            bits |= 1 << (rival - block)
        while bits != 0:
            found[count] = block + lowest(bits)
            count += 1
            bits &= bits - 1
    return count


@compiled
def label_cell(
    units: Floats, weights: Any, corner: int, across: int, padded: int, found: Ints, count: int, own: int,
    labels: Any, start: int, stride: int, tiles: Numbers, lanes: Lanes, columns: Lanes,
) -> None:  # fmt: skip
    """Label the pixels of a cell as the best of ``count`` classes, a vector of rows x ``columns`` at a time.

    ``weights`` holds, for every vector of pixels, those of the four units (``own`` further for the next class).
    """
    wide = len(lanes)
    high = wide // len(columns)
    for tile in range(tiles[0] * tiles[1]):
        best = filled(np.float32(-np.inf), lanes)
        named = filled(np.float32(0), lanes)
        for number in range(count):
            candidate = found[number]
            table = candidate * own + tile * 4 * wide
            place = corner + candidate
            value = scale(units[place], load(weights, table, lanes))
            value = multiply_add(units[place + padded], load(weights, table + wide, lanes), value)
            value = multiply_add(units[place + across], load(weights, table + 2 * wide, lanes), value)
            value = multiply_add(units[place + across + padded], load(weights, table + 3 * wide, lanes), value)
            named = renamed(value, best, np.float32(candidate), named)
            best = higher(value, best)
        place = start + (tile // tiles[1]) * high * stride + (tile % tiles[1]) * len(columns)
        store_labels(labels, place, stride, named, columns)


@compiled
def fill(labels: Any, first: int, stride: int, rows: int, columns: int, label: int) -> None:
    """Give a rectangle of pixels one label; -1 stands for none."""
    if label < 0:
        return
    for row in range(rows):
        for place in range(first + row * stride, first + row * stride + columns):
            labels[place] = label


@compiled
def rivals(
    scores: Any, units: Floats, winners: Ints, cell: int, width: int, padded: int, found: Ints, lanes: Lanes
) -> tuple[int, int]:
    """List the classes that can win in a cell; returns one of them and how many they are."""
    one = int(winners[cell])
    if (winners[cell + 1] == one) & (winners[cell + width] == one) & (winners[cell + width + 1] == one):
        return one, 1
    one = strongest(units, winners, cell, width, padded)
    return one, contenders(scores, units, cell * padded, width * padded, padded, one, found, lanes)


@compiled
def label_part(
    units: Floats, weights: Any, corner: int, across: int, padded: int, found: Ints, count: int, own: int,
    labels: Any, scratch: Any, line: int, stride: int, top: int, rows: tuple[int, int], left: int, factor: int,
    tiles: Numbers, lanes: Lanes, columns: Lanes,
) -> None:  # fmt: skip
    """Label the pixels of a cell that the image ends in, or whose vectors stick out of it, by way of a scratch pad."""
    wide = tiles[1] * len(columns)
    label_cell(
        units, weights, corner, across, padded, found, count, own, data_of(scratch), 0, wide, tiles, lanes, columns
    )
    for y in range(rows[0], rows[1]):
        for x in range(max(left, 0), min(left + factor, stride)):
            labels[line + (y - rows[0]) * stride + x] = scratch[(y - top) * wide + x - left]


@compiled
def label_row(
    units: Floats, winners: Ints, tables: Floats, labels: Any, scratch: Any, found: Ints, classes: int, step: Any,
    own: int, widths: Any, image: int, cell_row: int,
) -> None:  # fmt: skip
    """Label the pixels of a row of cells."""
    extent, size, factor, kept, first, cells, tiles = step
    class_lanes, lanes, columns = widths
    width, padded = extent[1] + 4, extent[2]
    across = width * padded
    scores, weights, pixels = pointer(units), pointer(tables), data_of(labels)
    top = cell_row * factor[0] - kept[0]
    rows = max(top, 0), min(top + factor[0], size[0])
    high, whole = rows[1] - rows[0], rows[1] - rows[0] == tiles[0] * (len(lanes) // len(columns))
    line = (image * size[0] + rows[0]) * size[1]
    begun, name = 0, -1  # the run of one label that is still to be filled: where it began, and the label
    for column in range(first[1], first[1] + cells[1]):
        cell = (image * (extent[0] + 4) + cell_row + 1) * width + column + 1
        left = column * factor[1] - kept[1]
        one, count = -1, classes
        if own == 0:
            one, count = rivals(scores, units, winners, cell, width, padded, found, class_lanes)
        if count > 1:
            one = -1
        if one != name:
            fill(labels, line + begun, size[1], high, left - begun, name)
            begun, name = max(left, 0), one
        if count > 1 and whole and left >= 0 and left + tiles[1] * len(columns) <= size[1]:
            label_cell(
                units, weights, cell * padded, across, padded, found, count, own,
                pixels, line + left, size[1], tiles, lanes, columns,
            )  # fmt: skip
        elif count > 1:
            label_part(
                units, weights, cell * padded, across, padded, found, count, own,
                labels, scratch, line, size[1], top, rows, left, factor[1], tiles, lanes, columns,
            )  # fmt: skip
    fill(labels, line + begun, size[1], high, size[1] - begun, name)


@compiled
def label(
    units: Floats, winners: Ints, tables: Floats, labels: Any, classes: int, step: Any, own: int, widths: Any,
    start: int, stop: int,
) -> None:  # fmt: skip
    """Label the pixels of rows of cells.

    Where one class wins at all four corners of a cell, or no other beats it at any of them, it has the cell; neighbours
    of one label are filled together. ``own`` is 0 where the weights are the same for all classes, which that needs;
    else all classes are compared in every pixel. ``step``: the map's extent, image size, factor, first pixel kept,
    first cell and number of cells, along rows and columns, and how many vectors a cell takes. ``widths``: the lanes
    for classes and for pixels, and how many of the latter are side by side.
    """
    cells, first = step[5], step[4]
    found = np.arange(step[0][2]).astype(np.int32)
    scratch = np.empty(step[6][0] * step[6][1] * len(widths[1]), labels.dtype)
    for row in range(start, stop):
        image, cell_row = row // cells[0], row % cells[0] + first[0]
        label_row(units, winners, tables, labels, scratch, found, classes, step, own, widths, image, cell_row)
