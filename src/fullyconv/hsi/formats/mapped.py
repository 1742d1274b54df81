"""Cubes larger than memory: pass over them piece by piece, and let go of what was read."""

from __future__ import annotations

import mmap
from collections.abc import Iterator

import numpy as np

BLOCK_BYTES = 64 << 20
FINITE = "replace these values, mark the bands as bad (ENVI: bbl), or leave them out"


def row_blocks(cube: np.ndarray, block_bytes: int = BLOCK_BYTES) -> Iterator[slice]:
    """Cut a cube into runs of rows of at most ``block_bytes`` in float64; lets go of each run's memory after it."""
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


def unusable_bands(cube: np.ndarray) -> list[int]:
    """List the bands that hold NaN or infinity anywhere."""
    if cube.dtype.kind != "f":
        return []
    finite = np.ones(cube.shape[2], bool)
    for rows in row_blocks(cube):
        finite &= np.isfinite(cube[rows]).all(axis=(0, 1))
    return [int(band) for band in np.flatnonzero(~finite)]


def not_finite(bands: list[int]) -> str:
    """Say which bands hold NaN or infinity."""
    more = f" and {len(bands) - 12} more" if len(bands) > 12 else ""
    return f"NaN or infinity in band {', '.join(map(str, bands[:12]))}{more} (counted from 0)"
