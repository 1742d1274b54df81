"""Which array of a file is the cube and which the label map, and what looks like one but lies differently."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import prod

import numpy as np

from fullyconv.files import BadFile
from fullyconv.hsi.formats.contents import Contents, Stored, by, listed

UNFOLDED = "Y"
"""The scene in the files of the unmixing data sets (Samson, Jasper Ridge): bands x pixels, column by column."""


def find_cube(contents: Contents, key: str | None) -> Stored:
    """Return the array called ``key``, or else the one with three dimensions; raises ``BadFile``."""
    if key is not None:
        cube = contents.named(key)
        if len(cube.shape) != 3:
            raise BadFile(contents.path, f"{cube} is no cube", "a cube is H x W x bands: name another array")
    else:
        cubes = [array for array in contents.arrays if len(array.shape) == 3 and array.shape[2] > 1]
        cubes = [array for array in cubes if array.name == UNFOLDED] or cubes
        cubes = cubes or [array for array in contents.arrays if len(array.shape) == 3]  # of a single band
        if len(cubes) != 1:
            found = listed(cubes) if cubes else contents.listed()
            what = f"{len(cubes)} arrays of H x W x bands: {found}"
            raise BadFile(contents.path, what, "name the cube (cube key), or save it with three dimensions")
        cube = cubes[0]
    bands = len(contents.wavelengths)
    if bands not in (0, cube.shape[2]) and cube.shape[:2].count(bands) == 1:
        raise _turned(contents, cube, cube.shape.index(bands), f"{bands} wavelengths")
    return cube


def fold(arrays: Sequence[Stored], lines: int, columns: int) -> list[Stored]:
    """Give the unmixing data sets' ``Y``, bands x pixels, its three dimensions; pixels run down the columns."""
    return [
        Stored(array.name, (lines, columns, array.shape[0]), partial(_folded, array, lines, columns))
        if array.name == UNFOLDED and array.shape[1:] == (lines * columns,)
        else array
        for array in arrays
    ]


def _folded(spectra: Stored, lines: int, columns: int) -> np.ndarray:
    return spectra.read().T.reshape(columns, lines, -1).transpose(1, 0, 2)


def find_labels(contents: Contents, key: str | None, cube: Stored, *, optional: bool) -> Stored | None:
    """Return the array called ``key``, or else the one that fits the cube's height and width.

    A map of whole numbers is taken before abundances, H x W x classes.

    Args:
        contents: The file that holds the labels.
        key: The array's name, if the user gave one.
        cube: The scene that is labelled.
        optional: Whether a file without labels will do. One whose labels lie differently will not.

    Raises:
        BadFile: For several maps, for none unless that is optional, and for a map of the scene's size that is
            transposed or in a row, or that fits a cube with its bands first: how it lies cannot be guessed safely.

    """
    if key is not None:
        return contents.named(key)
    arrays = [array for array in contents.arrays if array is not cube]
    size = cube.shape[:2]
    maps = [array for array in arrays if array.plane == size]
    fractions = [array for array in arrays if len(array.shape) == 3 and array.shape[:2] == size]
    found = maps or fractions
    if len(found) == 1:
        return found[0]
    if found:
        raise BadFile(contents.path, f"several label maps: {listed(found)}", "name one of them (label key)")
    for array in arrays:
        _refuse_near(contents, array, cube)
    if optional:
        return None
    what = f"no label map of the scene's size: the cube is {by(size)}, the file has {contents.listed()}"
    raise BadFile(contents.path, what, "labels and cube must be of one height and width")


def _refuse_near(contents: Contents, array: Stored, cube: Stored) -> None:
    """Raise ``BadFile`` for an array that holds as many labels as the cube has pixels, in another order."""
    height, width, bands = cube.shape
    size = array.plane or array.shape
    if size == (width, height):
        fix = f"save the labels transposed, {height} x {width}"
        raise BadFile(contents.path, f"{array} fits the scene of {height} x {width} only transposed", fix)
    if len(size) == 2 and size[0] > 1 and size[1] > 1 and size in ((width, bands), (height, bands)):
        raise _turned(contents, cube, 1 - (height, width).index(size[0]), f"the label map {array}")
    if prod(array.shape) == height * width and max(array.shape) == height * width:
        what = f"{array} holds the labels of the scene's {height} x {width} pixels in a row"
        fix = f"save them as {height} x {width} (MATLAB, column by column: reshape(x, {height}, {width}))"
        raise BadFile(contents.path, what, fix)


def _turned(contents: Contents, cube: Stored, axis: int, witness: str) -> BadFile:
    """Say that a cube's bands are not its last axis."""
    order = [*(other for other in range(3) if other != axis), axis]
    matlab = f"permute(x, [{' '.join(str(1 + other) for other in order)}])"
    what = f"{cube} is not rows x columns x bands: by {witness}, its axis {axis + 1} is the bands"
    fix = f"save it as {by([cube.shape[other] for other in order])} (MATLAB {matlab}, NumPy transpose{tuple(order)})"
    return BadFile(contents.path, what, fix)
