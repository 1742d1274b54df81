"""A hyperspectral image: its spectra, where it was not measured, and where it lies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from fullyconv.types import ClassSet


@dataclass(frozen=True)
class Georeference:
    """Where a scene lies: ``crs`` as WKT, and the affine ``transform`` (a, b, c, d, e, f) from pixel to map.

    ``x = a * column + b * row + c``, ``y = d * column + e * row + f``, of the pixels' upper left corners.
    """

    crs: str
    transform: tuple[float, float, float, float, float, float]


@dataclass(frozen=True)
class Scene:
    """A hyperspectral image: every pixel a spectrum.

    Attributes:
        cube: H x W x B of any type of real numbers, perhaps memory-mapped.
        labels: H x W int16, class index or ``VOID`` (not labelled), with their ``classes``; or neither.
        classes: What the indices mean.
        wavelengths: B numbers in nanometres, or none.
        bad_bands: The bands (from 0) that the file itself marks as useless.
        georeference: Where it lies.
        name: What reports call it.
        no_data: The number that stands for no measurement; NaN always does.
        measured: H x W bool, false where the file's own mask says that nothing was measured.

    >>> cube = np.array([[[1, 2], [-9999, 4]]])
    >>> Scene(cube, no_data=-9999).missing().tolist(), Scene(cube, no_data=-9999).missing([1]).tolist()
    ([[False, True]], [[False, False]])

    """

    cube: np.ndarray
    labels: np.ndarray | None = None
    classes: ClassSet | None = None
    wavelengths: tuple[float, ...] = ()
    bad_bands: tuple[int, ...] = ()
    georeference: Georeference | None = None
    name: str = ""
    no_data: float | None = None
    measured: np.ndarray | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Height, width and number of bands."""
        return self.cube.shape

    @property
    def may_miss(self) -> bool:
        """Whether any pixel can be without data; if not, nothing need be read to know."""
        return self.cube.dtype.kind == "f" or self.no_data is not None or self.measured is not None

    def __getitem__(self, region: slice | tuple[slice, slice]) -> Scene:
        """Cut rows, or rows and columns, out of the scene; nothing is read. A piece lies nowhere on the map."""
        return replace(
            self,
            cube=self.cube[region],
            labels=None if self.labels is None else self.labels[region],
            measured=None if self.measured is None else self.measured[region],
            georeference=None,
        )

    def missing(self, bands: Sequence[int] | None = None) -> np.ndarray:
        """Mark the pixels without data in any of the ``bands`` (default: all that are not bad), H x W bool.

        One missing value is enough: what stands in its place is no measurement, and a network given it beside
        real ones would answer all the same.
        """
        if bands is None:
            bands = [band for band in range(self.cube.shape[2]) if band not in self.bad_bands]
        gone = np.zeros(self.cube.shape[:2], bool) if self.measured is None else ~self.measured
        if self.cube.dtype.kind == "f" or self.no_data is not None:
            gone |= absent(self.cube[..., list(bands)], self.no_data).any(axis=2)
        return gone


def absent(values: np.ndarray, no_data: float | None) -> np.ndarray:
    """Mark the values that stand for no measurement: NaN, and ``no_data`` as its type stores it.

    >>> absent(np.array([1, np.nan, -0.1], np.float32), -0.1).tolist()
    [False, True, True]
    """
    gone: np.ndarray = np.isnan(values) if values.dtype.kind == "f" else np.zeros(values.shape, bool)
    if no_data is None or np.isnan(no_data):
        return gone
    with np.errstate(over="ignore"):
        fill = np.float64(no_data).astype(values.dtype if values.dtype.kind == "f" else np.float64)
    if values.dtype.kind != "f":  # what the type cannot hold occurs nowhere
        low, high = (0, 1) if values.dtype.kind == "b" else (np.iinfo(values.dtype).min, np.iinfo(values.dtype).max)
        return values == int(fill) if low <= fill <= high and fill == np.round(fill) else gone
    return gone | (values == fill) if np.isfinite(fill) == np.isfinite(no_data) else gone
