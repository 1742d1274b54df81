"""A hyperspectral image and where it lies."""

from __future__ import annotations

from dataclasses import dataclass

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

    ``cube`` is H x W x B of any number type, perhaps memory-mapped; ``labels`` H x W int16 (class index
    or ``VOID``: not labelled) with their ``classes``, or neither. ``wavelengths`` are B numbers in
    nanometres; ``bad_bands`` the bands (from 0) that the file itself marks as useless.
    """

    cube: np.ndarray
    labels: np.ndarray | None = None
    classes: ClassSet | None = None
    wavelengths: tuple[float, ...] = ()
    bad_bands: tuple[int, ...] = ()
    georeference: Georeference | None = None
    name: str = ""
