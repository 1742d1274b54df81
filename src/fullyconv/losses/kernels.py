"""Compiled loops of the loss of upsampled scores: sixteen pixels at a time, nothing at the size of the picture.

A block of pixels is a few dozen columns of the rows between two rows of units.
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fullyconv.compiler import contracted
from fullyconv.losses.lanes import (
    WIDTH,
    add,
    all_of,
    divide,
    equal,
    exponential,
    larger,
    load,
    logarithm,
    multiply,
    multiply_add,
    smaller,
    store,
    subtract,
    total,
    where,
    zero,
)

Floats: TypeAlias = NDArray[np.float32]
Doubles: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int32]
Longs: TypeAlias = NDArray[np.int64]
Axis: TypeAlias = tuple[Longs, Floats, Floats, Longs]
"""For each pixel along an axis the first of its two units, the weights of both, and the end of the run of pixels
that have the same first unit."""

CHUNK = 4  # bands: small enough to share among threads, large enough that few rows of units belong to two
BLOCK = 64  # columns: scores, gradients and sums of 21 classes stay in the first cache
COSTLIEST = np.float32(126 * math.log(2))  # Caffe's FLT_MIN: no pixel costs more

_ZERO = np.float32(0)
_LOWEST = np.float32(-math.inf)


@contracted
def lose(scores: Floats, labels: Longs, choices: Any, axes: tuple[Axis, Axis], share: Any, found: Any) -> None:
    """Add up the losses of a share of the chunks, and their slopes at the units.

    A band is all rows of a picture that lie between the same two rows of units, a chunk ``CHUNK`` bands.

    Args:
        scores: N x C x h x w, those of the units.
        labels: N x H x W.
        choices: What a pixel of each class weighs, C float32, and the label that is left out.
        axes: Those of rows and of columns.
        share: The first row of each band, and H; then the first chunk of the share and the one behind its last, the
            chunks of all pictures counted through.
        found: Receives for each chunk its loss, its weight, and the least and the largest label that is no class,
            chunks x 4 float64; and its slopes at its rows of units, chunks x (CHUNK + 1) x C x w float32, or
            0 x ... if there is no need.
    """
    tops, start, stop = share
    sums, slopes = found
    classes, bands = scores.shape[1], tops.shape[0] - 1
    chunks = -(-bands // CHUNK)
    # Upsampled along the row and the slopes at that, for two rows of units; then sixteen pixels' exponentials.
    space = np.zeros((4, classes, BLOCK), np.float32), np.empty((classes, WIDTH), np.float32)
    pixels = np.zeros(BLOCK, np.int32), np.zeros(BLOCK, np.float32)  # their classes and weights
    for chunk in range(start, stop):
        picture, first = chunk // chunks, chunk % chunks * CHUNK
        edges = tops[first : min(first + CHUNK, bands) + 1]
        slope = slopes[chunk : chunk + 1]
        slope[:] = _ZERO
        sums[chunk, 0], sums[chunk, 1], sums[chunk, 2], sums[chunk, 3] = 0.0, 0.0, np.inf, -np.inf
        _lose_chunk(scores[picture], labels[picture], choices, axes, edges, (sums[chunk], slope, space, pixels))


@contracted
def _lose_chunk(scores: Floats, labels: Longs, choices: Any, axes: tuple[Axis, Axis], edges: Longs, room: Any) -> None:
    """Work through the bands from each of the ``edges`` to the next one, a block of columns at a time."""
    sums, slope, space, pixels = room
    spread = space[0]
    units, firsts, seconds = axes[0][0], axes[0][1], axes[0][2]
    top, last = units[edges[0]], scores.shape[1] - 1
    for start in range(0, labels.shape[1], BLOCK):
        stop = min(start + BLOCK, labels.shape[1])
        here = 0  # the lower row of units of a band is the upper one of the next
        _spread(scores[:, top], axes[1], start, stop, spread[here])
        spread[2 + here] = _ZERO
        for band in range(edges.shape[0] - 1):
            _spread(scores[:, min(top + band + 1, last)], axes[1], start, stop, spread[1 - here])
            spread[3 - here] = _ZERO
            for row in range(edges[band], edges[band + 1]):
                if _weigh(labels[row, start:stop], choices, pixels, sums):
                    counts = (firsts[row], seconds[row])
                    sums[0] += _judge(space, pixels, counts, here, slope.size > 0)
            for each in slope:
                _gather(spread[2 + here], axes[1], start, stop, each[band])
            here = 1 - here
        for each in slope:
            _gather(spread[2 + here], axes[1], start, stop, each[edges.shape[0] - 1])


@contracted
def collect(slopes: Floats, tops: Longs, gradient: Floats) -> None:
    """Add the slopes of chunks to the gradient, N x C x h x w; ``tops`` are the first rows of units of the chunks."""
    chunks, last = tops.shape[0], gradient.shape[2] - 1
    for chunk in range(slopes.shape[0]):
        for row in range(slopes.shape[1]):  # those beyond a chunk's or the map's end are 0
            gradient[chunk // chunks, :, min(tops[chunk % chunks] + row, last)] += slopes[chunk, row]


@contracted
def _spread(units: Floats, columns: Axis, start: int, stop: int, spread: Floats) -> None:
    """Upsample a row of units, C x w, to the columns of a block, C x BLOCK."""
    last = units.shape[1] - 1
    for c in range(units.shape[0]):
        column = start
        while column < stop:
            end = min(columns[3][column], stop)
            unit = columns[0][column]
            left, right = units[c, unit], units[c, min(unit + 1, last)]
            for x in range(column, end):
                spread[c, x - start] = columns[1][x] * left + columns[2][x] * right
            column = end


@contracted
def _weigh(labels: Longs, choices: Any, pixels: tuple[Ints, Floats], sums: Doubles) -> bool:
    """Look up classes and weights of a block, and whether any has one; what is no class weighs nothing and is noted."""
    (weights, ignored), (truth, weight) = choices, pixels
    classes = weights.shape[0]
    weighs = False
    summed: Any = 0.0
    for x in range(labels.shape[0]):
        label = labels[x]
        known = label != ignored and label >= 0 and label < classes
        chosen = label if known else 0
        own = weights[chosen] if known else _ZERO
        truth[x], weight[x] = np.int32(chosen), own
        summed += own
        weighs = weighs or own != _ZERO
        if not known and label != ignored:
            sums[2], sums[3] = min(sums[2], label), max(sums[3], label)
    weight[labels.shape[0] :] = _ZERO
    sums[1] += summed
    return weighs


@contracted
def _judge(space: Any, pixels: tuple[Ints, Floats], counts: tuple[Any, Any], here: int, descends: bool) -> Any:
    """Return the losses of a row of a block; adds its slopes to those of the two rows of units, if they are wanted.

    ``counts`` is what the upper row of units, number ``here`` in ``space``, and the lower one count in this row.
    """
    spread, held = space
    truth, weights = pixels
    upper, lower, nothing = all_of(counts[0]), all_of(counts[1]), all_of(_ZERO)
    loss: Any = np.float64(0)
    for x in range(0, BLOCK, WIDTH):
        weight = load(weights, x)
        most, chosen = all_of(_LOWEST), nothing
        for c in range(held.shape[0]):
            score = multiply_add(upper, load(spread[here, c], x), multiply(lower, load(spread[1 - here, c], x)))
            store(held[c], 0, score)
            most = larger(score, most)
            chosen = where(equal(truth, x, np.int32(c)), score, chosen)
        summed = nothing
        for c in range(held.shape[0]):
            chance = exponential(subtract(load(held[c], 0), most))
            store(held[c], 0, chance)
            summed = add(summed, chance)
        cost = add(logarithm(summed), subtract(most, chosen))
        cost = smaller(all_of(COSTLIEST), cost)  # NaN stays NaN
        none = zero(weight)  # 0 times NaN is NaN
        loss += total(where(none, nothing, multiply(cost, weight)))
        if descends:
            factor = divide(weight, summed)
            for c in range(held.shape[0]):
                own = where(equal(truth, x, np.int32(c)), weight, nothing)
                slope = where(none, nothing, subtract(multiply(load(held[c], 0), factor), own))
                store(spread[2 + here, c], x, multiply_add(upper, slope, load(spread[2 + here, c], x)))
                store(spread[3 - here, c], x, multiply_add(lower, slope, load(spread[3 - here, c], x)))
    return loss


@contracted
def _gather(spread: Floats, columns: Axis, start: int, stop: int, slopes: Floats) -> None:
    """Bring the slopes of columns to their units: what ``_spread`` does, transposed."""
    last = slopes.shape[1] - 1
    for c in range(slopes.shape[0]):
        column = start
        while column < stop:
            end = min(columns[3][column], stop)
            unit = columns[0][column]
            left, right = _ZERO, _ZERO
            for x in range(column, end):
                left += columns[1][x] * spread[c, x - start]
                right += columns[2][x] * spread[c, x - start]
            slopes[c, unit] += left
            slopes[c, min(unit + 1, last)] += right
            column = end
