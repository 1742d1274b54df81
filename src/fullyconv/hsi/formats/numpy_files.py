"""NumPy's files: ``.npy`` (mapped) and ``.npz``. Nothing is ever unpickled."""

from __future__ import annotations

import zipfile
from functools import partial
from math import prod
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from fullyconv.files import BadFile, whole_file
from fullyconv.hsi.formats.contents import NUMBERS, Contents, Stored, check_bytes
from fullyconv.hsi.formats.notes import LONGEST, contents_of, is_text, write_notes
from fullyconv.hsi.scene import Scene

UNUSABLE = {"O": "Python objects, which could run code", "c": "complex numbers", "V": "records of several fields"}


def read_npy(path: Path) -> Contents:
    """Map the one array of a file, in C or Fortran order and of either byte order; raises ``BadFile``."""
    with path.open("rb") as file:
        shape, kind = _header(file)
    if kind.kind not in NUMBERS:
        what = f"it holds {UNUSABLE.get(kind.kind, f'data of type {kind}')}, not an array of numbers"
        raise BadFile(path, what, "save the cube itself with numpy.save")
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    return contents_of(path, [Stored(path.stem, shape, lambda: array)], {})


def read_npz(path: Path) -> Contents:
    """List the arrays of an archive."""
    arrays, texts, others = [], {}, []
    with zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            name = member.removesuffix(".npy")
            with archive.open(member) as file:
                shape, kind = _header(file)
            if kind.kind in NUMBERS:
                if 0 not in shape:
                    arrays.append(Stored(name, shape, partial(_member, path, name, shape, kind)))
            elif kind.kind == "U" and is_text(name) and prod(shape) * kind.itemsize <= LONGEST:
                texts[name] = "\n".join(np.load(path, allow_pickle=False)[name].ravel().tolist())
            else:
                others.append(f"{name} ({UNUSABLE.get(kind.kind, str(kind))})")
    return contents_of(path, arrays, texts, others)


def check_npz(path: Path, most: int) -> None:
    """Refuse an archive with an array of over ``most`` bytes, or of Python objects, before it is read.

    Raises ``BadFile``, or what ``zipfile`` and NumPy raise for what is no archive of theirs.
    """
    with zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            with archive.open(member) as file:
                shape, kind = _header(file)
            if kind.hasobject or prod(shape) * kind.itemsize > most:
                raise BadFile(path, f"{member} is {shape} {kind}", f"save arrays of at most {most} bytes")


def write_npy(path: Path, array: np.ndarray) -> None:
    """Write an array, whole or not at all; in C order, so that a row of pixels lies in one piece."""
    with whole_file(path) as draft, draft.open("wb") as file:
        np.save(file, np.ascontiguousarray(array), allow_pickle=False)


def write_npz(path: Path, arrays: dict[str, np.ndarray], scene: Scene) -> None:
    """Write arrays and notes to an archive."""
    notes = {name: np.asarray(value) for name, value in write_notes(scene).items()}
    with path.open("wb") as file:
        np.savez(file, **arrays, **notes)  # type: ignore[arg-type]  # allow_pickle is not among them


def _header(file: object) -> tuple[tuple[int, ...], np.dtype]:
    version = npy.read_magic(file)  # type: ignore[arg-type]
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, _, kind = read(file)  # type: ignore[arg-type]
    return shape, kind


def _member(path: Path, name: str, shape: tuple[int, ...], kind: np.dtype) -> np.ndarray:
    check_bytes(path, name, shape, kind.itemsize)
    with np.load(path, allow_pickle=False) as archive:
        array: np.ndarray = archive[name]
    return array
