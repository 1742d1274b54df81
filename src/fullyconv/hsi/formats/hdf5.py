"""MATLAB files of format 7.3, which are HDF5 (h5py). What lies outside the file is not read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from fullyconv.data.hdf5 import read_whole
from fullyconv.hsi.formats.contents import NUMBERS, Contents, Stored, check_bytes, needs
from fullyconv.hsi.formats.matlab5 import DEEPEST, MOST_PARTS, fill_sparse
from fullyconv.hsi.formats.notes import LONGEST, contents_of, is_text

INTERNAL = ("#refs#", "#subsystem#")  # where MATLAB puts what cells and objects hold


@dataclass
class _Listing:
    path: Path
    arrays: list[Stored] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)


def read_v73(path: Path) -> Contents:
    """List the arrays of a file of format 7.3, those in structs and cells as ``struct.field`` and ``cell.1``.

    External storage, virtual data sets and links are not followed: by them a file can show another one of the
    machine as its cube.
    """
    listing = _Listing(path)
    with _opened(path) as file:
        for name, item in _items(listing, file, ""):
            _note(listing, file, name, item)
    return contents_of(path, listing.arrays, listing.texts, listing.others)


def _opened(path: Path) -> Any:
    return _h5py().File(path, "r")


def _h5py() -> Any:
    return needs("h5py", to="read MATLAB files of version 7.3")


def _items(listing: _Listing, group: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """Return what a group itself holds, without what it links to."""
    h5py = _h5py()
    for count, name in enumerate(group):
        if count >= MOST_PARTS:
            raise ValueError(f"more than {MOST_PARTS} arrays")
        if name in INTERNAL:
            continue
        if isinstance(group.get(name, getlink=True), h5py.HardLink):
            yield prefix + name, group[name]
        else:
            listing.others.append(f"{prefix}{name} (a link)")


def _note(listing: _Listing, file: Any, name: str, item: Any, depth: int = 0) -> None:
    """Sort a data set or a group into a listing."""
    h5py = _h5py()
    if item.attrs.get("MATLAB_empty"):
        return  # what is stored is the array's size, not its elements
    if isinstance(item, h5py.Group):
        _note_group(listing, file, name, item, depth)
    elif not isinstance(item, h5py.Dataset) or item.shape is None or 0 in item.shape:
        return
    elif why := _unusable(item):
        listing.others.append(f"{name} ({why})")
    elif item.dtype.kind == "O":
        _note_cells(listing, file, name, item, depth)
    elif item.attrs.get("MATLAB_class") == b"char":
        if is_text(name) and item.size <= LONGEST:
            listing.texts[name] = _text(listing.path, name, item)
    else:
        listing.arrays.append(Stored(name, item.shape[::-1], partial(_read_dataset, listing.path, name, item.name)))


def _unusable(item: Any) -> str:
    """Say why a data set cannot be used; nothing for one that can."""
    if item.external or item.is_virtual:
        return "kept in another file"
    if "MATLAB_object_decode" in item.attrs:
        return "a table, string array or other object: save numbers"
    if item.dtype.names == ("real", "imag"):
        return "complex numbers"
    if item.dtype.kind == "O" and _h5py().check_ref_dtype(item.dtype) is None:
        return "values of any length"  # many may be one and the same, however long it is
    return "" if item.dtype.kind in (*NUMBERS, "O") else f"values of type {item.dtype}"


def _note_group(listing: _Listing, file: Any, name: str, group: Any, depth: int) -> None:
    if "MATLAB_sparse" in group.attrs:
        # Without values a matrix has no members but "jc".
        width = group["jc"].shape[0] - 1
        shape = int(group.attrs["MATLAB_sparse"]), int(width)
        listing.arrays.append(Stored(name, shape, partial(_read_sparse, listing.path, name, group.name, shape)))
    elif depth < DEEPEST:
        for part, item in _items(listing, group, f"{name}."):
            _note(listing, file, part, item, depth + 1)
    else:
        listing.others.append(f"{name} (structs or cells in one another)")


def _note_cells(listing: _Listing, file: Any, name: str, item: Any, depth: int) -> None:
    """Sort the cells of a cell array, which refer to data sets elsewhere in the file, into a listing."""
    if depth >= DEEPEST or item.size > MOST_PARTS:
        listing.others.append(f"{name} (cells in one another, or more than {MOST_PARTS})")
        return
    cells = [file[reference] for reference in np.ravel(read_whole(listing.path, name, item)) if reference]
    if is_text(name):
        texts = [cell for cell in cells if cell.attrs.get("MATLAB_class") == b"char" and cell.size <= LONGEST]
        listing.texts[name] = "\n".join(_text(listing.path, name, text) for text in texts)
        return
    for number, cell in enumerate(cells, start=1):
        _note(listing, file, f"{name}.{number}", cell, depth + 1)


def _text(path: Path, name: str, stored: Any) -> str:
    """Read characters, W x H codes of UTF-16: a line of text per row."""
    codes = np.atleast_2d(read_whole(path, name, stored)).T.astype("<u2")
    return "\n".join(row.tobytes().decode("utf-16-le", "replace").rstrip("\0 ") for row in codes)


def _read_dataset(path: Path, name: str, place: str) -> np.ndarray:
    """Read a data set, mapped where it lies in one piece; MATLAB's axes are the reverse of HDF5's."""
    with _opened(path) as file:
        stored = file[place]
        start, shape, kind = stored.id.get_offset(), stored.shape, stored.dtype
        if start is None or start + prod(shape) * kind.itemsize > path.stat().st_size:
            check_bytes(path, name, shape, kind.itemsize)
            return read_whole(path, name, stored).T
    return np.memmap(path, kind, "r", start, shape).T


def _read_sparse(path: Path, name: str, place: str, shape: tuple[int, int]) -> np.ndarray:
    with _opened(path) as file:
        group = file[place]
        parts = []
        for key in ("ir", "jc", "data"):
            stored = group.get(key)
            if stored is None:
                parts.append(np.zeros(0))
                continue
            if stored.external or stored.is_virtual:
                raise ValueError(f"{name} is kept in another file")
            check_bytes(path, name, stored.shape, stored.dtype.itemsize)
            parts.append(read_whole(path, name, stored))
    return fill_sparse(path, name, shape, (parts[0], parts[1], parts[2]))
