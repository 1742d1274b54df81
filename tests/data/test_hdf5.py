"""HDF5: the numbers that h5py reads, in the memory that they take, whatever their chunks say."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fullyconv.data.hdf5 import read_rows, read_whole
from fullyconv.files import BadFile
from fullyconv.memory import PeakMemory

PACKINGS: list[dict[str, Any]] = [
    {}, {"compression": "gzip"}, {"compression": "gzip", "shuffle": True, "fletcher32": True},
    {"compression": "lzf"}, {"compression": "lzf", "shuffle": True}, {"shuffle": True}, {"fletcher32": True},
]  # fmt: skip
BOMB = zlib.compress(bytes(256 << 20), 9)  # a quarter of a megabyte


@settings(max_examples=60, deadline=None)
@given(
    packing=st.sampled_from(PACKINGS),
    kind=st.sampled_from(["u1", "<i2", ">f4", "f8", "?"]),
    shape=st.lists(st.integers(1, 9), min_size=1, max_size=3),
    chunk=st.integers(1, 5),
    seed=st.integers(0, 99),
)
def test_honest_files_have_h5pys_numbers(
    packing: dict[str, Any],
    kind: str,
    shape: list[int],
    chunk: int,
    seed: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    path = tmp_path_factory.getbasetemp() / "honest.h5"
    rng = np.random.default_rng(seed)
    values = (rng.integers(0, 9, shape) * rng.integers(0, 2, shape)).astype(kind)
    with h5py.File(path, "w", userblock_size=512) as file:
        chunks = tuple(min(chunk, length) for length in shape)
        stored = file.create_dataset("x", data=values, chunks=chunks, maxshape=(None, *shape[1:]), **packing)
        stored.resize(shape[0] + 2, axis=0)  # two rows that no chunk, or only a part of one, holds
    with h5py.File(path) as file:
        expected = file["x"][()]
        np.testing.assert_array_equal(read_whole(path, "x", file["x"]), expected)
        rows = rng.integers(0, len(expected), 4).tolist()
        for row, found in zip(rows, read_rows(path, "x", file["x"], rows), strict=True):
            np.testing.assert_array_equal(found, expected[row])


def with_chunk(path: Path, packed: bytes, **packing: Any) -> Path:
    """Write a data set of 4 x 25 numbers whose first chunk holds other bytes."""
    with h5py.File(path, "w") as file:
        stored = file.create_dataset("x", data=np.ones((4, 25)), chunks=(2, 25), **packing)
        stored.id.write_direct_chunk((0, 0), packed)
    return path


@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize(
    ("packed", "packing"),
    [
        (BOMB, {"compression": "gzip"}),
        (BOMB, {"compression": "gzip", "shuffle": True}),
        (BOMB + bytes(4), {"compression": "gzip", "fletcher32": True}),
        (bytes([255, 255, 0]) * 100_000, {"compression": "lzf"}),
    ],
)
def test_a_chunk_that_unpacks_to_more_than_its_numbers_is_not_unpacked(
    packed: bytes, packing: dict[str, Any], rows: bool, tmp_path: Path
) -> None:
    path = with_chunk(tmp_path / "bomb.h5", packed, **packing)
    assert path.stat().st_size < 1 << 20
    words = r"a chunk of x unpacks to more than the 4496 bytes .*: write it anew"
    with h5py.File(path) as file, PeakMemory() as memory, pytest.raises(BadFile, match=words):
        _ = read_rows(path, "x", file["x"], [1]) if rows else read_whole(path, "x", file["x"])
    assert not memory.taken > 32 << 20  # NaN where it cannot be measured


def test_what_is_broken_or_packed_otherwise_is_refused(tmp_path: Path) -> None:
    cut = with_chunk(tmp_path / "cut.h5", zlib.compress(np.ones((2, 25)).tobytes())[:-6], compression="gzip")
    with h5py.File(cut) as file, pytest.raises(OSError, match="filter"):  # HDF5 says so itself
        read_whole(cut, "x", file["x"])
    with h5py.File(tmp_path / "scaled.h5", "w") as file:
        file.create_dataset("x", data=np.arange(100), chunks=(10,), scaleoffset=0)
    with h5py.File(tmp_path / "scaled.h5") as file, pytest.raises(BadFile, match="packed by scaleoffset, which is not"):
        read_whole(tmp_path / "scaled.h5", "x", file["x"])


@pytest.mark.parametrize(
    ("shape", "chunks", "words"),
    [
        ((10,), (1 << 27,), "a chunk of x takes 1024 MiB, more than all its numbers"),
        ((2000, 2000), (1, 1), "x lies in 4000000 chunks, more than 1000000"),
    ],
)
def test_claims_of_chunks_beyond_the_numbers_are_refused(
    shape: tuple[int, ...], chunks: tuple[int, ...], words: str, tmp_path: Path
) -> None:
    with h5py.File(tmp_path / "claim.h5", "w") as file:
        file.create_dataset("x", shape, "f8", chunks=chunks, maxshape=(None,) * len(shape), compression="gzip")
    assert (tmp_path / "claim.h5").stat().st_size < 1 << 16
    with h5py.File(tmp_path / "claim.h5") as file, pytest.raises(BadFile, match=words):
        read_whole(tmp_path / "claim.h5", "x", file["x"])
