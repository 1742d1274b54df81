"""Cubes larger than memory: pass over them piece by piece, and let go of what was read."""

from __future__ import annotations

import mmap
from collections.abc import Iterator

import numpy as np

BLOCK_BYTES = 64 << 20
FINITE = "replace it, mark the bands as bad (ENVI: bbl), or leave them out"


def row_blocks(cube: np.ndarray, block_bytes: int = BLOCK_BYTES) -> Iterator[slice]:
    """Cut a cube into runs of rows of at most ``block_bytes`` in float64; lets go of each run's memory after it.

    >>> list(row_blocks(np.zeros((5, 4, 2)), block_bytes=128))
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    step = max(1, block_bytes // (8 * max(1, cube[0].size)))
    for start in range(0, len(cube), step):
        yield slice(start, min(start + step, len(cube)))
        release(cube)


def release(array: np.ndarray) -> None:
    """Release the memory that reading a mapped file took; does nothing to other arrays.

    The pages stay in the system's cache, but no longer count as this process's.
    """
    owner: object = array
    while isinstance(owner, np.ndarray):
        owner = owner.base
    if isinstance(owner, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        owner.madvise(mmap.MADV_DONTNEED)


def infinite_bands(cube: np.ndarray) -> list[int]:
    """List the bands that hold infinity anywhere; NaN is no data, infinity is a mistake.

    >>> infinite_bands(np.array([[[1, np.nan, -np.inf]]]))
    [2]
    """
    if cube.dtype.kind != "f":
        return []
    found = np.zeros(cube.shape[2], bool)
    for rows in row_blocks(cube):
        found |= np.isinf(cube[rows]).any(axis=(0, 1))
    return [int(band) for band in np.flatnonzero(found)]


def band_list(bands: list[int]) -> str:
    """Write a list of bands, shortened where it is long: ``band 3, 4 (counted from 0)``."""
    more = f" and {len(bands) - 12} more" if len(bands) > 12 else ""
    return f"band {', '.join(map(str, bands[:12]))}{more} (counted from 0)"


def infinity_in(bands: list[int]) -> str:
    """Say which bands hold infinity."""
    return f"infinity in {band_list(bands)}"
