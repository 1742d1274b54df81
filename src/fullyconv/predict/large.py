"""Pictures that are too large to be held: read by rows, labelled in bands, written by rows, continued after a kill."""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from shutil import disk_usage
from typing import BinaryIO

import numpy as np
from PIL import Image

from fullyconv.data.place import TILE, Place, mask_values, write_class_tiff
from fullyconv.data.rows import Rows
from fullyconv.draw import false_colours, overlay, palette_image, with_legend
from fullyconv.files import BadFile, state_of, whole_file
from fullyconv.outputs import Outputs
from fullyconv.predict.arrays import pieces_by_heads
from fullyconv.predict.draft import Draft
from fullyconv.predict.image import Segmenter
from fullyconv.predict.quantised import weights_sum
from fullyconv.types import ClassSet

WRITE_ROWS = 256
NOTE_ROWS = 512  # labelled rows after which the manifest is told


class _Below:
    """A picture from some row on; what is shown of it, and where it holds nothing, is noted as it is read."""

    def __init__(self, rows: Rows, first: int, drafts: Sequence[Draft], reader: Executor) -> None:
        self._rows, self._first, self._drafts = rows, first, drafts
        self.shape = rows.shape[0] - first, *rows.shape[1:]
        self._read = (0, 0)
        self._reader, self._coming = reader, Future[None]()
        self._coming.set_result(None)

    def __getitem__(self, index: tuple[slice, slice]) -> np.ndarray:
        first, last, _ = index[0].indices(self.shape[0])
        first, last = first + self._first, last + self._first
        if (first, last) == self._read:
            return self._rows[first:last, index[1]]
        self._coming.result()
        piece = self._rows[first:last, index[1]]
        if first < last:
            self._read = first, last
            step = self._drafts[0].step
            shown = self._rows[first:last, 0 : self.shape[1]][-first % step :: step, ::step]
            empty = self._rows.empty(first, last)
            for draft in self._drafts:
                draft.put("view", -(-first // step), false_colours(shown))
                if empty is not None:
                    draft.put("data", first, ~empty)
            # The next band, probably of as many rows, is decoded while this one is computed.
            self._coming = self._reader.submit(self._rows.fetch, last, min(2 * last - first, self._rows.shape[0]))
        return piece


class _Growing:
    """The labels of a large picture by one head on their way, and how many of their rows are finished."""

    def __init__(self, segmenter: Segmenter, rows: Rows, outputs: Outputs, target: Path, chances: int) -> None:
        size = rows.shape[0], rows.shape[1]
        kind = np.min_scalar_type(len(segmenter.classes) - 1)
        self.draft, self._outputs = Draft(outputs.folder, target.as_posix(), size, kind, rows.holes, chances), outputs
        self._key = _key(segmenter, rows, chances)
        noted = outputs.noted(self.draft.part("labels"))
        self.done = int(noted.get("rows", 0)) if noted.get("key") == self._key and _whole(self.draft) else 0
        if not self.done:
            self.draft.remove()  # of a run that was another
        self._noted = self.done
        _check_room(self.draft, rows.path)

    def put(self, last: int, across: slice, found: np.ndarray, own: np.ndarray | None) -> None:
        """Take the labels of rows before ``last``, and their probabilities; rows that are finished stay."""
        (height, width), skip = self.draft.size, max(0, self.done - last + len(found))
        if last <= self.done:
            return  # was seen again for the sake of what is below it
        if own is not None and self.draft.holes:
            own[:, ~self.draft.get("data", last - len(found), last)[:, across]] = 0
        self.draft.put_labels(last, across.start, found[skip:], None if own is None else own[:, skip:])
        if across.stop == width and (last == height or last >= self._noted + NOTE_ROWS):
            self._noted = last
            self.draft.settle()
            self._outputs.note(self.draft.part("labels"), rows=last, of_rows=height, key=self._key)


def label_large(
    models: Sequence[Segmenter], rows: Rows, outputs: Sequence[Outputs], target: Path, *, probabilities: bool = False
) -> list[Draft]:
    """Label a picture that is read by rows; what an earlier run has finished is not done again.

    Args:
        models: One, or several heads of one, which computes what they share once.
        rows: The picture.
        outputs: The folder of each; its manifest says how many rows are finished.
        target: The stem of what will be written, relative to the folders.
        probabilities: Also find those of every class.

    Returns:
        The labels of each.

    Raises:
        BadFile: For a picture that ends too early, and probabilities for which the disk has no room.
        ValueError: For segmenters whose labels are no matter of some rows (views, CRF, uncertainty).
    """
    for each in models:
        _refuse_lookers(each, rows)
    growing = [
        _Growing(each, rows, folder, target, len(each.classes) if probabilities else 0)
        for each, folder in zip(models, outputs, strict=True)
    ]
    drafts, plan = [each.draft for each in growing], models[0].network.plans[0]
    done = min(each.done for each in growing)
    start = max(0, done - plan.reach - plan.stride) // plan.stride * plan.stride
    for draft in drafts:
        draft.begin()
    try:
        with ThreadPoolExecutor(1, "reading") as reader:
            below = _Below(rows, start, drafts, reader)
            for index, (down, across, found, own) in pieces_by_heads(models, below, probabilities=probabilities):
                growing[index].put(down.stop + start, across, found, own)
    except ValueError:  # a picture that ends too early, scores that are no numbers: a second run would end the same way
        for draft in drafts:
            draft.remove()
        raise
    return drafts


def _refuse_lookers(segmenter: Segmenter, rows: Rows) -> None:
    """Refuse segmenters that look at whole pictures."""
    if type(segmenter) is Segmenter:
        return
    what = f"{rows.shape[1]} x {rows.shape[0]} pixels are labelled in bands, by the network alone"
    if segmenter.network.crf is not None:
        raise ValueError(f"{what}, and the CRF trained with it sees whole pictures: cut this one, or allow more memory")
    raise ValueError(f"{what}: leave --crf, --tta and --uncertainty out, cut the picture, or allow more memory")


def _check_room(draft: Draft, picture: Path) -> None:
    """Refuse probabilities that the disk has no room for, before hours are spent."""
    path, (height, width) = draft.folder / draft.part("chances"), draft.size
    there = path.stat().st_blocks * 512 if path.exists() else 0
    needed = draft.chances * height * width * 2 - there
    free = disk_usage(draft.folder).free
    if needed > free:
        what = (
            f"the probabilities of {draft.chances} classes take {needed / 2**30:.1f} GiB, {free / 2**30:.1f} are free"
        )
        raise BadFile(picture, what, "make room, choose another --out, or leave out --probabilities")


def _whole(draft: Draft) -> bool:
    """Return whether an earlier run's files are there."""
    return all((draft.folder / draft.part(what)).is_file() for what in draft.parts)


def _key(segmenter: Segmenter, rows: Rows, chances: int) -> str:
    """Return what changes with the picture, the model, the arithmetic, and whether probabilities are found."""
    facts = [str(rows.path.resolve()), *state_of(rows.path), rows.sight.level, *rows.shape, rows.holes]
    facts += [weights_sum(segmenter.network), segmenter.prepared().engine.precision, repr(segmenter.preprocess)]
    facts += [segmenter.temperature, chances]  # rows of a run without them have none
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def write_large(draft: Draft, target: Path, classes: ClassSet, place: Place | None, *, legend: bool = False) -> Path:
    """Write a large picture's labels: ``STEM.png``, a small ``STEM_overlay.jpg``, where it lies ``STEM_classes.tif``.

    Probabilities, if there are, become ``STEM.npy``: C x H x W float16, which NumPy can map.

    Args:
        draft: The labels.
        target: The folder and ``STEM``.
        classes: What labels mean.
        place: Where the picture lies.
        legend: Put the classes' names below the overlay.

    Returns:
        The path of ``STEM.png``.
    """
    height, step = draft.size[0], draft.step

    def rows(first: int, last: int) -> Image.Image:
        return palette_image(draft.labels(first, last), classes, void=draft.holes)

    mask = target.with_name(target.name + ".png")
    with whole_file(mask) as path, path.open("wb") as file:
        write_png(file, draft.size, rows)
    with whole_file(target.with_name(target.name + "_overlay.jpg")) as path:
        few = draft.labels(0, height, step=step)[:, ::step]
        shown = overlay(draft.get("view", 0, -(-height // step)), few, classes)
        Image.fromarray(with_legend(shown, classes) if legend else shown).save(path, "JPEG", quality=90)
    if place is not None:
        table = mask_values(classes)
        with whole_file(target.with_name(target.name + "_classes.tif")) as path:
            like = np.broadcast_to(table[:1], draft.size)
            write_class_tiff(path, like, classes, place, tiles=_tiles(draft, table))
    if draft.chances:
        (draft.folder / draft.part("chances")).replace(target.with_name(target.name + ".npy"))
    return mask


def _tiles(draft: Draft, table: np.ndarray) -> Iterator[np.ndarray]:
    """Return mask values tile by tile, those of pixels that hold nothing the last of the table."""
    height, width = draft.size
    for top in range(0, height, TILE):
        bottom = min(top + TILE, height)
        values = table[draft.labels(top, bottom)]
        for left in range(0, width, TILE):
            tile = np.zeros((TILE, TILE), table.dtype)
            piece = values[:, left : left + TILE]
            tile[: piece.shape[0], : piece.shape[1]] = piece
            yield tile


def write_png(file: BinaryIO, size: tuple[int, int], rows: Callable[[int, int], Image.Image]) -> None:
    """Write a palette or grey PNG by rows.

    Args:
        file: Where it goes.
        size: Height and width.
        rows: Returns some rows as a picture, from the first of them to the one that is left: all of one mode, ``P``,
            ``L`` or ``I;16``, and one palette.

    >>> from io import BytesIO
    >>> picture, file = Image.new("P", (3, 2), 7), BytesIO()
    >>> write_png(file, (2, 3), lambda first, last: picture.crop((0, first, 3, last)))
    >>> Image.open(file).getpixel((2, 1))
    7
    """
    height, width = size
    sample = rows(0, 1)
    depth, colour = {"P": (8, 3), "L": (8, 0)}.get(sample.mode, (16, 0))
    file.write(b"\x89PNG\r\n\x1a\n")
    _chunk(file, b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    if sample.mode == "P":
        _chunk(file, b"PLTE", bytes(sample.getpalette("RGB") or b""))
    packer = zlib.compressobj(1, strategy=zlib.Z_RLE)
    for first in range(0, height, WRITE_ROWS):
        values = np.asarray(rows(first, min(first + WRITE_ROWS, height)))
        lines = values.astype(">u2").view(np.uint8) if depth == 16 else values
        filtered = np.zeros((len(lines), 1 + lines.shape[1]), np.uint8)  # each row begins with its filter: none
        filtered[:, 1:] = lines
        if packed := packer.compress(filtered.tobytes()):
            _chunk(file, b"IDAT", packed)
    _chunk(file, b"IDAT", packer.flush())
    _chunk(file, b"IEND", b"")


def _chunk(file: BinaryIO, kind: bytes, content: bytes) -> None:
    file.write(struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content)))


def refuse_beside(rows: Rows, *asked: str) -> None:
    """Refuse what is made of all labels at once.

    Raises:
        BadFile: Where something was asked for.
    """
    if asked:
        what = f"{rows.shape[1]} x {rows.shape[0]} pixels are labelled in bands, without {' and '.join(asked)}"
        raise BadFile(rows.path, what, "leave it out, give more --memory, or cut the picture into parts")
