"""MATLAB files of format 5 to 7.2, by a reader of our own: see ``fullyconv.data.mat_elements`` for why."""

from __future__ import annotations

import mmap
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from math import prod
from pathlib import Path

import numpy as np

from fullyconv.data.mat_elements import (
    CELL,
    CHAR,
    COMPRESSED,
    MATRIX,
    NUMERIC,
    SPARSE,
    STORED,
    STRUCT,
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
from fullyconv.hsi.formats.contents import Contents, Stored, check_bytes
from fullyconv.hsi.formats.notes import LONGEST, contents_of, is_text
from fullyconv.limits import LIMITS

HEAD_BYTES = 1 << 16  # enough for any array's header, of a compressed one too
WIDEST = 8  # bytes of a number
DEEPEST = 3  # structs and cells in one another that are looked into
MOST_PARTS = 1000  # of a file's structs and cells
ENCODINGS = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
"""How the kinds of elements store characters."""

Bytes = Callable[[], memoryview]
"""Gives the contents of an array: a view of the file, or unpacked when it is called."""


@dataclass
class _Listing:
    """What is found in a file, in the order of the file; ``room`` is left for unpacking structs and cells."""

    path: Path
    order: str
    arrays: list[Stored] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)
    parts: int = 0
    room: int = 0


def read_v5(path: Path) -> Contents:
    """List the arrays of a file of format 5, those in structs and cells as ``struct.field`` and ``cell.1``.

    Raises:
        BadFile: For notes that cannot be true.
        Broken: For a damaged file.

    """
    with path.open("rb") as file:
        data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    listing = _Listing(path, byte_order(data), room=LIMITS.array_bytes)
    for element in top_level(data, listing.order):
        if element.kind == COMPRESSED:
            head = unpack(element.content, HEAD_BYTES, whole=False)
            start = element_at(head, 0, listing.order, whole=False)
            if start.kind == MATRIX:
                array = array_of(start.content, listing.order)
                _note(listing, array.name, array, partial(_unpacked, path, element.content, array, listing.order))
        elif element.kind == MATRIX:
            content = element.content
            _note(listing, None, array_of(content, listing.order), partial(_same, content))
    return contents_of(path, listing.arrays, listing.texts, listing.others)


def _same(content: memoryview) -> memoryview:
    return content


def _unpacked(path: Path, packed: memoryview, array: Array, order: str) -> memoryview:
    """Unpack an array; one of numbers to no more than its numbers can take."""
    room = LIMITS.array_bytes
    if array.kind in NUMERIC or array.kind == CHAR:
        check_bytes(path, array.name, array.shape, 1)
        room = min(room, WIDEST * prod(array.shape) + HEAD_BYTES)  # no more, whatever is packed
    return element_at(unpack(packed, room), 0, order).content


def _note(listing: _Listing, name: str | None, array: Array, content: Bytes, depth: int = 0) -> None:
    """Sort an array by its class into a listing."""
    name = array.name if name is None else name
    if min(array.shape, default=0) < 0:
        raise Broken(f"{name} has negative sizes")
    if 0 in array.shape or name.startswith("__"):  # an empty array has no elements to say anything
        return
    if array.kind in NUMERIC and not array.is_complex:
        read = partial(_numbers, listing.path, name, content, listing.order)
        listing.arrays.append(Stored(name, array.shape, read))
    elif array.kind == SPARSE and not array.is_complex:
        listing.arrays.append(Stored(name, array.shape, partial(_dense, listing.path, name, content, listing.order)))
    elif array.kind == CHAR:
        if is_text(name) and prod(array.shape) <= LONGEST:
            listing.texts[name] = _text(content(), array, listing.order)
    elif array.kind in (CELL, STRUCT) and depth < DEEPEST:
        _note_parts(listing, name, array, content, depth)
    else:
        listing.others.append(f"{name} ({_unusable(array)})")


def _unusable(array: Array) -> str:
    if array.kind in (CELL, STRUCT):
        return "structs or cells in one another"
    return "complex numbers" if array.is_complex else "a table, string array, function or other object: save numbers"


def _note_parts(listing: _Listing, name: str, array: Array, content: Bytes, depth: int) -> None:
    """Sort what a struct or a cell array holds into a listing, and join a cell array of class names."""
    whole = content()
    if depth == 0:  # what lies deeper is a view of this
        listing.room -= len(whole)
    if listing.room < 0:
        raise Broken(f"structs and cells of more than {LIMITS.array_bytes} bytes")
    if array.kind == CELL and is_text(name):
        listing.texts[name] = "\n".join(_cell_texts(listing, whole, array))
        return
    if array.kind == STRUCT and prod(array.shape) > 1:
        listing.others.append(f"{name} (an array of structs)")
        return
    parts = _parts(whole, array, listing.order)
    listing.parts += len(parts)
    if listing.parts > MOST_PARTS:
        raise Broken(f"more than {MOST_PARTS} fields and cells")
    for part, inside in parts:
        if len(inside):  # a field that was never set
            header = array_of(inside, listing.order)
            _note(listing, f"{name}.{part}", header, partial(_same, inside), depth + 1)


def _parts(whole: memoryview, array: Array, order: str) -> list[tuple[str, memoryview]]:
    if array.kind == STRUCT:
        return list(fields_of(whole, array, order))
    return [(str(number), cell) for number, cell in enumerate(cells_of(whole, array, order), start=1)]


def _cell_texts(listing: _Listing, whole: memoryview, array: Array) -> list[str]:
    if prod(array.shape) > LONGEST:
        raise Broken("more class names than are plausible")
    found = [(cell, array_of(cell, listing.order)) for cell in cells_of(whole, array, listing.order) if len(cell)]
    return [_text(cell, header, listing.order).strip() for cell, header in found if header.kind == CHAR]


def _text(content: memoryview, array: Array, order: str) -> str:
    """Read characters, H x W column by column: a line of text per row."""
    stored = element_at(content, array.rest, order)
    encoding = ENCODINGS.get(stored.kind)
    if encoding is None:
        raise Broken(f"characters of kind {stored.kind}")
    if encoding.startswith("utf-16") or encoding.startswith("utf-32"):
        encoding += "-le" if order == "<" else "-be"
    text = bytes(stored.content).decode(encoding, "replace")
    rows = array.shape[0]
    return "\n".join(text[row::rows].rstrip("\0 ") for row in range(rows)) if rows > 1 else text


def _stored(content: memoryview, at: int, order: str) -> tuple[np.ndarray, int]:
    """Read the numbers of an element, a view of its bytes, and where the next element starts."""
    element = element_at(content, at, order)
    if element.kind not in STORED:
        raise Broken(f"numbers of kind {element.kind}")
    kind = np.dtype(order + STORED[element.kind])
    return np.frombuffer(element.content, kind, len(element.content) // kind.itemsize), element.end


def _numbers(path: Path, name: str, content: Bytes, order: str) -> np.ndarray:
    whole = content()
    array = array_of(whole, order)
    values, _ = _stored(whole, array.rest, order)
    if values.size != prod(array.shape):
        raise Broken(f"{name} has {values.size} numbers, not {prod(array.shape)}")
    check_bytes(path, name, array.shape, 1)
    return values.reshape(array.shape, order="F")


def _dense(path: Path, name: str, content: Bytes, order: str) -> np.ndarray:
    """Fill in the zeros of a sparse matrix, stored by columns: rows, where columns start, values."""
    whole = content()
    array = array_of(whole, order)
    height, width = array.shape
    rows, end = _stored(whole, array.rest, order)
    starts, end = _stored(whole, end, order)
    values, _ = _stored(whole, end, order)
    return fill_sparse(path, name, (height, width), (rows, starts, values))


def fill_sparse(
    path: Path, name: str, shape: tuple[int, int], parts: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> np.ndarray:
    """Make a dense matrix of a sparse one.

    Args:
        path: Its file, for errors.
        name: Its name, for errors.
        shape: Height and width.
        parts: The row of each value, the first value of each column and one past the last, and the values.

    Raises:
        BadFile: If the dense matrix exceeds the budget.
        Broken: If the parts do not fit each other.

    """
    rows, starts, values = parts
    check_bytes(path, name, shape, values.dtype.itemsize)
    starts = starts.astype(np.int64)
    steps = starts[1:] - starts[:-1]
    count = int(starts[-1]) if starts.size else 0
    if starts.size != shape[1] + 1 or (steps < 0).any() or starts[0] != 0 or count > min(rows.size, values.size):
        raise Broken(f"{name} is a sparse matrix whose columns do not fit its values")
    rows = rows[:count].astype(np.int64)
    if count and (rows.min() < 0 or rows.max() >= shape[0]):
        raise Broken(f"{name} is a sparse matrix with values outside it")
    dense = np.zeros(shape, values.dtype.newbyteorder("="))
    dense[rows, np.repeat(np.arange(shape[1]), steps)] = values[:count]
    return dense


DAMAGED = (Broken, struct.error, zlib.error)
"""What reading a damaged file of format 5 raises."""
