"""HDF5Data: rows of data sets in HDF5 files that a list names, one data set for each blob."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from fullyconv.caffe.description import Layer
from fullyconv.data.hdf5 import read_rows
from fullyconv.files import BadFile
from fullyconv.limits import LIMITS
from fullyconv.solver.lists import read_listing
from fullyconv.solver.settings import find

FIX = "write a data set of numbers for each top, all with as many rows"


@dataclass(frozen=True)
class _Rows:
    """``hdf5_data_param``."""

    source: str
    batch_size: int
    shuffle: bool = False


@dataclass(frozen=True)
class _Reader:
    """Files whose rows follow each other; which row comes when follows from the seed and its number alone."""

    layer: Layer
    given: _Rows
    files: Sequence[Path]
    counts: Sequence[int]
    seed: int

    def batch(self, number: int) -> dict[str, np.ndarray]:
        """Read a batch; it may begin in one file and end in another, or in the next pass."""
        size = self.given.batch_size
        places = [self._place(number * size + index) for index in range(size)]
        rows: dict[str, list[np.ndarray]] = {top: [] for top in self.layer.tops}
        at = 0
        while at < size:
            file, end = places[at][0], at
            while end < size and places[end][0] == file:
                end += 1
            with _opened(self.files[file]) as opened:
                for top in self.layer.tops:
                    found = _of(opened, top, self.files[file])
                    read = read_rows(self.files[file], repr(top), found, [row for _, row in places[at:end]])
                    rows[top] += [np.asarray(row, np.float32) for row in read]
            at = end
        for top, each in rows.items():
            if len({row.shape for row in each}) > 1:
                raise self.layer.fail(f"rows of {top!r} differ in shape from file to file", "write all alike")
        return {top: np.stack(each) for top, each in rows.items()}

    def _order(self, count: int, *words: int) -> Sequence[int]:
        if not self.given.shuffle:
            return range(count)
        drawn: list[int] = np.random.default_rng([self.seed, *words]).permutation(count).tolist()
        return drawn

    def _place(self, index: int) -> tuple[int, int]:
        """Return the file and the row of the ``index``-th item; a shuffled pass goes file by file, as in Caffe."""
        epoch, place = divmod(index, sum(self.counts))
        for file in self._order(len(self.files), epoch, 1):
            count = self.counts[file]
            if place < count:
                return file, self._order(count, epoch, 2 + file)[place]
            place -= count
        raise AssertionError(index)


def hdf5_feed(layer: Layer, *, seed: int) -> tuple[Callable[[int], dict[str, np.ndarray]], int]:
    """Return the batches of an HDF5Data layer, and how many there are in a pass.

    Args:
        layer: Its source is a list of files, which hold a data set under the name of each top.
        seed: Of the solver: shuffles files, and the rows of each.

    Returns:
        What gives batch 0, 1, …, and the batches of one pass over all rows.

    Raises:
        BadFile: For a list, a file or a data set that cannot be read, or data sets of different lengths.
        ImportError: If h5py is not installed.
    """
    given = layer.block("hdf5_data_param", _Rows)
    if given.batch_size < 1:
        raise layer.fail(f"batch_size {given.batch_size}", "set 1 or more")
    if layer.message.messages("transform_param"):
        raise layer.fail("transform_param, which Caffe does not apply to HDF5", "leave it out, and transform the data")
    files = _listed(layer, given.source)
    counts = [_count(path, layer.tops, given.batch_size) for path in files]
    if not sum(counts):
        raise BadFile(files[0], "has no rows, nor has any other file of the list", FIX)
    return _Reader(layer, given, files, counts, seed).batch, -(-sum(counts) // given.batch_size)


def _listed(layer: Layer, source: str) -> list[Path]:
    place, text = read_listing(layer, source, "HDF5 files")
    names = text.split()
    if not names:
        raise BadFile(place, "an empty list", "write the name of an HDF5 file in each line")
    return [find(name, place) for name in names]


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        import h5py
    except ImportError as missing:
        raise ImportError("HDF5Data needs h5py: pip install 'fullyconv[caffe]'") from missing
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, RuntimeError, KeyError) as error:  # a damaged file shows here and there
        raise BadFile(path, f"not readable as HDF5 ({error})", "correct the list of files, or write it anew") from None


def _of(file: Any, top: str, path: Path) -> Any:
    """Return a data set of numbers that lies in the file itself; links elsewhere are not followed."""
    import h5py

    own = isinstance(file.get(top, getlink=True), h5py.HardLink) if top in file else False
    found = file[top] if own else None
    if not isinstance(found, h5py.Dataset) or found.dtype.kind not in "fiub" or not found.shape:
        raise BadFile(path, f"has no data set of numbers called {top!r}", FIX)
    if found.external or found.is_virtual:
        raise BadFile(path, f"{top!r} lies in other files", FIX)
    return found


def _count(path: Path, tops: Sequence[str], batch: int) -> int:
    with _opened(path) as file:
        shapes = {top: _of(file, top, path).shape for top in tops}
    if len({shape[0] for shape in shapes.values()}) > 1:
        raise BadFile(path, f"its data sets have different numbers of rows: {shapes}", FIX)
    if any(4 * batch * prod(shape[1:]) > LIMITS.array_bytes for shape in shapes.values()):
        raise BadFile(path, f"batches of {batch} rows of {shapes}", LIMITS.remedy("array_bytes"))
    return int(next(iter(shapes.values()))[0])
