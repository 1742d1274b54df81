"""Data sets of HDF5 files read in the memory that their numbers take, whatever the chunks they lie in unpack to.

HDF5's own library doubles its buffer for as long as a chunk of a few kilobytes goes on unpacking, and counts then.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from fullyconv.files import BadFile
from fullyconv.limits import LIMITS

DEFLATE, SHUFFLE, CHECKSUM, SZIP, LZF = 1, 2, 3, 4, 32_000  # HDF5's numbers of filters; the last is h5py's own
PACKERS = (DEFLATE, SZIP, LZF)
OVERHEAD = 1 << 12  # bytes that a chunk may have beyond its numbers: checksums, and what its writer added
ROOMY = 64 << 20  # bytes of a chunk that may be larger than its array: arrays that can grow have such
MOST_CHUNKS = 1_000_000  # of an array, each of which HDF5 keeps a record of while it reads
PIECE = 1 << 16  # bytes that are unpacked at once
FIX = "write it anew with gzip, or unpacked, in chunks of about a megabyte"


def read_whole(path: Path, name: str, stored: Any) -> np.ndarray:
    """Read a data set.

    Args:
        path: Its file, for errors.
        name: What it is called in errors.
        stored: The ``h5py.Dataset``, in the file itself; whether its numbers are too many, the caller checks.

    Returns:
        Its numbers, as they are stored.

    Raises:
        BadFile: If its chunks are larger than its numbers, are too many, unpack to more than they hold, or are packed
            in another way than by deflate, LZF or szip.
    """
    if stored.chunks:
        _check_sizes(path, name, stored)
        _check_chunks(path, name, stored, _all_chunks(stored))
    return np.asarray(stored[()])


def read_rows(path: Path, name: str, stored: Any, rows: Sequence[int]) -> list[np.ndarray]:
    """Read rows of a data set, along its first axis; see ``read_whole``."""
    if stored.chunks:
        _check_sizes(path, name, stored)
        deep, *others = stored.chunks
        starts = [range(0, length, chunk) for length, chunk in zip(stored.shape[1:], others, strict=True)]
        places = product(sorted({row // deep * deep for row in rows}), *starts)
        _check_chunks(path, name, stored, (stored.id.get_chunk_info_by_coord(place) for place in places))
    return [np.asarray(stored[row]) for row in rows]


def _check_sizes(path: Path, name: str, stored: Any) -> None:
    """Refuse chunks for whose numbers, or records, more memory is needed than for the array."""
    one = stored.dtype.itemsize * prod(stored.chunks)
    if one > max(stored.dtype.itemsize * stored.size, min(ROOMY, LIMITS.array_bytes)):
        raise BadFile(path, f"a chunk of {name} takes {one >> 20} MiB, more than all its numbers", FIX)
    count = prod(-(-length // chunk) for length, chunk in zip(stored.shape, stored.chunks, strict=True))
    if count > MOST_CHUNKS:
        raise BadFile(path, f"{name} lies in {count} chunks, more than {MOST_CHUNKS}", FIX)


def _all_chunks(stored: Any) -> list[Any]:
    """List where the chunks lie that the file holds; not more than are looked at."""
    found: list[Any] = []

    def note(chunk: Any) -> bool | None:
        found.append(chunk)
        return True if len(found) > MOST_CHUNKS else None  # anything but None ends it

    stored.id.chunk_iter(note)
    return found


def _check_chunks(path: Path, name: str, stored: Any, chunks: Iterable[Any]) -> None:
    packer, place = _packer(path, name, stored)
    if packer is None:
        return
    most, held = stored.dtype.itemsize * prod(stored.chunks) + OVERHEAD, path.stat().st_size
    for chunk in chunks:
        if chunk.size > held:
            raise BadFile(path, f"a chunk of {name} ends behind the file", "restore it from its source")
        if chunk.byte_offset is None or chunk.filter_mask >> place & 1:  # not written, or not packed
            continue
        _, packed = stored.id.read_direct_chunk(chunk.chunk_offset)
        if any(count > most for count in _unpacked(packed, packer, most)):
            raise BadFile(path, f"a chunk of {name} unpacks to more than the {most} bytes that its numbers take", FIX)


def _packer(path: Path, name: str, stored: Any) -> tuple[int | None, int]:
    """Return which filter packs a data set, and its place among all; those before it and a checksum do not grow."""
    settings = stored.id.get_create_plist()
    filters = [settings.get_filter(place) for place in range(settings.get_nfilters())]
    codes = [code for code, *_ in filters]
    places = [place for place, code in enumerate(codes) if code in PACKERS]
    behind = codes[places[0] + 1 :] if places else []
    if set(codes) - {*PACKERS, SHUFFLE, CHECKSUM} or set(behind) - {CHECKSUM}:
        names = ", ".join(said.decode("utf-8", "replace")[:40] or str(code) for code, _, _, said in filters)
        raise BadFile(path, f"{name} is packed by {names}, which is not unpacked here", FIX)
    return (codes[places[0]], places[0]) if places else (None, 0)


def _unpacked(packed: bytes, packer: int, most: int) -> Iterator[int]:
    """Count the bytes that a chunk unpacks to, again and again; what is broken, HDF5 says."""
    if packer == SZIP:  # the packed bytes begin with how many there will be, which are allocated
        yield int.from_bytes(packed[:4], "little")
        return
    if packer == LZF:
        yield from _lzf(packed)
        return
    unpacker, count = zlib.decompressobj(), 0
    try:
        for start in range(0, len(packed), PIECE):
            waiting = packed[start : start + PIECE]
            while waiting and not unpacker.eof and count <= most:
                count += len(unpacker.decompress(waiting, PIECE))
                waiting = unpacker.unconsumed_tail
                yield count
    except zlib.error:
        return


def _lzf(packed: bytes) -> Iterator[int]:
    """Count what LZF's runs add up to: bytes as they are (below 32), or a copy of what came before."""
    place, count = 0, 0
    while place < len(packed):
        control = packed[place]
        if control < 32:
            place, count = place + control + 2, count + control + 1
        elif control < 7 << 5:
            place, count = place + 2, count + (control >> 5) + 2
        else:
            place, count = place + 3, count + (packed[place + 1] if place + 1 < len(packed) else 0) + 9
    yield count
