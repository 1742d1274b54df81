"""The labels of pictures that are too large to be held, on their way in files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np

from fullyconv.files import sync
from fullyconv.types import VOID

VIEW_SIDE = 4096  # pixels of the overlay, at most
BAND_PIXELS = 1 << 22  # of labels that are traced at a time


@dataclass(frozen=True)
class Draft:
    """The labels of a large picture on their way, in files beside where they will be.

    Attributes:
        folder: The output folder.
        name: The picture's stem, relative to the folder.
        size: Height and width.
        kind: Of the labels.
        holes: Whether the picture says which pixels hold nothing.
        chances: Of how many classes the probabilities are kept; 0 for none.
    """

    folder: Path
    name: str
    size: tuple[int, int]
    kind: np.dtype[Any]
    holes: bool
    chances: int = 0

    @property
    def step(self) -> int:
        """Every how many pixels the overlay shows one."""
        return ceil(max(self.size) / VIEW_SIDE)

    def part(self, what: str) -> str:
        """Return the name of a file, relative to the folder."""
        path = Path(self.name)
        return path.with_name(f".{path.name}.{what}.part").as_posix()

    def _layout(self, what: str) -> tuple[int, tuple[int, ...], np.dtype[Any]]:
        """Return how many rows a file has, the shape of one, and the type of its numbers."""
        height, width = self.size
        if what == "view":  # the picture made smaller
            return -(-height // self.step), (-(-width // self.step), 3), np.dtype(np.uint8)
        if what == "chances":  # plane after plane, behind the header of a .npy file
            return self.chances * height, (width,), np.dtype("<f2")
        return height, (width,), self.kind if what == "labels" else np.dtype(bool)

    @property
    def parts(self) -> tuple[str, ...]:
        """What there are files of."""
        return ("labels", "view", *("data",) * self.holes, *("chances",) * bool(self.chances))

    def begin(self) -> None:
        """Make the files, as long as they will be; those that are there stay."""
        for what in self.parts:
            rows, shape, kind = self._layout(what)
            path = self.folder / self.part(what)
            path.parent.mkdir(parents=True, exist_ok=True)
            head = self._head() if what == "chances" else b""
            with path.open("ab") as file:
                file.truncate(len(head) + rows * int(np.prod(shape)) * kind.itemsize)
            with path.open("r+b") as file:
                file.write(head)

    def _head(self) -> bytes:
        """Return the beginning of a NumPy file of all probabilities."""
        header = BytesIO()
        described = {"descr": "<f2", "fortran_order": False, "shape": (self.chances, *self.size)}
        np.lib.format.write_array_header_1_0(header, described)
        return header.getvalue()

    # Read and written by rows, not mapped: what is mapped counts as memory of the process.

    def put(self, what: str, first: int, values: np.ndarray, *, left: int = 0, start: int = 0) -> None:
        """Write rows from ``first`` on, from column ``left`` on; ``start`` is where the file's first row is."""
        _, shape, kind = self._layout(what)
        line = int(np.prod(shape)) * kind.itemsize
        whole = values.shape[1] == shape[0]
        with (self.folder / self.part(what)).open("r+b") as file:
            for row, lines in [(first, values)] if whole else enumerate(values, first):
                file.seek(start + row * line + left * kind.itemsize)
                file.write(np.ascontiguousarray(lines, kind).tobytes())

    def put_labels(self, last: int, left: int, labels: np.ndarray, chances: np.ndarray | None) -> None:
        """Write labels of rows before ``last``, from column ``left`` on, h x w, and probabilities, C x h x w."""
        first, start = last - len(labels), len(self._head())
        self.put("labels", first, labels, left=left)
        for plane, each in enumerate(() if chances is None else chances):
            self.put("chances", plane * self.size[0] + first, each, left=left, start=start)

    def get(self, what: str, first: int, last: int, *, step: int = 1) -> np.ndarray:
        """Read rows, or every ``step``-th of them."""
        _, shape, kind = self._layout(what)
        line = int(np.prod(shape)) * kind.itemsize
        chosen = range(first, last, step)
        with (self.folder / self.part(what)).open("rb") as file:
            pieces = []
            for row in chosen if step > 1 else [first]:
                file.seek(row * line)
                pieces.append(file.read(line if step > 1 else (last - first) * line))
        return np.frombuffer(b"".join(pieces), kind).reshape(len(chosen), *shape)

    def bands(self) -> Iterator[np.ndarray]:
        """Return the labels by rows, h x W int32: void where the picture holds nothing."""
        height, width = self.size
        rows = max(1, BAND_PIXELS // width)
        for first in range(0, height, rows):
            last = min(first + rows, height)
            yield self.labels(first, last)

    def labels(self, first: int, last: int, *, step: int = 1) -> np.ndarray:
        """Read rows of labels, or every ``step``-th, h x W int32: void where the picture holds nothing."""
        labels = self.get("labels", first, last, step=step).astype(np.int32)
        if self.holes:
            labels[~self.get("data", first, last, step=step)] = VOID
        return labels

    def settle(self) -> None:
        """Bring what was written to the disk."""
        for what in self.parts:
            sync(self.folder / self.part(what))

    def remove(self) -> None:
        """Remove the files, those of a run that found probabilities, too."""
        for what in ("labels", "view", "data", "chances"):
            (self.folder / self.part(what)).unlink(missing_ok=True)
