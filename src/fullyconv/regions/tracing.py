"""From labels to polygons: exact on the edges of pixels, with holes, and simpler ones."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from fullyconv.regions.kernels import count_corners, joined, numbered, outlines


@dataclass(frozen=True)
class Polygon:
    """Pixels of one class that share edges, as an outline.

    Attributes:
        label: The class.
        pixels: How many there are.
        rings: K x 2 corners (x, y) each, in pixels from the upper left corner of the image, the last not repeated: the
            outline, clockwise on the screen, then the holes, counterclockwise.

    >>> Polygon(0, 2, (np.array([[2, 0], [2, 1], [0, 1], [0, 0]]),)).box
    (0.0, 0.0, 2.0, 1.0)
    """

    label: int
    pixels: int
    rings: tuple[np.ndarray, ...]

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom."""
        (left, top), (right, bottom) = self.rings[0].min(0), self.rings[0].max(0)
        return float(left), float(top), float(right), float(bottom)


def trace(labels: np.ndarray, *, least: int = 1) -> list[Polygon]:
    """Find the polygons of a label map.

    Pixels that share an edge belong together, pixels that share a corner alone do not. The polygons of all classes
    cover every labelled pixel exactly once.

    Args:
        labels: H x W integers; what is negative belongs to no polygon.
        least: Pixels; what is smaller is left out.

    Returns:
        The polygons, in the order of their first pixels.

    Raises:
        ValueError: For an array that is no label map.

    >>> labels = np.array([[0, 0, 0], [0, 1, 0], [0, 0, 0]])
    >>> frame, dot = trace(labels)
    >>> [ring.tolist() for ring in frame.rings]
    [[[3, 0], [3, 3], [0, 3], [0, 0]], [[2, 2], [2, 1], [1, 1], [1, 2]]]
    >>> dot.label, dot.pixels, dot.box
    (1, 1, (1.0, 1.0, 2.0, 2.0))
    """
    if labels.ndim != 2 or labels.dtype.kind not in "iu":
        raise ValueError(f"a label map is H x W integers, not {labels.shape} {labels.dtype}")
    if labels.size == 0:
        return []
    framed = np.pad(np.asarray(labels, np.int32), 1, constant_values=-1)
    numbers = numbered(framed, joined(framed))[1:-1, 1:-1]
    pixels = np.bincount(numbers[numbers >= 0])
    corners = count_corners(framed)
    points, starts = np.empty((corners, 2), np.int32), np.empty(corners // 4 + 1, np.int64)  # a way has four or more
    ways = outlines(framed, points, starts)
    rings: list[list[np.ndarray]] = [[] for _ in pixels]
    classes = np.zeros(len(pixels), np.int64)
    for way in range(ways):
        ring = points[starts[way] : starts[way + 1]].copy()
        x, y = ring[-1]  # of the pixel that the way began above
        rings[numbers[y, x]].append(ring)
        classes[numbers[y, x]] = labels[y, x]
    return [
        Polygon(int(label), int(count), tuple(own))
        for label, count, own in zip(classes, pixels, rings, strict=True)
        if count >= least
    ]


def simplify(polygon: Polygon, tolerance: float) -> Polygon:
    """Leave out corners, so that no outline moves by more than a distance (Douglas and Peucker 1973).

    Each polygon is simplified by itself: neighbours may then overlap or leave gaps of up to twice that.

    Args:
        polygon: What to simplify.
        tolerance: Pixels; 0 leaves it as it is.

    Returns:
        A polygon whose outline has at least three corners; holes that would vanish are left out.

    >>> stairs = trace(np.tril(np.ones((8, 8), int)) - 1)[0]
    >>> len(stairs.rings[0]), len(simplify(stairs, 1).rings[0])
    (18, 3)
    """
    if tolerance <= 0:
        return polygon
    outer, *holes = (_simplified(ring.astype(np.float64), tolerance) for ring in polygon.rings)
    if len(outer) < 3:
        outer = polygon.rings[0]
    return replace(polygon, rings=(outer, *(ring for ring in holes if len(ring) >= 3)))


def _simplified(ring: np.ndarray, tolerance: float) -> np.ndarray:
    """Simplify a ring between two corners that stay: the first, and the one farthest from it."""
    far = int(((ring - ring[0]) ** 2).sum(1).argmax())
    closed = np.concatenate([ring, ring[:1]])
    keep = np.zeros(len(closed), bool)
    keep[[0, far]] = True
    spans = [(0, far), (far, len(ring))]
    while spans:
        first, last = spans.pop()
        if last - first < 2:
            continue
        start, end = closed[first], closed[last]
        inner = closed[first + 1 : last] - start
        along = end - start
        length = float(np.hypot(*along))
        away = np.abs(inner[:, 0] * along[1] - inner[:, 1] * along[0]) / length if length else np.hypot(*inner.T)
        worst = int(away.argmax())
        if away[worst] > tolerance:
            keep[first + 1 + worst] = True
            spans += [(first, first + 1 + worst), (first + 1 + worst, last)]
    return ring[keep[:-1]]
