"""Where a GeoTIFF's pixels lie: read from its tags, carried to maps of it, used to measure areas. No GDAL needed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import atanh, radians, sin, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from fullyconv.data.nothing import NO_DATA
from fullyconv.data.tiff_pages import levels
from fullyconv.types import ClassSet

SCALE, TIEPOINT, TRANSFORM, KEYS, DOUBLES, WORDS = 33550, 33922, 34264, 34735, 34736, 34737
CARRIED = (SCALE, TIEPOINT, TRANSFORM, KEYS, DOUBLES, WORDS)
TILE = 512  # pixels of a side
RASTER_TYPE, GEOGRAPHIC, PROJECTED, UNITS = 1025, 2048, 3072, 3076  # keys of the GeoTIFF standard (OGC 19-008r4)
POINT = 2  # a pixel's numbers are those of its middle
METRES = {9001: 1.0, 9002: 0.3048, 9003: 1200 / 3937}  # of EPSG's units of length
USER_DEFINED = 32767
EQUATOR_M, FLATTENING = 6378137.0, 1 / 298.257223563  # WGS 84


@dataclass(frozen=True)
class Place:
    """Where the pixels of a picture lie.

    Attributes:
        transform: a, b, c, d, e, f: pixel (x, y), counted from the picture's upper left corner, lies at
            (a x + b y + c, d x + e y + f).
        epsg: The number of the reference system; ``None`` where the file does not give one.
        degrees: Whether it counts longitude and latitude.
        metre: Metres per unit, where it does not.
        tags: The file's own tags, as they are: code, type, count and value.
    """

    transform: tuple[float, float, float, float, float, float]
    epsg: int | None = None
    degrees: bool = False
    metre: float = 1.0
    tags: tuple[tuple[int, int, int, Any], ...] = ()

    @property
    def crs(self) -> str | None:
        """The name of the reference system, ``EPSG:32633``."""
        return None if self.epsg is None else f"EPSG:{self.epsg}"

    def at(self, corners: np.ndarray) -> np.ndarray:
        """Return where corners lie, K x 2 (x, y) for K x 2 pixels.

        >>> Place((10.0, 0.0, 500.0, 0.0, -10.0, 900.0)).at(np.array([[0, 0], [1, 2]])).tolist()
        [[500.0, 900.0], [510.0, 880.0]]
        """
        a, b, c, d, e, f = self.transform
        matrix, shift = np.array([[a, b], [d, e]]), np.array([c, f])
        found: np.ndarray = corners.astype(np.float64) @ matrix.T + shift
        return found

    def pixels(self, places: np.ndarray) -> np.ndarray:
        """Return which corners lie at places, K x 2 pixels for K x 2 (x, y): the inverse of ``at``.

        >>> Place((10.0, 0.0, 500.0, 0.0, -10.0, 900.0)).pixels(np.array([[510, 880]])).tolist()
        [[1.0, 2.0]]
        """
        a, b, c, d, e, f = self.transform
        found: np.ndarray = np.linalg.solve(np.array([[a, b], [d, e]]), (places - (c, f)).T).T
        return found

    def row_areas(self, height: int) -> np.ndarray:
        """Return the area of a pixel in each row, square metres.

        Of longitude and latitude it is that of the ellipsoid WGS 84 between the row's parallels.

        >>> [round(area) for area in Place((1.0, 0, 0, 0, -1.0, 1.0), degrees=True).row_areas(2) / 1e6]
        [12308, 12308]
        """
        a, b, _, d, e, f = self.transform
        if not self.degrees:
            return np.full(height, abs(a * e - b * d) * self.metre**2)
        bounds = np.array([_zone(radians(f + e * row)) for row in range(height + 1)])
        return np.abs(np.diff(bounds)) * abs(radians(a))

    def scaled(self, across: float, down: float) -> Place:
        """Return where the pixels of the same picture in another size lie.

        Args:
            across: The width of a pixel of that size, in pixels of this one.
            down: Its height.

        >>> Place((10.0, 0.0, 500.0, 0.0, -10.0, 900.0)).scaled(2, 4).transform
        (20.0, 0.0, 500.0, 0.0, -40.0, 900.0)
        """
        a, b, c, d, e, f = self.transform
        a, b, d, e = a * across, b * down, d * across, e * down
        tags = {code: (kind, count, value) for code, kind, count, value in self.tags}
        if _keys(tags).get(RASTER_TYPE) == POINT:
            x, y = c + (a + b) / 2, f + (d + e) / 2
        else:
            x, y = c, f
        if b == d == 0 and a > 0 > e:
            height = tags[SCALE][2][2] if SCALE in tags else 0.0
            z = tags[TIEPOINT][2][5] if TIEPOINT in tags else 0.0
            own = {SCALE: (12, 3, (a, -e, height)), TIEPOINT: (12, 6, (0.0, 0.0, 0.0, x, y, z))}
        else:
            own = {TRANSFORM: (12, 16, (a, b, 0.0, x, d, e, 0.0, y, *(0.0,) * 7, 1.0))}
        kept = {code: each for code, each in tags.items() if code not in (SCALE, TIEPOINT, TRANSFORM)}
        carried = tuple((code, *each) for code, each in sorted((kept | own).items()))
        return replace(self, transform=(a, b, c, d, e, f), tags=carried)


def _zone(latitude: float) -> float:
    """Return the ellipsoid's area from the equator to a parallel, per radian of longitude, square metres."""
    squared = FLATTENING * (2 - FLATTENING)
    eccentricity, sine = sqrt(squared), sin(max(-np.pi / 2, min(np.pi / 2, latitude)))
    polar = EQUATOR_M * (1 - FLATTENING)
    return polar**2 / 2 * (sine / (1 - squared * sine**2) + atanh(eccentricity * sine) / eccentricity)


def read_place(path: Path, level: int = 0) -> Place | None:
    """Read where a picture lies.

    Args:
        path: A file of any kind.
        level: Which of its sizes is meant, 0 the full one.

    Returns:
        Its place; ``None`` for what is no TIFF file, says nothing of its place, or is stored turned.
    """
    if path.suffix.lower() not in (".tif", ".tiff") or not path.is_file():  # a pipe would be waited for
        return None
    try:
        with tifffile.TiffFile(path) as file:
            page = file.pages.first
            smaller = levels(file, page)[level] if level else page
            ratios = page.imagewidth / smaller.imagewidth, page.imagelength / smaller.imagelength
            tags = {tag.code: (int(tag.dtype), tag.count, tag.value) for tag in page.tags.values()}
    except Exception:  # whoever reads the pixels says what is wrong with the file
        return None
    transform = None if tags.get(274, (0, 0, 1))[2] != 1 else _transform(tags)
    if transform is None:
        return None
    keys = _keys(tags)
    projected, geographic = keys.get(PROJECTED), keys.get(GEOGRAPHIC)
    if keys.get(RASTER_TYPE) == POINT:
        a, b, c, d, e, f = transform
        transform = a, b, c - (a + b) / 2, d, e, f - (d + e) / 2
    codes = [code for code in (projected, geographic) if code not in (None, 0, USER_DEFINED)]
    carried = tuple((code, *tags[code]) for code in CARRIED if code in tags)
    place = Place(
        transform,
        codes[0] if codes else None,
        degrees=projected is None and geographic is not None,
        metre=METRES.get(keys.get(UNITS, 9001), 1.0),
        tags=carried,
    )
    return place.scaled(*ratios) if level else place


Tags = Mapping[int, tuple[int, int, Any]]


def _transform(tags: Tags) -> tuple[float, float, float, float, float, float] | None:
    if TRANSFORM in tags and len(tags[TRANSFORM][2]) == 16:
        matrix = tags[TRANSFORM][2]
        return matrix[0], matrix[1], matrix[3], matrix[4], matrix[5], matrix[7]
    if SCALE not in tags or TIEPOINT not in tags or len(tags[TIEPOINT][2]) != 6:
        return None  # several tie points are no straight grid
    across, down, _ = tags[SCALE][2]
    column, row, _, x, y, _ = tags[TIEPOINT][2]
    return across, 0.0, x - column * across, 0.0, -down, y + row * down


def _keys(tags: Tags) -> dict[int, int]:
    """Read the whole numbers of the directory of keys."""
    directory = tags.get(KEYS, (0, 0, ()))[2]
    entries = [directory[start : start + 4] for start in range(4, len(directory) - 3, 4)]
    return {key: value for key, kind, count, value in entries if kind == 0 and count == 1}


def mask_values(classes: ClassSet) -> np.ndarray:
    """Return the mask values of classes by their labels, at last the ignored one, in the smallest type that maps have.

    >>> mask_values(ClassSet(("a", "b"), values=(3, 5))).tolist()
    [3, 5, 255]
    """
    table = np.array([*classes.values, classes.ignore_index])
    return table.astype(np.uint8 if table.max() < 256 else np.uint16)


def write_class_tiff(
    path: Path, values: np.ndarray, classes: ClassSet, place: Place, *, tiles: Iterator[np.ndarray] | None = None
) -> None:
    """Write mask values where a picture lies: GeoTIFF, compressed, with colours, its "no data" the ignored value.

    Args:
        path: The file, written at once: give a temporary name.
        values: H x W mask values of the classes, uint8 or uint16.
        classes: What they mean.
        place: Where the picture lies.
        tiles: The values of maps that are too large to be held, TILE x TILE each, row by row; of ``values`` then only
            shape and type are read. The file is a BigTIFF in tiles where it needs to be.
    """
    extra = [(code, kind, count, value, True) for code, kind, count, value in place.tags]
    extra.append((NO_DATA, 2, 0, str(classes.ignore_index), True))
    options: dict[str, Any] = {"photometric": "minisblack"}
    if values.dtype == np.uint8:
        colours = np.zeros((3, 256), np.uint16)
        colours[:, list(classes.values)] = np.array(classes.colours, np.uint16).T * 257
        options = {"photometric": "palette", "colormap": colours}
    options |= {"compression": "zlib", "metadata": None, "extratags": extra}
    if tiles is not None:
        options |= {"shape": values.shape, "dtype": values.dtype, "tile": (TILE, TILE)}
        options["bigtiff"] = values.nbytes >= 1 << 32
    tifffile.imwrite(path, values if tiles is None else tiles, **options)
