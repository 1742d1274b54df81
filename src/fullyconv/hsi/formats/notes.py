"""What MATLAB and NumPy files say of a scene beside its arrays: small arrays and texts under fixed names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from fullyconv.files import BadFile
from fullyconv.hsi.formats.contents import Contents, Stored, fold, nanometres
from fullyconv.hsi.scene import Georeference, Scene

WAVELENGTHS = ("wavelengths", "wavelength", "Wavelengths", "Wavelength", "wl")
BAD_BANDS, CLASS_NAMES, CRS, TRANSFORM = "bad_bands", "class_names", "crs", "transform"
LINES, COLUMNS = "lines", "cols"
NUMBERS = (*WAVELENGTHS, BAD_BANDS, TRANSFORM, LINES, COLUMNS)
TEXTS = (CLASS_NAMES, CRS)
LONGEST = 1 << 20  # numbers or characters of a note


def write_notes(scene: Scene) -> dict[str, np.ndarray | str]:
    """Return the notes on a scene: class names one per line, bad bands from 0, wavelengths in nm."""
    notes: dict[str, np.ndarray | str] = {}
    if scene.wavelengths:
        notes[WAVELENGTHS[0]] = np.array(scene.wavelengths)
    if scene.bad_bands:
        notes[BAD_BANDS] = np.array(scene.bad_bands, np.int32)
    if scene.classes is not None:
        notes[CLASS_NAMES] = "\n".join(scene.classes.names)
    if scene.georeference is not None:
        notes[CRS] = scene.georeference.crs
        notes[TRANSFORM] = np.array(scene.georeference.transform)
    return notes


def contents_of(path: Path, arrays: Sequence[Stored], texts: Mapping[str, str]) -> Contents:
    """Sort a file's arrays into those that may be cube or labels and those that describe the scene.

    Raises ``BadFile`` for a description that cannot be true.
    """
    found = {array.name: _numbers(path, array) for array in arrays if array.name in NUMBERS}
    wavelengths = next((found[name] for name in WAVELENGTHS if name in found), [])
    bad_bands, transform = found.get(BAD_BANDS, []), found.get(TRANSFORM, [])
    if transform and len(transform) != 6:
        raise BadFile(path, f"a transform of {len(transform)} numbers", "give a, b, c, d, e, f, or none")
    rest = [array for array in arrays if array.name not in NUMBERS and len(array.shape) > 1]
    if len(found.get(LINES, [])) == len(found.get(COLUMNS, [])) == 1:
        rest = fold(rest, int(found[LINES][0]), int(found[COLUMNS][0]))
    place = None
    if transform and texts.get(CRS):
        a, b, c, d, e, f = transform
        place = Georeference(texts[CRS], (a, b, c, d, e, f))
    names = tuple(name.strip() for name in texts.get(CLASS_NAMES, "").splitlines() if name.strip())
    return Contents(path, tuple(rest), nanometres(wavelengths), tuple(map(int, bad_bands)), names, place)


def _numbers(path: Path, array: Stored) -> list[float]:
    if np.prod(array.shape) > LONGEST:
        raise BadFile(path, f"{array} is too long", f"{array.name} describes the scene in a few numbers")
    values = np.asarray(array.read(), np.float64).ravel()
    if not np.isfinite(values).all():
        raise BadFile(path, f"{array} holds NaN or infinity", "correct or remove it")
    return [float(value) for value in values]
