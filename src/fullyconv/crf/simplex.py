"""The compiled loops that build a permutohedral lattice (Adams et al. 2010): embed, number, connect."""

from __future__ import annotations

import numpy as np

from fullyconv.compiler import compiled
from fullyconv.crf.kernels import Axes, Floats, Ints, Longs

MIX = -7046029254386353131  # 2^64 / golden ratio, odd: spreads keys over a table
SHIFT = 20
UNUSED = -1
TILE = 128  # points whose coordinates are computed together


@compiled
def find(table: Longs, key: int) -> int:
    """Return the slot (of 2 numbers: key, value) that holds ``key``, or the free one where it belongs.

    Open addressing, the next slot after a collision: tables are kept at most half full, so a free one is near.
    """
    mask = (table.size >> 1) - 1
    slot = ((key * MIX) >> SHIFT) & mask
    while table[2 * slot + 1] != UNUSED and table[2 * slot] != key:
        slot = (slot + 1) & mask
    return slot


@compiled
def enlarged(table: Longs) -> Longs:
    """Copy a table into one of twice the size."""
    larger = np.full(2 * table.size, UNUSED, np.int64)
    for place in range(0, table.size, 2):
        if table[place + 1] != UNUSED:
            slot = find(larger, table[place])
            larger[2 * slot], larger[2 * slot + 1] = table[place], table[place + 1]
    return larger


@compiled
def number(keys: Longs, count: int, table: Longs, numbers: Ints) -> int:
    """Look up each key's number in ``table``, giving new keys those from ``count`` on; returns the new count."""
    for place in range(keys.size):
        slot = find(table, keys[place])
        if table[2 * slot + 1] == UNUSED:
            table[2 * slot], table[2 * slot + 1] = keys[place], count
            count += 1
        numbers[place] = np.int32(table[2 * slot + 1])
    return count


@compiled
def absorb(keys: Longs, count: int, table: Longs, numbers: Ints) -> tuple[Longs, int]:
    """Number the keys of another table, enlarging this one as needed; returns the table and the new count."""
    while 2 * (count + keys.size) > table.size >> 1:
        table = enlarged(table)
    return table, number(keys, count, table, numbers)


@compiled
def raise_points(features: Floats, scales: Floats, first: int, axes: Axes, raised: Floats, points: int) -> None:
    """Elevate points to the hyperplane of d + 1 coordinates with sum zero, in units of d + 1; fills (d+1) x tile.

    By the triangular basis of Adams et al. 2010 (section 3): from the last coordinate to the first with a running
    sum, d additions per point instead of a matrix product.
    """
    dims = len(axes) - 1
    inverse, tail = np.float32(1.0 / (dims + 1)), np.zeros(TILE, np.float32)
    for axis in range(dims, 0, -1):
        factor, lever, row = scales[axis - 1] * inverse, np.float32(axis), raised[axis]
        given = features[axis - 1, first : first + points]
        for point in range(points):
            row[point] = tail[point] - lever * (given[point] * factor)
            tail[point] += given[point] * factor
    raised[0] = tail


@compiled
def round_points(
    raised: Floats, lows: Longs, strides: Longs, axes: Axes, nearest: Longs, excess: Ints, points: int
) -> None:
    """Take off the nearest vertex of class 0: its key goes to ``nearest``, the sum of its coordinates to ``excess``.

    Each coordinate is rounded by itself (Conway and Sloane); ``return_points`` brings the sum back to zero.
    """
    for axis in range(len(axes)):
        row, low, stride = raised[axis], lows[axis], strides[axis]
        for point in range(points):
            whole = np.floor(row[point] + np.float32(0.5))
            row[point] -= whole
            excess[point] += np.int32(whole)
            nearest[point] += (np.int64(np.int32(whole)) - low) * stride


@compiled
def rank_points(raised: Floats, axes: Axes, rank: Ints, points: int) -> None:
    """Rank the remainders of each point, 0 the largest."""
    rank[:] = 0
    for axis in range(len(axes) - 1):
        for other in range(axis + 1, len(axes)):
            row, rival, place, next_place = raised[axis], raised[other], rank[axis], rank[other]
            for point in range(points):
                lower = np.int32(row[point] < rival[point])
                place[point] += lower
                next_place[point] += np.int32(1) - lower


@compiled
def return_points(
    raised: Floats, strides: Longs, axes: Axes, nearest: Longs, excess: Ints, rank: Ints, points: int
) -> None:
    """Move the coordinates at one end of the order by one, so that their sum is zero.

    Where the rounding went ``excess`` too far, those that were rounded up the most go back, and the other way round.
    """
    dims = len(axes) - 1
    for axis in range(dims + 1):
        row, place, stride = raised[axis], rank[axis], strides[axis]
        for point in range(points):
            moved = place[point] + excess[point]
            turn = np.int32(moved < 0) - np.int32(moved > dims)
            place[point] = moved + turn * np.int32(dims + 1)
            nearest[point] += np.int64(turn) * stride
            row[point] -= np.float32(turn)


@compiled
def list_corners(
    raised: Floats, strides: Longs, axes: Axes, nearest: Longs, rank: Ints, ends: Floats, keys: Longs, points: int
) -> None:
    """Fill ``keys`` (of the d + 1 corners) and ``ends`` (the remainders in order, whose steps are the weights)."""
    dims = len(axes) - 1
    for corner in range(dims + 1):
        end, key, turn = ends[corner], keys[corner], np.int32(dims - corner)
        key[:] = nearest
        end[:] = np.float32(0)
        for axis in range(dims + 1):  # the coordinate that ranks next takes its step
            row, place, step = raised[axis], rank[axis], 1 - strides[axis]
            for point in range(points):
                end[point] += row[point] if place[point] == turn else np.float32(0)
            for point in range(points):
                nearest[point] += step if place[point] == turn else 0


@compiled
def embed(
    features: Floats, scales: Floats, lows: Longs, strides: Longs, axes: Axes, offsets: Ints, weights: Floats,
    start: int, stop: int,
) -> tuple[Longs, int]:  # fmt: skip
    """Find the simplex around each of the points ``start`` to ``stop``: d + 1 vertices, numbered, and weights.

    ``features`` is d x N. A vertex is known by a key: its d coordinates in units of d + 1, from
    ``lows`` on, times ``strides``, plus its remainder class 0..d. Fills ``offsets`` and ``weights``
    (N x (d+1)); returns the table of keys and how many there are.
    """
    dims = len(axes) - 1
    table, count = np.full(1 << 15, UNUSED, np.int64), 0
    raised, ends = np.empty((dims + 1, TILE), np.float32), np.empty((dims + 1, TILE), np.float32)
    rank, keys = np.empty((dims + 1, TILE), np.int32), np.empty((dims + 1, TILE), np.int64)
    nearest, excess = np.empty(TILE, np.int64), np.empty(TILE, np.int32)
    for first in range(start, stop, TILE):
        tile = min(TILE, stop - first)
        nearest[:] = 0
        excess[:] = 0
        raise_points(features, scales, first, axes, raised, tile)
        round_points(raised, lows, strides, axes, nearest, excess, tile)
        rank_points(raised, axes, rank, tile)
        return_points(raised, strides, axes, nearest, excess, rank, tile)
        list_corners(raised, strides, axes, nearest, rank, ends, keys, tile)
        while 2 * (count + tile * (dims + 1)) > table.size >> 1:  # at most half full, even if all keys are new
            table = enlarged(table)
        for corner in range(dims + 1):
            count = number(keys[corner, :tile], count, table, offsets[first : first + tile, corner])
        for point in range(tile):
            before = ends[dims, point] - np.float32(1)
            for corner in range(dims + 1):
                weights[first + point, corner] = ends[corner, point] - before
                before = ends[corner, point]
    return table, count


@compiled
def keys_of(table: Longs, count: int) -> Longs:
    """List the keys of a table in the order of their numbers."""
    keys = np.empty(count, np.int64)
    for place in range(0, table.size, 2):
        if table[place + 1] != UNUSED:
            keys[table[place + 1]] = table[place]
    return keys


@compiled
def renumber(offsets: Ints, numbers: Ints, start: int, stop: int) -> None:
    """Replace a share's own vertex numbers by those of the whole lattice."""
    for point in range(start, stop):
        for corner in range(offsets.shape[1]):
            offsets[point, corner] = numbers[offsets[point, corner]]


@compiled
def connect(keys: Longs, table: Longs, strides: Longs, base: int, neighbours: Ints, start: int, stop: int) -> None:
    """Fill ``neighbours``, axes x V x 2, for the vertices ``start`` to ``stop``: those not there are left as they are.

    ``base`` is the power of two that divides all strides: below it a key holds the remainder class. Threads write
    into each other's vertices, but never to the same place: a vertex is the neighbour of one other along an axis.
    """
    dims = strides.size - 1
    everything = strides.sum()
    for vertex in range(start, stop):
        remainder = keys[vertex] & (base - 1)
        for axis in range(dims + 1):
            # One step along an axis: coordinate + d, all others - 1.
            key = keys[vertex] + strides[axis] + (dims - everything if remainder == 0 else -1)
            slot = find(table, key)
            other = table[2 * slot + 1]
            if other != UNUSED:
                neighbours[axis, vertex, 0] = other
                neighbours[axis, other, 1] = vertex


@compiled
def walk(neighbours: Ints, vertex: int, chosen: Longs, side: int, turn: int) -> float:
    """Follow the blur from a vertex one step along every axis that is ``chosen`` (== ``turn``), in the blur's order.

    Returns 1/2 per step, 0 where a vertex on the way is missing.
    """
    share, missing = 1.0, neighbours.shape[1]
    for axis in range(neighbours.shape[0]):
        if chosen[axis] == turn:
            vertex = neighbours[axis, vertex, side]
            share *= 0.5
            if vertex == missing:
                return 0.0
    return share


@compiled
def answer(neighbours: Ints, corners: Ints, between: Longs, source: int, target: int) -> float:
    """Return how much of what is put on corner ``source`` of a simplex the blur carries to corner ``target``.

    ``between[k]`` is the axis from corner k to corner k + 1. There are two ways: along the axes
    between the corners, or backwards along all the others; from a corner to itself, three.
    """
    axes = neighbours.shape[0]
    chosen = np.zeros(axes, np.int64)
    low, high = min(source, target), max(source, target)
    for corner in range(low, high):
        chosen[between[corner]] = 1
    up = 1 if source <= target else 0
    share = walk(neighbours, corners[source], chosen, up, 1)
    share += walk(neighbours, corners[source], chosen, 1 - up, 0)
    if source == target:
        share += walk(neighbours, corners[source], chosen, up, 0)
    return share


@compiled
def diagonal(offsets: Ints, weights: Floats, neighbours: Ints, answers: Floats, start: int, stop: int) -> None:
    """Compute how much of each point's own value its filtered value holds (without the gain)."""
    axes = neighbours.shape[0]
    between = np.zeros(axes, np.int64)
    for point in range(start, stop):
        corners = offsets[point]
        for corner in range(axes - 1):
            for axis in range(axes):
                if neighbours[axis, corners[corner], 1] == corners[corner + 1]:
                    between[corner] = axis
        own = 0.0
        for source in range(axes):
            for target in range(axes):
                share = np.float64(weights[point, source]) * weights[point, target]
                own += share * answer(neighbours, corners, between, source, target)
        answers[point] = own
