"""The elements that a MATLAB file of format 5 is made of (MathWorks, *MAT-File Format*), read without recursion.

A reader of our own: SciPy's follows nested cells until the stack ends (a file of 400 kB ends the process) and
allocates what a tag claims. Here a piece is looked at only where it is asked for, and never beyond its end.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

HEADER = 128  # bytes of text, then version and byte order
MATRIX, COMPRESSED = 14, 15  # kinds of elements
CELL, STRUCT, OBJECT, CHAR, SPARSE = range(1, 6)  # classes of arrays
NUMERIC = range(6, 16)  # double, single, then integers of 8 to 64 bit, signed before unsigned
COMPLEX = 0x0800
STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
"""NumPy's types of the kinds of elements that hold numbers; an array of doubles may be stored in fewer bytes."""


class Broken(ValueError):
    """What is wrong inside a file."""


@dataclass(frozen=True)
class Element:
    """A tagged piece of the file: its kind, its bytes, and where the next one starts."""

    kind: int
    content: memoryview
    end: int


@dataclass(frozen=True)
class Array:
    """An array's header; ``rest`` is where its contents start."""

    kind: int
    is_complex: bool
    shape: tuple[int, ...]
    name: str
    rest: int


def byte_order(data: memoryview) -> str:
    """Return the byte order of a file, ``<`` or ``>``; raises ``Broken`` for other formats."""
    mark = bytes(data[HEADER - 4 : HEADER])
    order = {b"IM": "<", b"MI": ">"}.get(mark[2:])
    if order is None:
        raise Broken("no MATLAB file of format 5")
    (version,) = struct.unpack(f"{order}H", mark[:2])
    if version != 0x0100:
        raise Broken("a MATLAB 7.3 file" if version == 0x0200 else f"format version {version:#x}")
    return order


def top_level(data: memoryview, order: str) -> Iterator[Element]:
    """Return a file's elements one after the other, compressed ones as they are."""
    at = HEADER
    while at < len(data):
        element = element_at(data, at, order)
        at = element.end
        yield element


def element_at(data: memoryview, at: int, order: str, *, whole: bool = True) -> Element:
    """Read the element at a byte; raises ``Broken`` if it ends beyond the data, unless it need not be ``whole``."""
    kind, size = struct.unpack_from(f"{order}II", data, at)
    start, end = at + 8, at + 8 + size
    if kind >> 16:  # small: size and kind share a word, up to four bytes follow
        kind, size = kind & 0xFFFF, kind >> 16
        start, end = at + 4, at + 8
    elif kind != COMPRESSED:
        end += -size % 8
    if whole and start + size > min(len(data), end):
        raise Broken("truncated")
    return Element(kind, data[start : start + size], end)


def unpack(packed: memoryview, room: int, *, whole: bool = True) -> memoryview:
    """Unpack a compressed element, to ``room`` bytes at most; raises ``Broken`` if it is larger or cut off.

    Without ``whole``, the first bytes will do.
    """
    unpacker = zlib.decompressobj()
    unpacked = unpacker.decompress(packed, max(1, room))
    if whole and unpacker.unconsumed_tail:
        raise Broken(f"unpacks to more than {room} bytes")
    if whole and not unpacker.eof:
        raise Broken("truncated")
    return memoryview(unpacked)


def array_of(content: memoryview, order: str) -> Array:
    """Read the header of an array from the contents of its element."""
    flags = element_at(content, 0, order)
    shape = element_at(content, flags.end, order)
    name = element_at(content, shape.end, order)
    (bits,) = struct.unpack_from(f"{order}I", flags.content)
    sizes = struct.unpack_from(f"{order}{len(shape.content) // 4}i", shape.content)
    text = bytes(name.content).decode("ascii", "replace")
    return Array(bits & 0xFF, bool(bits & COMPLEX), sizes, text, name.end)


def fields_of(content: memoryview, array: Array, order: str) -> Iterator[tuple[str, memoryview]]:
    """Return the fields of a single struct: names and arrays' contents; raises ``Broken`` for another array."""
    if array.kind != STRUCT or any(size != 1 for size in array.shape):
        raise Broken(f"{array.name or 'a field'!r} is no single struct")
    width = element_at(content, array.rest, order)
    names = element_at(content, width.end, order)
    (length,) = struct.unpack_from(f"{order}i", width.content)
    if length < 1:
        raise Broken("field names of no length")
    at = names.end
    for start in range(0, len(names.content), length):
        field = element_at(content, at, order)
        yield bytes(names.content[start : start + length]).split(b"\0")[0].decode("ascii", "replace"), field.content
        at = field.end


def cells_of(content: memoryview, array: Array, order: str) -> Iterator[memoryview]:
    """Return the contents of a cell array's cells, column by column."""
    at = array.rest
    while at < len(content):
        element = element_at(content, at, order)
        at = element.end
        yield element.content
