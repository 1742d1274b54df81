"""What a scene's file holds, whatever its format: named arrays, not yet read, and what is said of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from fullyconv.files import BadFile
from fullyconv.hsi.scene import Georeference
from fullyconv.limits import LIMITS

NUMBERS = "buif"  # numpy's kinds: truth values, unsigned and signed integers, floating point


@dataclass(frozen=True)
class Stored:
    """An array of a file: its ``shape`` is known before ``read`` gives it, from memory or mapped."""

    name: str
    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]

    def __str__(self) -> str:
        return f"{self.name} ({' x '.join(map(str, self.shape))})"

    @property
    def plane(self) -> tuple[int, ...]:
        """Height and width of what may be a label map: two dimensions, or a third one of a single band."""
        return self.shape[:2] if len(self.shape) == 2 or self.shape[2:] == (1,) else ()


@dataclass(frozen=True)
class Contents:
    """The arrays of numbers in a file; ``class_names`` belong to the label values 1, 2 and so on."""

    path: Path
    arrays: tuple[Stored, ...]
    wavelengths: tuple[float, ...] = ()  # nm
    bad_bands: tuple[int, ...] = ()
    class_names: tuple[str, ...] = ()
    georeference: Georeference | None = None

    def named(self, key: str) -> Stored:
        """Return the array called ``key``; raises ``BadFile``."""
        for array in self.arrays:
            if array.name == key:
                return array
        raise BadFile(self.path, f"no array {key!r}", f"choose one of {listed(self.arrays)}")

    def read(self, array: Stored) -> np.ndarray:
        """Read an array of the file; raises ``BadFile`` if it is too large or damaged."""
        height, width, bands = (*array.shape, 1, 1, 1)[:3]
        if 0 in array.shape or height * width > LIMITS.pixels or bands > LIMITS.bands:
            what = f"{array}: a scene has 1 to {LIMITS.pixels} pixels and 1 to {LIMITS.bands} bands"
            raise BadFile(self.path, what, "restore the file, or cut the scene")
        try:
            return array.read()
        except BadFile:
            raise
        except Exception as error:  # every library raises kinds of its own
            raise unreadable(self.path, error) from None


def listed(arrays: Sequence[Stored]) -> str:
    """List arrays with their sizes."""
    return ", ".join(map(str, arrays)) or "none"


def unreadable(path: Path, error: object) -> BadFile:
    """Say that a library could not read a file."""
    return BadFile(path, f"unreadable ({error})", "restore it from its source, or save it anew")


def check_bytes(path: Path, name: str, shape: Sequence[int], itemsize: int) -> None:
    """Refuse, before anything is allocated, an array that has to be read whole and is too large for that."""
    size = itemsize
    for length in shape:
        size *= int(length)
    if size > LIMITS.array_bytes:
        what = f"{name} takes {size >> 20} MiB of memory, more than {LIMITS.array_bytes >> 20}"
        raise BadFile(path, what, "save it as .npy or ENVI, which are read piece by piece")


def needs(package: str, *, to: str) -> Any:
    """Import an optional package, or say which extra brings it."""
    try:
        return import_module(package)
    except ImportError as missing:
        name = package.partition(".")[0]
        raise ImportError(f"to {to} needs {name}: pip install 'fullyconv[hsi]'") from missing


def nanometres(values: Sequence[float], unit: str = "") -> tuple[float, ...]:
    """Bring wavelengths to nm; without a known unit, numbers that are all below 100 are micrometres.

    >>> nanometres([0.4, 2.5]), nanometres([400, 2500], "Nanometers"), nanometres([1.5], "Micrometers")
    ((400.0, 2500.0), (400.0, 2500.0), (1500.0,))
    """
    given = unit.strip().lower()
    scales = {"nanometers": 1.0, "nanometres": 1.0, "nm": 1.0, "micrometers": 1e3, "micrometres": 1e3, "microns": 1e3,
              "um": 1e3, "µm": 1e3, "millimeters": 1e6, "mm": 1e6, "meters": 1e9, "m": 1e9}  # fmt: skip
    scale = scales.get(given) or (1e3 if values and max(values) < 100 else 1.0)
    return tuple(round(float(value) * scale, 6) for value in values)


def find_cube(contents: Contents, key: str | None) -> Stored:
    """Return the array called ``key``, or else the one with three dimensions; raises ``BadFile``."""
    if key is not None:
        cube = contents.named(key)
        if len(cube.shape) != 3:
            raise BadFile(contents.path, f"{cube} is no cube", "a cube is H x W x bands: name another array")
        return cube
    cubes = [array for array in contents.arrays if len(array.shape) == 3]
    unfolded = [array for array in cubes if array.name == UNFOLDED]
    cubes = unfolded or cubes
    if len(cubes) != 1:
        what = f"{len(cubes)} arrays of H x W x bands: {listed(cubes or contents.arrays)}"
        raise BadFile(contents.path, what, "name the cube (cube key), or save it with three dimensions")
    return cubes[0]


UNFOLDED = "Y"
"""The scene in the files of the unmixing data sets (Samson, Jasper Ridge): bands x pixels, column by column."""


def fold(arrays: Sequence[Stored], lines: int, columns: int) -> list[Stored]:
    """Return the unmixing data sets' ``Y``, bands x pixels, its three dimensions; pixels run down the columns."""
    return [
        Stored(array.name, (lines, columns, array.shape[0]), lambda y=array: _folded(y.read(), lines, columns))  # type: ignore[misc]
        if array.name == UNFOLDED and array.shape[1:] == (lines * columns,)
        else array
        for array in arrays
    ]


def _folded(spectra: np.ndarray, lines: int, columns: int) -> np.ndarray:
    return spectra.T.reshape(columns, lines, -1).transpose(1, 0, 2)


def find_labels(contents: Contents, key: str | None, cube: Stored, *, optional: bool) -> Stored | None:
    """Return the array called ``key``, or else the one that fits the cube's height and width.

    A map of whole numbers is taken before abundances, H x W x classes. Raises ``BadFile`` for several,
    or for none unless that is an ``optional`` find.
    """
    if key is not None:
        return contents.named(key)
    arrays = [array for array in contents.arrays if array is not cube]
    size = cube.shape[:2]
    maps = [array for array in arrays if array.plane == size]
    fractions = [array for array in arrays if len(array.shape) == 3 and array.shape[:2] == size]
    found = maps or fractions
    if len(found) == 1 or (optional and not found):
        return found[0] if found else None
    if not found:
        what = f"no label map of the scene's size: the cube is {_by(size)}, the file has {listed(arrays)}"
        raise BadFile(contents.path, what, "labels and cube must be of one height and width")
    raise BadFile(contents.path, f"several label maps: {listed(found)}", "name one of them (label key)")


def _by(size: Sequence[int]) -> str:
    return " x ".join(map(str, size))
