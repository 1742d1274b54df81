"""Masks in MATLAB files, format 5 (all that the published data sets use): one matrix, and nothing else, is read.

A masks file is read within ``LIMITS.unpacked_bytes``, whatever it claims.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import numpy as np

from fullyconv.data.mat_elements import (
    CELL,
    COMPRESSED,
    MATRIX,
    NUMERIC,
    STORED,
    Array,
    Broken,
    array_of,
    byte_order,
    cells_of,
    element_at,
    fields_of,
    top_level,
    unpack,
)
from fullyconv.files import BadFile
from fullyconv.limits import LIMITS

SAVE_ANEW = "save it in MATLAB with -v7, or copy it again"


def read_mat(path: Path, variable: str) -> np.ndarray:
    """Read a matrix of whole numbers, H x W int32.

    ``variable`` may go into structs, ``GTcls.Segmentation``, and cells, counted from 1, ``groundTruth.1.Labels``.

    Raises ``BadFile`` for a file that is missing, broken, too large or of another format, and where the
    variable is missing or is no such matrix.
    """
    with _explained(path) as data:
        return _read(data, variable.split("."))


@contextmanager
def _explained(path: Path) -> Iterator[memoryview]:
    """Read a file whole, and say what is wrong with it where what is done with it fails."""
    try:
        if path.stat().st_size > LIMITS.unpacked_bytes:
            raise Broken(f"more than {LIMITS.unpacked_bytes} bytes")
        yield memoryview(path.read_bytes())
    except FileNotFoundError:
        raise BadFile(path, "no such file", "check the path") from None
    except OSError as error:
        raise BadFile(path, f"unreadable ({error})", SAVE_ANEW) from None
    except (Broken, struct.error, zlib.error) as error:
        raise BadFile(path, f"not usable as a mask ({error})", SAVE_ANEW) from None


def matrices_of(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of the numeric arrays in a file; raises ``BadFile`` as ``read_mat`` does."""
    with _explained(path) as data:
        order = byte_order(data)
        arrays = [array_of(content, order) for content in _matrices(data, order)]
        return {array.name: array.shape for array in arrays if array.kind in NUMERIC}


def _read(data: memoryview, names: list[str]) -> np.ndarray:
    order = byte_order(data)
    known = []
    for content in _matrices(data, order):
        array = array_of(content, order)
        if array.name == names[0]:
            for name in names[1:]:
                content = _field(content, array, name, order)
                array = array_of(content, order)
            return _numbers(content, array, order)
        known.append(array.name)
    raise Broken(f"no variable {names[0]!r} in it, only {', '.join(known[:5]) or 'nothing'}")


def _matrices(data: memoryview, order: str) -> Iterator[memoryview]:
    """Return the contents of each top-level array, unpacked; together they stay below ``LIMITS.unpacked_bytes``."""
    room = LIMITS.unpacked_bytes
    for element in top_level(data, order):
        if element.kind == COMPRESSED:
            unpacked = unpack(element.content, room)
            room -= len(unpacked)
            element = element_at(unpacked, 0, order)
        if element.kind == MATRIX:
            yield element.content


def _field(content: memoryview, array: Array, name: str, order: str) -> memoryview:
    """Return a field of a struct or the cell of a number, as an array's contents."""
    if array.kind == CELL and name.isdecimal():
        cell = next(islice(cells_of(content, array, order), max(0, int(name) - 1), None), None)
        if cell is None or name == "0":
            raise Broken(f"no cell {name} in it")
        return cell
    for field, found in fields_of(content, array, order):
        if field == name:
            return found
    raise Broken(f"no field {name!r} in it")


def _numbers(content: memoryview, array: Array, order: str) -> np.ndarray:
    if array.kind not in NUMERIC or array.is_complex or len(array.shape) != 2:
        raise Broken("the variable is no matrix of real numbers")
    height, width = array.shape
    stored = element_at(content, array.rest, order)
    if stored.kind not in STORED or height < 1 or width < 1 or height * width > LIMITS.pixels:
        raise Broken(f"a matrix of {height} x {width} numbers of kind {stored.kind}")
    kind = np.dtype(order + STORED[stored.kind])
    if len(stored.content) != height * width * kind.itemsize:
        raise Broken(f"{len(stored.content)} bytes for {height} x {width} numbers")
    values = np.frombuffer(stored.content, kind)
    if not (np.isfinite(values).all() and (abs(values.astype(np.float64)) < 2**31).all()):
        raise Broken("numbers that are no labels")
    whole = values.astype(np.int32)
    if not np.array_equal(whole, values):
        raise Broken("numbers that are not whole")
    return np.ascontiguousarray(whole.reshape(width, height).T)
