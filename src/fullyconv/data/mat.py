"""Masks in MATLAB files, format 5 (all that the published data sets use): one matrix, and nothing else, is read.

A reader of our own: a masks file is read without recursion and within ``LIMITS.unpacked_bytes``, whatever it claims.
(SciPy's follows nested cells until the stack ends: a file of 400 kB ends the process.)
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fullyconv.files import BadFile
from fullyconv.limits import LIMITS

HEADER = 128  # bytes of text, then version and byte order
MATRIX, COMPRESSED = 14, 15
CELL, STRUCT = 1, 2
NUMERIC = range(6, 16)  # double, single, then integers of 8 to 64 bit, signed before unsigned
COMPLEX = 0x0800
STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}

SAVE_ANEW = "restore the file, or save it in MATLAB with -v7"


class _Broken(ValueError):
    """What is wrong inside a file."""


@dataclass(frozen=True)
class _Element:
    """A tagged piece of the file: its kind, its bytes, and where the next one starts."""

    kind: int
    content: memoryview
    end: int


@dataclass(frozen=True)
class _Array:
    """An array's header; ``rest`` is where its contents start."""

    kind: int
    is_complex: bool
    shape: tuple[int, ...]
    name: str
    rest: int


def read_mat(path: Path, variable: str) -> np.ndarray:
    """Read a matrix of whole numbers, H x W int32.

    ``variable`` may go into structs, ``GTcls.Segmentation``, and cells, counted from 1, ``groundTruth.1.Labels``.

    Raises ``BadFile`` for a file that is missing, broken, too large or of another format, and where the
    variable is missing or is no such matrix.
    """
    try:
        if path.stat().st_size > LIMITS.unpacked_bytes:
            raise _Broken(f"more than {LIMITS.unpacked_bytes} bytes")
        return _read(memoryview(path.read_bytes()), variable.split("."))
    except FileNotFoundError:
        raise BadFile(path, "no such file", "check the path") from None
    except OSError as error:
        raise BadFile(path, f"unreadable ({error})", SAVE_ANEW) from None
    except (_Broken, struct.error, zlib.error) as error:
        raise BadFile(path, f"not usable as a mask ({error})", SAVE_ANEW) from None


def _read(data: memoryview, names: list[str]) -> np.ndarray:
    order = _byte_order(data)
    known = []
    for content in _matrices(data, order):
        array = _array(content, order)
        if array.name == names[0]:
            for name in names[1:]:
                content = _field(content, array, name, order)
                array = _array(content, order)
            return _numbers(content, array, order)
        known.append(array.name)
    raise _Broken(f"no variable {names[0]!r} in it, only {', '.join(known[:5]) or 'nothing'}")


def _byte_order(data: memoryview) -> str:
    mark = bytes(data[HEADER - 4 : HEADER])
    order = {b"IM": "<", b"MI": ">"}.get(mark[2:])
    if order is None:
        raise _Broken("no MATLAB file of format 5")
    (version,) = struct.unpack(f"{order}H", mark[:2])
    if version != 0x0100:
        raise _Broken("a MATLAB 7.3 file" if version == 0x0200 else f"format version {version:#x}")
    return order


def _matrices(data: memoryview, order: str) -> Iterator[memoryview]:
    """Return the contents of each top-level array, unpacked; together they stay below ``LIMITS.unpacked_bytes``."""
    at, room = HEADER, LIMITS.unpacked_bytes
    while at < len(data):
        element = _element(data, at, order)
        at = element.end
        if element.kind == COMPRESSED:
            unpacked = _unpack(element.content, room)
            room -= len(unpacked)
            element = _element(unpacked, 0, order)
        if element.kind == MATRIX:
            yield element.content


def _unpack(packed: memoryview, room: int) -> memoryview:
    unpacker = zlib.decompressobj()
    unpacked = unpacker.decompress(packed, max(1, room))
    if unpacker.unconsumed_tail:
        raise _Broken(f"unpacks to more than {LIMITS.unpacked_bytes} bytes")
    if not unpacker.eof:
        raise _Broken("truncated")
    return memoryview(unpacked)


def _element(data: memoryview, at: int, order: str) -> _Element:
    kind, size = struct.unpack_from(f"{order}II", data, at)
    start, end = at + 8, at + 8 + size
    if kind >> 16:  # small: size and kind share a word, up to four bytes follow
        kind, size = kind & 0xFFFF, kind >> 16
        start, end = at + 4, at + 8
    elif kind != COMPRESSED:
        end += -size % 8
    if start + size > min(len(data), end):
        raise _Broken("truncated")
    return _Element(kind, data[start : start + size], end)


def _array(content: memoryview, order: str) -> _Array:
    flags = _element(content, 0, order)
    shape = _element(content, flags.end, order)
    name = _element(content, shape.end, order)
    (bits,) = struct.unpack_from(f"{order}I", flags.content)
    sizes = struct.unpack(f"{order}{len(shape.content) // 4}i", shape.content)
    text = bytes(name.content).decode("ascii", "replace")
    return _Array(bits & 0xFF, bool(bits & COMPLEX), sizes, text, name.end)


def _field(content: memoryview, array: _Array, name: str, order: str) -> memoryview:
    """Return a field of a struct or the cell of a number, as an array's contents."""
    if array.kind == CELL and name.isdecimal():
        return _cell(content, array, int(name), order)
    if array.kind != STRUCT or any(size != 1 for size in array.shape):
        raise _Broken(f"{array.name or 'a field'!r} is no single struct, so it has no {name!r}")
    width = _element(content, array.rest, order)
    names = _element(content, width.end, order)
    (length,) = struct.unpack_from(f"{order}i", width.content)
    if length < 1:
        raise _Broken("field names of no length")
    at = names.end
    for start in range(0, len(names.content), length):
        field = _element(content, at, order)
        if bytes(names.content[start : start + length]).split(b"\0")[0] == name.encode():
            return field.content
        at = field.end
    raise _Broken(f"no field {name!r} in it")


def _cell(content: memoryview, array: _Array, number: int, order: str) -> memoryview:
    at = array.rest
    for _ in range(number - 1):
        if at >= len(content):
            break
        at = _element(content, at, order).end
    if number < 1 or at >= len(content):
        raise _Broken(f"no cell {number} in it")
    return _element(content, at, order).content


def _numbers(content: memoryview, array: _Array, order: str) -> np.ndarray:
    if array.kind not in NUMERIC or array.is_complex or len(array.shape) != 2:
        raise _Broken("the variable is no matrix of real numbers")
    height, width = array.shape
    stored = _element(content, array.rest, order)
    if stored.kind not in STORED or height < 1 or width < 1 or height * width > LIMITS.pixels:
        raise _Broken(f"a matrix of {height} x {width} numbers of kind {stored.kind}")
    kind = np.dtype(order + STORED[stored.kind])
    if len(stored.content) != height * width * kind.itemsize:
        raise _Broken(f"{len(stored.content)} bytes for {height} x {width} numbers")
    values = np.frombuffer(stored.content, kind)
    if not (np.isfinite(values).all() and (abs(values.astype(np.float64)) < 2**31).all()):
        raise _Broken("numbers that are no labels")
    whole = values.astype(np.int32)
    if not np.array_equal(whole, values):
        raise _Broken("numbers that are not whole")
    return np.ascontiguousarray(whole.reshape(width, height).T)
