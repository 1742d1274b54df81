"""What annotations draw, and which pixels that is.

The rule: coordinates are continuous, pixel (column, row) is the square from (column, row) to (column + 1, row + 1),
and a shape covers the pixels whose centres lie inside, by the even-odd rule (a hole is a ring inside a ring). A shape
in which no centre lies covers the pixel of its middle: what somebody drew is never lost.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fullyconv.regions.filling import fill

FARTHEST = 1e7  # from the origin, in pixels: no picture is so large, and products of such numbers are still exact
ROUND = 360  # corners of a circle or an ellipse
MOST_CROSSINGS = 50_000_000  # of edges and rows: a zigzag through a large picture is no outline

Size = tuple[int, int]
"""Height and width."""


class Patch(NamedTuple):
    """Pixels of a picture: the place of the upper left corner of ``inside``, H x W bool."""

    top: int
    left: int
    inside: np.ndarray


@dataclass(frozen=True)
class Outline:
    """An area between rings, each N x 2 (x, y); what an odd number of them encloses is inside.

    Where ``relative``, coordinates are shares of the picture's width and height.

    Raises:
        ValueError: For a ring of fewer than two points, and coordinates that no picture has.

    >>> Outline([np.array([(0, 0), (3, 0), (0, 3)])]).patch((4, 4)).inside.astype(int).tolist()
    [[1, 1], [1, 0]]
    """

    rings: Sequence[np.ndarray]
    relative: bool = False

    def __post_init__(self) -> None:
        for ring in self.rings:
            if len(ring) < 2:
                raise ValueError("an outline of fewer than two points")
            if not (np.abs(ring) <= FARTHEST).all():  # NaN is not less than anything
                raise ValueError(f"an outline through {ring[~(np.abs(ring) <= FARTHEST).all(1)][0].tolist()}")

    def patch(self, size: Size) -> Patch | None:
        """Return the pixels that it covers in a picture of a size, ``None`` if it lies outside."""
        height, width = size
        rings = [ring * (width, height) for ring in self.rings] if self.relative else self.rings
        points = np.concatenate(list(rings))
        low, high = points.min(0), points.max(0)
        if low[0] >= width or low[1] >= height or high[0] <= 0 or high[1] <= 0:
            return None
        top, bottom = max(0, int(low[1])), min(height, int(np.ceil(high[1])) + 1)
        left, right = max(0, int(low[0])), min(width, int(np.ceil(high[0])) + 1)
        shifted = [ring - (left, top) for ring in rings]
        inside = fill(shifted, (bottom - top, right - left), most=MOST_CROSSINGS)
        return _trimmed(top, left, inside) or _middle((low + high) / 2, size)


def _trimmed(top: int, left: int, inside: np.ndarray) -> Patch | None:
    """Cut a patch down to its pixels; ``None`` if it has none."""
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    if not len(rows):
        return None
    down, across = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    return Patch(top + int(rows[0]), left + int(columns[0]), inside[down, across])


def _middle(middle: np.ndarray, size: Size) -> Patch:
    column, row = (min(max(0, int(value)), most - 1) for value, most in zip(middle, size[::-1], strict=True))
    return Patch(row, column, np.ones((1, 1), bool))


@dataclass(frozen=True)
class Together:
    """An area of several parts, such as COCO's things that something stands in front of."""

    parts: Sequence[Outline]

    def patch(self, size: Size) -> Patch | None:
        """Return the pixels that any part covers, ``None`` if all lie outside."""
        found = [patch for part in self.parts if (patch := part.patch(size)) is not None]
        if len(found) < 2:
            return found[0] if found else None
        top, left = min(patch.top for patch in found), min(patch.left for patch in found)
        bottom = max(patch.top + patch.inside.shape[0] for patch in found)
        right = max(patch.left + patch.inside.shape[1] for patch in found)
        inside = np.zeros((bottom - top, right - left), bool)
        for patch in found:
            height, width = patch.inside.shape
            inside[patch.top - top :, patch.left - left :][:height, :width] |= patch.inside
        return Patch(top, left, inside)


@dataclass(frozen=True)
class Bitmap:
    """Pixels that are stored as such: ``decode`` gives H x W bool for ``box`` (top, left, height, width).

    ``of`` is the size of the picture that it was made on, if that is known. Raises ``ValueError`` when it is drawn, if
    what is stored is broken or does not lie in the picture.
    """

    decode: Callable[[], np.ndarray]
    box: tuple[int, int, int, int]
    of: Size | None = None

    def patch(self, size: Size) -> Patch | None:
        """Return its pixels inside a picture of a size."""
        if self.of not in (None, size):
            raise ValueError(f"pixels of a picture of another size, {self.of}")
        top, left, height, width = self.box
        fits = min(top, left) >= 0 and 0 < height <= size[0] - top and 0 < width <= size[1] - left
        if not fits:
            raise ValueError(f"pixels of {width} x {height} at ({left}, {top}), beyond the picture")
        return Patch(top, left, self.decode())


Shape = Outline | Together | Bitmap


@dataclass(frozen=True)
class Region:
    """A shape and the name of its class."""

    label: str
    shape: Shape


@dataclass(frozen=True)
class Drawing:
    """What a document draws on one picture, what is drawn later on top.

    ``name`` is what it calls the picture, ``document`` the file; ``size`` is the picture's by its account, ``split`` a
    word for it, if it has one; ``embedded`` reads the picture's file from the document, if that holds it.
    """

    name: str
    document: Path
    regions: tuple[Region, ...]
    size: Size | None = None
    split: str = ""
    embedded: Callable[[], bytes] | None = None


@dataclass(frozen=True)
class Annotations:
    """All drawings of a data set, and its classes in their order; ``colours`` of those that have one.

    ``left_out`` counts what is no area, by what it is (points, lines, boxes); ``note`` is what else is to be said.
    """

    kind: str
    names: tuple[str, ...]
    drawings: tuple[Drawing, ...]
    colours: dict[str, tuple[int, int, int]]
    left_out: dict[str, int]
    note: str = ""


def rectangle(left: float, top: float, right: float, bottom: float) -> Outline:
    """Draw a rectangle."""
    return Outline([np.array([(left, top), (right, top), (right, bottom), (left, bottom)], np.float64)])


def ellipse(middle: tuple[float, float], radii: tuple[float, float], turned: float = 0.0) -> Outline:
    """Draw an ellipse around (x, y) of two radii, along x and y, turned clockwise by degrees."""
    angles = np.linspace(0, 2 * np.pi, ROUND, endpoint=False)
    return turn(middle + np.stack([np.cos(angles), np.sin(angles)], 1) * radii, middle, turned)


def turn(ring: np.ndarray, around: tuple[float, float], degrees: float) -> Outline:
    """Turn a ring clockwise (y points down) around a point."""
    angle = np.radians(degrees)
    matrix = np.array([(np.cos(angle), np.sin(angle)), (-np.sin(angle), np.cos(angle))])
    return Outline([(ring - around) @ matrix + around if degrees else ring])


def ring_of(numbers: Sequence[float]) -> np.ndarray:
    """Bring x, y, x, y, … to N x 2; raises ``ValueError`` for an odd count."""
    if len(numbers) % 2 or len(numbers) < 4:
        raise ValueError(f"an outline of {len(numbers)} numbers: they come in pairs")
    return np.asarray(numbers, np.float64).reshape(-1, 2)
