"""Strips and tiles of TIFF files that are pictures of other formats: what they claim, before a decoder believes it."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import NamedTuple

JPEGS = (7, 33007, 34892)
JPEG2000 = (33004, 33005, 34712)  # not 33003, whose YCbCr nobody converts
WEBP = (34927, 50001)
PNG, LERC = 34933, 34887
HEAD = 1 << 16  # bytes of a segment in which its size has to be found

Size = tuple[int, int, int]
"""Rows, columns and samples; 0 each where none are found."""
NONE: Size = (0, 0, 0)


def jpeg_size(head: bytes) -> Size:
    """Return what the header of a JPEG stream claims.

    >>> jpeg_size(bytes.fromhex("ffd8 ffdb0004abcd ffc0000b 08 0010 0020 01 00 11 00"))
    (16, 32, 1)
    """
    at = 2
    while at + 10 <= len(head) and head[at] == 0xFF:
        marker, length = head[at + 1], int.from_bytes(head[at + 2 : at + 4], "big")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # of a frame, not of tables
            rows, columns, samples = struct.unpack_from(">HHB", head, at + 5)
            return rows, columns, samples
        at += 1 if marker == 0xFF else 2 + length
    return NONE


def jpeg2000_size(head: bytes) -> Size:
    """Return what a JPEG 2000 stream claims, in its boxes or bare.

    >>> head = bytes.fromhex("ff4f ff51 0029 0000 00000020 00000010 00000000 00000000")
    >>> jpeg2000_size(head + bytes(16) + bytes([0, 1]))
    (16, 32, 1)
    """
    at = 0
    while not head.startswith(b"\xff\x4f\xff\x51", at):
        length, kind = struct.unpack_from(">I4s", head, at) if at + 8 <= len(head) else (0, b"")
        at += 8 if kind == b"jp2c" else length
        if length < 8 and kind != b"jp2c":  # the last box may have no length, and boxes of 64 bits are no tile's
            return NONE
    if at + 42 > len(head):
        return NONE
    right, bottom, left, top = struct.unpack_from(">4I", head, at + 8)
    return bottom - top, right - left, int.from_bytes(head[at + 40 : at + 42], "big")


def png_size(head: bytes) -> Size:
    """Return what the header of a PNG claims: four samples at most."""
    columns, rows = struct.unpack_from(">II", head, 16) if head[12:16] == b"IHDR" and len(head) >= 24 else (0, 0)
    return rows, columns, 1


def webp_size(head: bytes) -> Size:
    """Return what the header of a WebP picture claims.

    >>> webp_size(b"RIFF....WEBPVP8L" + bytes.fromhex("05000000 2f 1fc00300"))
    (16, 32, 1)
    """
    kind = head[12:16]
    if kind == b"VP8 " and head[23:26] == b"\x9d\x01\x2a" and len(head) >= 30:
        columns, rows = struct.unpack_from("<HH", head, 26)
        return rows & 0x3FFF, columns & 0x3FFF, 1
    if kind == b"VP8L" and len(head) >= 25:
        bits = int.from_bytes(head[21:25], "little")
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1, 1
    if kind == b"VP8X" and len(head) >= 30:
        return int.from_bytes(head[27:30], "little") + 1, int.from_bytes(head[24:27], "little") + 1, 1
    return NONE


def lerc_size(head: bytes, count: int) -> Size:
    """Return what the header of a LERC blob claims (several in one segment, of which it says nothing, are refused)."""
    found = _lerc(head)
    return NONE if found is None or found.bytes != count else (found.rows, found.columns, found.samples)


READERS: dict[int, Callable[[bytes], Size]] = {
    **dict.fromkeys(JPEGS, jpeg_size), **dict.fromkeys(JPEG2000, jpeg2000_size), **dict.fromkeys(WEBP, webp_size),
    PNG: png_size,
}  # fmt: skip
PICTURES = {*READERS, LERC}
"""The tags for compression that make segments pictures of their own."""


def claimed_size(compression: int, head: bytes, count: int) -> Size:
    """Return what a segment claims.

    Args:
        compression: One of ``PICTURES``.
        head: Its first bytes, ``HEAD`` where it has as many.
        count: Its bytes in all.
    """
    return lerc_size(head, count) if compression == LERC else READERS[compression](head)


def lossy(compression: int, head: bytes) -> str:
    """Name the compression of a segment if it changes numbers, or may: JPEG 2000 keeps them by request alone.

    >>> lossy(50001, b"RIFF....WEBPVP8 "), lossy(50001, b"RIFF....WEBPVP8L"), lossy(5, b"")
    ('WebP', '', '')
    """
    if compression in JPEGS:
        return "JPEG"
    if compression in JPEG2000:
        return "JPEG 2000"
    if compression in WEBP:
        return "" if head[12:16] == b"VP8L" else "WebP"
    found = _lerc(head) if compression == LERC else None
    return "LERC" if found is not None and found.error > (0.5 if found.kind < 6 else 0) else ""


class _Lerc(NamedTuple):
    """The header of a LERC blob: ``kind`` of numbers, 6 and 7 are floats; ``error`` is how far they may be off."""

    rows: int
    columns: int
    samples: int
    bytes: int
    kind: int
    error: float


def _lerc(head: bytes) -> _Lerc | None:
    if not head.startswith(b"Lerc2 ") or len(head) < 66:
        return None
    version = int.from_bytes(head[6:10], "little")
    at = 10 if version < 3 else 14  # behind a sum
    rows, columns = struct.unpack_from("<2i", head, at)
    at += 8
    samples = int.from_bytes(head[at : at + 4], "little") if version >= 4 else 1
    at += 4 if version >= 4 else 0
    _, _, size, kind = struct.unpack_from("<4i", head, at)
    at += 16 if version < 6 else 24
    return _Lerc(rows, columns, samples, size, kind, *struct.unpack_from("<d", head, at))
