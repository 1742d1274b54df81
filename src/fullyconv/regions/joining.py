"""The polygons of a label map that comes in bands of rows: traced in each, joined across the borders between them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from fullyconv.regions.documents import ring_area
from fullyconv.regions.tracing import Polygon, trace

MOST_CORNERS = 50_000_000  # of outlines that wait for the rows below: 400 MB


class TooManyRegions(ValueError):
    """More of regions than may be held."""


def trace_rows(bands: Iterable[np.ndarray], *, most: int = MOST_CORNERS) -> Iterator[Polygon]:
    """Find the polygons of a label map, as ``trace`` does, without holding it.

    Args:
        bands: h x W integers each, from the top to the bottom; what is negative belongs to no polygon.
        most: Corners that may be held of regions that go on below.

    Yields:
        The polygons of ``trace``, each as soon as it is finished.

    Raises:
        TooManyRegions: Where there are more.

    >>> upper, lower = np.array([[0, 0, 0], [0, 1, 0]]), np.array([[0, 1, 0], [0, 0, 0]])
    >>> sorted((each.label, each.pixels, len(each.rings)) for each in trace_rows([upper, lower]))
    [(0, 10, 2), (1, 2, 1)]
    """
    joining, waiting = _Joining(most), deque[np.ndarray]()
    for band in bands:
        waiting.append(band)
        if len(waiting) == 2:
            yield from joining.add(waiting.popleft(), band[0])
    for band in waiting:
        yield from joining.add(band, None)


class _Chain:
    """A part of an outline, between two places where it crosses the border to another band."""

    __slots__ = ("into", "parts", "region")

    def __init__(self, points: np.ndarray, region: _Region) -> None:
        self.parts, self.region = deque([points]), region
        self.into: _Chain | None = None

    def whole(self) -> _Chain:
        """Return the chain that this one has become a part of."""
        chain = self
        while chain.into is not None:
            chain = chain.into
        return chain

    def followed_by(self, other: _Chain) -> None:
        """Put another chain behind this one; the shorter is moved."""
        if len(self.parts) >= len(other.parts):
            self.parts.extend(other.parts)
            other.into = self
        else:
            other.parts.extendleft(reversed(self.parts))
            self.into = other


@dataclass(eq=False)
class _Region:
    """Pixels that belong together, as far as is known."""

    label: int
    pixels: int
    rings: list[np.ndarray] = field(default_factory=list)
    open: int = 0  # chains
    into: _Region | None = None

    def whole(self) -> _Region:
        """Return the region that this one has become a part of."""
        region = self
        while region.into is not None:
            region = region.into
        return region

    def joined(self, other: _Region) -> None:
        """Take in another region."""
        if self is other:
            return
        large, small = (self, other) if len(self.rings) >= len(other.rings) else (other, self)
        large.pixels, large.open = large.pixels + small.pixels, large.open + small.open
        large.rings.extend(small.rings)
        small.rings, small.into = [], large

    def polygon(self) -> Polygon:
        """Return the polygon: its outline, which is the one ring that runs clockwise, and the holes."""
        rings = sorted(self.rings, key=lambda ring: (ring_area(ring) < 0, *ring[-1, ::-1].tolist()))
        return Polygon(self.label, self.pixels, tuple(rings))


_Ends = dict[tuple[int, int], list[tuple[str, _Chain]]]
"""Chains that end (or begin) at a border, with the pixel that they run along there; by column and label."""


class _Joining:
    """Joins bands, one after the other."""

    def __init__(self, most: int) -> None:
        self._most, self._held = most, 0
        self._row = 0
        self._above: np.ndarray | None = None  # the last row of the band before
        self._regions: list[_Region] = []  # that are not finished
        self._begin: _Ends = {}  # at the border to the next band
        self._end: _Ends = {}

    def add(self, band: np.ndarray, below: np.ndarray | None) -> Iterator[Polygon]:
        """Trace a band, whose neighbour below begins with a row; yields what is finished."""
        top, bottom = self._row, self._row + len(band)
        begin, end = self._begin, self._end
        self._begin, self._end = {}, {}
        around = {top: self._above, bottom: below}
        sides = {row: side for row, side in around.items() if side is not None}
        for polygon in trace(band):
            region = _Region(polygon.label, polygon.pixels)
            self._regions.append(region)
            for ring in polygon.rings:
                placed = ring + np.array([0, top], ring.dtype)
                self._held += len(placed)
                pieces = _pieces(placed, polygon.label, sides)
                if pieces is None:
                    region.rings.append(placed)
                for piece in pieces or ():
                    self._open(piece, region, top, begin, end)
        for key, chains in end.items():
            for pixel, chain in chains:
                self._link(chain.whole(), _partner(begin[key], pixel).whole())
        self._row, self._above = bottom, band[-1]
        yield from self._finished()
        if self._held > self._most:
            raise TooManyRegions(f"has regions whose outlines have over {self._most} corners, more than are held")

    def _open(self, piece: np.ndarray, region: _Region, top: int, begin: _Ends, end: _Ends) -> None:
        chain = _Chain(piece, region)
        region.open += 1
        for ends, place, step, pixels in (
            (begin if piece[0, 1] == top else self._begin, piece[0], piece[1] - piece[0], LEAVING),
            (end if piece[-1, 1] == top else self._end, piece[-1], piece[-1] - piece[-2], ARRIVING),
        ):
            pixel = pixels[int(np.sign(step[0])), int(np.sign(step[1]))]
            ends.setdefault((int(place[0]), region.label), []).append((pixel, chain))

    def _link(self, chain: _Chain, following: _Chain) -> None:
        region, other = chain.region.whole(), following.region.whole()
        region.joined(other)
        region = region.whole()
        region.open -= 1
        if chain is not following:
            chain.followed_by(following)
            return
        ring = np.concatenate(list(chain.parts))
        straight = _straightened(ring)
        self._held += len(straight) - len(ring)
        region.rings.append(straight)

    def _finished(self) -> Iterator[Polygon]:
        regions = [region for region in self._regions if region.into is None]
        self._regions = [region for region in regions if region.open]
        for region in regions:
            if not region.open:
                self._held -= sum(map(len, region.rings))
                yield region.polygon()


# Outlines run clockwise on the screen, so the pixel that an edge belongs to lies to its right. Where two pixels of one
# class touch at a corner alone, an outline goes on along the pixel that it came along.
ARRIVING = {(0, 1): "NW", (0, -1): "SE", (1, 0): "SW", (-1, 0): "NE"}
LEAVING = {(0, 1): "SW", (0, -1): "NE", (1, 0): "SE", (-1, 0): "NW"}


def _partner(candidates: list[tuple[str, _Chain]], pixel: str) -> _Chain:
    """Take out the chain that goes on where another ends."""
    place = next((index for index, (own, _) in enumerate(candidates) if own == pixel), 0) if len(candidates) > 1 else 0
    return candidates.pop(place)[1]


def _pieces(ring: np.ndarray, label: int, sides: dict[int, np.ndarray]) -> list[np.ndarray] | None:
    """Cut a ring where the region goes on in another band; ``None`` where it nowhere does.

    Args:
        ring: K x 2 corners.
        label: The region's.
        sides: The other band's row at each border.
    """
    reached = [row for row in sides if (ring[:, 1] == row).any()]
    if not reached:
        return None
    after = np.roll(ring, -1, 0)
    gaps: list[tuple[int, int, int, int]] = []  # edge, from, to, row
    on_border = (ring[:, 1] == after[:, 1]) & np.isin(ring[:, 1], reached)
    for edge in np.flatnonzero(on_border).tolist():
        row, start, stop = int(ring[edge, 1]), int(ring[edge, 0]), int(after[edge, 0])
        same = np.flatnonzero(
            np.diff(np.pad(sides[row][min(start, stop) : max(start, stop)] == label, 1).astype(np.int8))
        )
        runs = (same + min(start, stop)).reshape(-1, 2).tolist()
        gaps += [(edge, a, b, row) for a, b in runs] if start < stop else [(edge, b, a, row) for a, b in reversed(runs)]
    if not gaps:
        return None
    pieces = []
    for gap, following in zip(gaps, [*gaps[1:], gaps[0]], strict=True):
        within = gap[0] < following[0] or (gap[0] == following[0] and gap is not gaps[-1])
        between = (
            ring[gap[0] + 1 : following[0] + 1]
            if within
            else np.concatenate([ring[gap[0] + 1 :], ring[: following[0] + 1]])
        )
        ends = np.array([[gap[2], gap[3]], [following[1], following[3]]], ring.dtype)
        piece = np.concatenate([ends[:1], between, ends[1:]])
        pieces.append(piece[np.append(True, (np.diff(piece, axis=0) != 0).any(1))])
    return pieces


def _straightened(ring: np.ndarray) -> np.ndarray:
    """Leave out what is no corner of a closed ring, and begin as ``trace`` does: after its first edge above a pixel."""
    ring = ring[(ring != np.roll(ring, 1, 0)).any(1)]
    before, after = ring - np.roll(ring, 1, 0), np.roll(ring, -1, 0) - ring
    ring = ring[before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]]
    above = np.flatnonzero(np.roll(ring, -1, 0)[:, 0] > ring[:, 0])
    first = above[np.lexsort((ring[above, 0], ring[above, 1]))[0]]
    found: np.ndarray = np.roll(ring, -first - 1, 0)
    return found
