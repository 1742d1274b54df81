"""What MATLAB and NumPy files say of a scene beside its arrays: small arrays and texts under fixed names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path

import numpy as np

from fullyconv.files import BadFile
from fullyconv.hsi.formats.contents import Contents, Stored
from fullyconv.hsi.formats.layout import fold
from fullyconv.hsi.formats.units import nanometres
from fullyconv.hsi.scene import Georeference, Scene

WAVELENGTHS = ("wavelengths", "wavelength", "Wavelengths", "Wavelength", "wl")
BAD_BANDS, CLASS_NAMES, CRS, TRANSFORM = "bad_bands", "class_names", "crs", "transform"
NO_DATA, MEASURED = "no_data", "measured"
LINES, COLUMNS = "lines", "cols"
NUMBERS = (*WAVELENGTHS, BAD_BANDS, TRANSFORM, NO_DATA, LINES, COLUMNS)
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
    if scene.no_data is not None:
        notes[NO_DATA] = np.array([scene.no_data])
    if scene.measured is not None:
        notes[MEASURED] = scene.measured.astype(np.uint8)
    if scene.georeference is not None:
        notes[CRS] = scene.georeference.crs
        notes[TRANSFORM] = np.array(scene.georeference.transform)
    return notes


def is_text(name: str) -> bool:
    """Return whether an array of this name, perhaps a field of a struct, is a text that describes the scene."""
    return _last(name) in TEXTS


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def contents_of(path: Path, arrays: Sequence[Stored], texts: Mapping[str, str], others: Sequence[str] = ()) -> Contents:
    """Sort a file's arrays into those that may be cube or labels and those that describe the scene.

    Args:
        path: The file.
        arrays: All its arrays of real numbers, without empty ones.
        texts: Its texts by name; fields of structs are named ``struct.field``.
        others: Phrases on arrays that cannot be used.

    Raises:
        BadFile: For a description that cannot be true.

    """
    said = {_last(name): text for name, text in texts.items()}
    found = {_last(array.name): _numbers(path, array) for array in arrays if _last(array.name) in NUMBERS}
    wavelengths = next((found[name] for name in WAVELENGTHS if name in found), [])
    transform = found.get(TRANSFORM, [])
    if transform and len(transform) != 6:
        raise BadFile(path, f"a transform of {len(transform)} numbers", "give a, b, c, d, e, f, or none")
    masks = [array for array in arrays if _last(array.name) == MEASURED and array.plane]
    rest = [array for array in arrays if _last(array.name) not in NUMBERS and array not in masks]
    rest = [array for array in rest if prod(array.shape) > 1]
    if len(found.get(LINES, [])) == len(found.get(COLUMNS, [])) == 1:
        rest = fold(rest, int(found[LINES][0]), int(found[COLUMNS][0]))
    place = None
    if transform and said.get(CRS):
        a, b, c, d, e, f = transform
        place = Georeference(said[CRS], (a, b, c, d, e, f))
    try:
        nanometers = nanometres(wavelengths)
    except ValueError as error:
        raise BadFile(path, str(error), "give one positive number per band, or remove the wavelengths") from None
    return Contents(
        path,
        tuple(rest),
        nanometers,
        tuple(map(int, found.get(BAD_BANDS, []))),
        tuple(name.strip() for name in said.get(CLASS_NAMES, "").splitlines() if name.strip()),
        place,
        next(iter(found.get(NO_DATA, [])), None),
        (lambda: masks[0].read().reshape(masks[0].plane) != 0) if masks else None,
        tuple(others),
    )


def _numbers(path: Path, array: Stored) -> list[float]:
    if prod(array.shape) > LONGEST:
        raise BadFile(path, f"{array} is too long", f"{array.name} describes the scene in a few numbers")
    values = np.asarray(array.read(), np.float64).ravel()
    if not np.isfinite(values).all():
        raise BadFile(path, f"{array} holds NaN or infinity", "correct or remove it")
    return [float(value) for value in values]
