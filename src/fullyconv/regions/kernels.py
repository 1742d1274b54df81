"""Compiled loops over pixels: the parts of a label map that hang together, and the way around each.

All take labels with a frame of -1 around them, (H + 2) x (W + 2), so that every pixel has neighbours.
"""

from __future__ import annotations

import numpy as np

from fullyconv.compiler import compiled

Array = np.ndarray
STEP_Y, STEP_X = np.array([0, 1, 0, -1]), np.array([1, 0, -1, 0])  # right, down, left, up


@compiled
def _root(parents: Array, node: int) -> int:
    while parents[node] != node:
        parents[node] = parents[parents[node]]
        node = parents[node]
    return node


@compiled
def joined(labels: Array) -> Array:
    """Join pixels of one label that share an edge: each one's parent, the first pixel of a part its own."""
    height, width = labels.shape
    parents = np.arange(height * width)
    for y in range(1, height - 1):
        for x in range(1, width - 1):
            here, place = labels[y, x], y * width + x
            for before, same in ((place - 1, labels[y, x - 1] == here), (place - width, labels[y - 1, x] == here)):
                if same and here >= 0:
                    one, other = _root(parents, place), _root(parents, before)
                    parents[max(one, other)] = min(one, other)
    return parents


@compiled
def numbered(labels: Array, parents: Array) -> Array:
    """Number the parts from 0 in the order of their first pixels; -1 where labels are negative."""
    height, width = labels.shape
    numbers = np.full((height, width), -1)
    count = 0
    for y in range(1, height - 1):
        for x in range(1, width - 1):
            if labels[y, x] >= 0:
                root = _root(parents, y * width + x)
                if root == y * width + x:
                    numbers[y, x] = count
                    count += 1
                else:
                    numbers[y, x] = numbers[root // width, root % width]
    return numbers


@compiled
def count_corners(labels: Array) -> int:
    """Count the corners of all ways around parts: those of each pixel's four quarters."""
    height, width = labels.shape
    count = 0
    for y in range(1, height - 1):
        for x in range(1, width - 1):
            here = labels[y, x]
            for down, across in ((-1, -1), (-1, 1), (1, -1), (1, 1)):
                beyond, beside = labels[y + down, x] == here, labels[y, x + across] == here
                inner = beyond and beside and labels[y + down, x + across] != here
                if here >= 0 and (inner or not (beyond or beside)):
                    count += 1
    return count


@compiled
def outlines(labels: Array, points: Array, starts: Array) -> int:
    """Walk around every part, the part on the right hand; parts that share a corner alone do not hang together.

    Fills ``points`` (corners, x and y, counted from the frame's inner corner), and where those of each way start.
    Returns how many ways there are: the one around a part comes before those around its holes.
    """
    height, width = labels.shape
    seen = np.zeros((height, width), np.bool_)  # upper edges that were walked along; each way has one
    ways, filled = 0, 0
    for top in range(1, height - 1):
        for left in range(1, width - 1):
            if labels[top, left] < 0 or seen[top, left] or labels[top - 1, left] == labels[top, left]:
                continue
            starts[ways] = filled
            ways += 1
            filled = _walk(labels, seen, (top, left), points, filled)
    starts[ways] = filled
    return ways


@compiled
def _walk(labels: Array, seen: Array, start: tuple[int, int], points: Array, filled: int) -> int:
    """Walk from an upper edge back to it, and note where the way turns; returns how many points there are then."""
    y, x = start
    here, heading = labels[y, x], 0
    while heading != 0 or not seen[y, x]:
        if heading == 0:
            seen[y, x] = True
        ahead_y, ahead_x = y + STEP_Y[heading], x + STEP_X[heading]
        left = (heading + 3) % 4
        beyond_y, beyond_x = ahead_y + STEP_Y[left], ahead_x + STEP_X[left]
        corner_y, corner_x = y - 1 + (heading in (1, 2)), x - 1 + (heading in (0, 1))  # where this edge ends
        if labels[ahead_y, ahead_x] != here:
            heading = (heading + 1) % 4
        elif labels[beyond_y, beyond_x] != here:
            y, x = ahead_y, ahead_x
            continue
        else:
            y, x, heading = beyond_y, beyond_x, left
        points[filled, 0], points[filled, 1] = corner_x, corner_y
        filled += 1
    return filled
