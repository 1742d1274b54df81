"""MATLAB files of format 4: matrices one after the other (SciPy's reader runs for ever on damaged ones)."""

from __future__ import annotations

import mmap
import struct
from functools import partial
from pathlib import Path

import numpy as np

from fullyconv.hsi.formats.contents import Contents, Stored
from fullyconv.hsi.formats.notes import contents_of

HEADER = 20  # bytes: type, rows, columns, whether there is an imaginary part, length of the name
TYPES = ("f8", "f4", "i4", "i2", "u2", "u1")
FULL = 0  # the last digit of the type; texts are 1, sparse matrices 2
LARGEST_TYPE = 5000  # a greater one is of the other byte order


def read_v4(path: Path) -> Contents:
    """List the matrices of a file, mapped; raises ``ValueError`` for a damaged one."""
    with path.open("rb") as file:
        data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    arrays, others, at = [], [], 0
    while at < len(data):
        order = "<" if struct.unpack_from("<I", data, at)[0] < LARGEST_TYPE else ">"
        kind, rows, columns, imaginary, length = struct.unpack_from(f"{order}5i", data, at)
        if min(rows, columns, length) < 0 or kind % 1000 // 10 >= len(TYPES) or imaginary not in (0, 1):
            raise ValueError(f"no matrix at byte {at}")
        start = at + HEADER + length
        name = bytes(data[at + HEADER : start]).rstrip(b"\0").decode("ascii", "replace")
        numbers = np.dtype(order + TYPES[kind % 1000 // 10])
        size = rows * columns * numbers.itemsize
        at = start + size * (1 + imaginary)
        if at > len(data):
            raise ValueError(f"{name} is truncated")
        if kind % 10 != FULL or imaginary:
            others.append(f"{name} ({'complex numbers' if imaginary else 'text or a sparse matrix of format 4'})")
        elif size:
            read = partial(_matrix, data[start : start + size], numbers, (rows, columns))
            arrays.append(Stored(name, (rows, columns), read))
    return contents_of(path, arrays, {}, others)


def _matrix(stored: memoryview, kind: np.dtype, shape: tuple[int, int]) -> np.ndarray:
    return np.frombuffer(stored, kind).reshape(shape, order="F")
