"""What a scene's file holds, whatever its format: named arrays, not yet read, and what is said of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from math import prod
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from fullyconv.files import BadFile
from fullyconv.hsi.scene import Georeference
from fullyconv.limits import LIMITS

Read = TypeVar("Read")

NUMBERS = "buif"  # numpy's kinds: truth values, unsigned and signed integers, floating point


@dataclass(frozen=True)
class Stored:
    """An array of a file: its ``shape`` is known before ``read`` gives it, from memory or mapped."""

    name: str
    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]

    def __str__(self) -> str:
        return f"{self.name} ({by(self.shape)})"

    @property
    def plane(self) -> tuple[int, ...]:
        """Height and width of what may be a label map: two dimensions, or a third one of a single band."""
        return self.shape[:2] if len(self.shape) == 2 or self.shape[2:] == (1,) else ()


@dataclass(frozen=True)
class Contents:
    """The arrays of numbers in a file, and all it says of them.

    Attributes:
        path: The file.
        arrays: What may be a cube or a label map.
        wavelengths: One per band, nm; or none.
        bad_bands: Bands, from 0, that the file marks as useless.
        class_names: Of the label values 1, 2 and so on.
        georeference: Where the scene lies.
        no_data: The number that stands for no measurement, besides NaN.
        measured: Reads the file's own mask, H x W bool, false where nothing was measured.
        others: Arrays that are neither, each as a phrase that says why: ``gt is a table``.

    """

    path: Path
    arrays: tuple[Stored, ...]
    wavelengths: tuple[float, ...] = ()
    bad_bands: tuple[int, ...] = ()
    class_names: tuple[str, ...] = ()
    georeference: Georeference | None = None
    no_data: float | None = None
    measured: Callable[[], np.ndarray] | None = None
    others: tuple[str, ...] = ()

    def named(self, key: str) -> Stored:
        """Return the array called ``key``; raises ``BadFile``."""
        for array in self.arrays:
            if array.name == key:
                return array
        raise BadFile(self.path, f"no array {key!r}", f"choose one of {self.listed()}")

    def listed(self) -> str:
        """List all that the file holds, with sizes."""
        return ", ".join([*map(str, self.arrays), *self.others]) or "none"

    def read(self, array: Stored) -> np.ndarray:
        """Read an array of the file; raises ``BadFile`` if it is too large or damaged."""
        check_plane(self.path, str(array), array.shape)
        values = guarded(self.path, array.read)
        if values.shape != array.shape:  # damaged files say two things
            what = f"{array} turned out to be {by(values.shape) or 'a single number'}"
            raise BadFile(self.path, what, "restore it from its source, or save it anew")
        return values

    def read_measured(self) -> np.ndarray | None:
        """Read the file's own mask of what was measured, H x W bool, if it has one; raises ``BadFile``."""
        return None if self.measured is None else guarded(self.path, self.measured)


def guarded(path: Path, read: Callable[[], Read]) -> Read:
    """Read by a library whose errors are of many kinds; raises ``BadFile`` for all of them."""
    try:
        return read()
    except (BadFile, ImportError):
        raise
    except Exception as error:
        raise BadFile(path, f"unreadable ({str(error)[:200]})", "restore it from its source, or save it anew") from None


def by(shape: Sequence[int]) -> str:
    """Write a shape: ``4 x 5 x 3``."""
    return " x ".join(map(str, shape))


def listed(arrays: Sequence[Stored]) -> str:
    """List arrays with their sizes."""
    return ", ".join(map(str, arrays)) or "none"


def check_plane(path: Path, what: str, shape: Sequence[int]) -> None:
    """Refuse an array without pixels, or of more pixels or bands than the budget has; raises ``BadFile``."""
    height, width, bands = (*shape, 1, 1, 1)[:3]
    if 0 in shape:
        raise BadFile(path, f"{what} is empty", "a scene has a pixel and a band at least")
    if height * width > LIMITS.pixels:
        raise BadFile(path, f"{what} has {height * width} pixels", f"cut it, or {LIMITS.remedy('pixels')}")
    if bands > LIMITS.bands:
        raise BadFile(path, f"{what} has {bands} bands", f"leave some out, or {LIMITS.remedy('bands')}")


def check_bytes(path: Path, name: str, shape: Sequence[int], itemsize: int) -> None:
    """Refuse, before anything is allocated, an array that has to be read whole and is too large for that."""
    size = itemsize * prod(map(int, shape))
    if size > LIMITS.array_bytes:
        what = f"{name} takes {size >> 20} MiB of memory, more than {LIMITS.array_bytes >> 20}"
        fix = f"save it as .npy or ENVI, which are read piece by piece, or {LIMITS.remedy('array_bytes')}"
        raise BadFile(path, what, fix)


def needs(package: str, *, to: str) -> Any:
    """Import an optional package, or say which extra brings it."""
    try:
        return import_module(package)
    except ImportError as missing:
        name = package.partition(".")[0]
        raise ImportError(f"to {to} needs {name}: pip install 'fullyconv[hsi]'") from missing
