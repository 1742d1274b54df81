"""Masks in NumPy's and MATLAB's files: the one array of class numbers (or colours) in them."""

from __future__ import annotations

import zipfile
import zlib
from math import prod
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from fullyconv.data.mat import matrices_of, read_mat
from fullyconv.files import BadFile
from fullyconv.limits import LIMITS

SUFFIXES = (".npy", ".npz", ".mat")
USUAL = ("mask", "masks", "label", "labels", "gt", "inst_map", "seg", "segmentation", "arr_0")
"""What the array of labels is called, where a file has several."""
PNG = "save it as one array of H x W class numbers"


def read_array(path: Path) -> np.ndarray:
    """Read the labels of a file.

    Args:
        path: A ``.npy`` or ``.npz`` file, of which nothing is unpickled, or a ``.mat`` file of format 5 (up to -v7).

    Returns:
        H x W numbers, or H x W x 3 colours (uint8).

    Raises:
        BadFile: For a file that is broken or too large, and where no single array can be labels.
    """
    if path.suffix.lower() == ".mat":
        return read_mat(path, _chosen(path, matrices_of(path)))
    try:
        with path.open("rb") as file:
            if path.suffix.lower() == ".npy":
                return _shaped(path, _member(path, file))
        return _shaped(path, _from_archive(path))
    except FileNotFoundError:
        raise BadFile(path, "no such file", "check the path") from None
    except (OSError, EOFError, ValueError, SyntaxError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        if isinstance(error, BadFile):
            raise
        raise BadFile(path, f"unreadable ({' '.join(str(error).split())[:200]})", PNG) from None


def _from_archive(path: Path) -> np.ndarray:
    with zipfile.ZipFile(path) as archive:
        shapes = {}
        for name in archive.namelist():
            with archive.open(name) as file:
                shapes[name.removesuffix(".npy")] = _header(file)[0]
        chosen = _chosen(path, shapes)
        member = chosen if chosen in archive.namelist() else f"{chosen}.npy"
        with archive.open(member) as file:
            return _member(path, file)


def _chosen(path: Path, shapes: dict[str, tuple[int, ...]]) -> str:
    """Choose the array that holds labels: the only one of a picture's shape, or the one that is called so."""
    flat = [name for name, shape in shapes.items() if len(shape) in (2, 3) and min(shape[:2]) > 1] or [
        name for name, shape in shapes.items() if len(shape) == 2 and min(shape) > 0
    ]
    if len(flat) > 1:
        flat = [name for name in flat if name.lower() in USUAL] or flat
    if len(flat) == 1:
        return flat[0]
    listed = ", ".join(f"{name} ({' x '.join(map(str, shape))})" for name, shape in list(shapes.items())[:5])
    raise BadFile(path, f"no array in it that is a mask for certain: {listed or 'nothing'}", PNG)


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[np.generic]]:
    """Read an array's shape, whether its columns come first, and its type."""
    version = npy.read_magic(file)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, columns_first, kind = read(file)
    return shape, columns_first, kind


def _member(path: Path, file: IO[bytes]) -> np.ndarray:
    """Read an array, after its header has been looked at."""
    shape, columns_first, kind = _header(file)
    if kind.kind not in "buif":
        raise BadFile(path, f"holds data of type {kind}, not numbers", PNG)
    size = prod(shape) * kind.itemsize
    if size > LIMITS.array_bytes or prod(shape) > LIMITS.pixels * 4:
        raise BadFile(path, f"an array of {' x '.join(map(str, shape))} numbers", LIMITS.remedy("array_bytes"))
    data = file.read(size)
    if len(data) < size:
        raise ValueError(f"truncated: {len(data)} of {size} bytes")
    return np.frombuffer(data, kind).reshape(shape, order="F" if columns_first else "C")


def _shaped(path: Path, values: np.ndarray) -> np.ndarray:
    """Bring an array to a mask's shape; an axis of one is none."""
    shape = values.shape
    if values.ndim == 3:
        axes = [axis for axis in (2, 0) if shape[axis] == 1]
        values = values.squeeze(axes[0]) if axes else values
    if values.ndim == 3 and shape[2] == 3 and values.dtype == np.uint8:
        return values
    if values.ndim != 2 or 0 in values.shape:
        what = f"an array of {' x '.join(map(str, shape)) or 'one number'}"
        fix = PNG + (" (of a mask for each class, the argmax)" if values.ndim == 3 else "")
        raise BadFile(path, what, fix)
    if values.dtype.kind == "b":
        return values.view(np.uint8)
    return values.astype(values.dtype.newbyteorder("="), copy=False)
