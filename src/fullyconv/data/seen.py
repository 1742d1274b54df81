"""Read one pair of a data set once: what it holds, and what is wrong with it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from fullyconv.data.channels import read_channels
from fullyconv.data.dataset import labels_of, picture_digest, read_stored, size_mismatch
from fullyconv.data.images import TRANSPARENT, picture_levels
from fullyconv.data.masks import RawMask
from fullyconv.data.nothing import find_lone
from fullyconv.data.pairs import Pair
from fullyconv.data.palettes import Painted, painted
from fullyconv.data.raster import COLOURS, Raster, white_level
from fullyconv.files import BadFile, is_store
from fullyconv.types import VOID, ClassSet

LOOKED_AT = 1 << 22  # pixels of a picture, in rows at even distances, that are searched for what may stand for nothing
MOST_BEYOND = 0.05  # of a picture's numbers outside the range that was fitted, without a word


@dataclass
class Seen:
    """What one pair holds."""

    pair: Pair
    problem: BadFile | None = None
    blank: bool = False  # whether that is only that no pixel of the mask counts
    size: tuple[int, int] = (0, 0)
    counts: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    void: int = 0
    missing: int = 0  # pixels of the image that hold nothing
    sums: np.ndarray = field(default_factory=lambda: np.zeros((2, 3)))  # of pixels and of their squares
    digest: bytes = b""  # of the image
    both: str = ""  # of image and labels
    painted: Painted = ()  # colours of the mask's palette
    white: float = 255.0  # the number that was taken for white
    warnings: tuple[BadFile, ...] = ()


def see(pair: Pair, classes: ClassSet) -> Seen:
    """Read a pair whose masks hold these classes; what is wrong with it is kept with what it holds."""
    try:
        raster = read_channels(pair.image, pair.levels)
        image = picture_levels(raster, pair.image, pair.levels, pair.channels)
    except BadFile as bad:
        return Seen(pair, bad)
    digest = picture_digest(image)
    missing = 0 if raster.missing is None else int(raster.missing.sum())
    seen = Seen(pair, digest=digest, white=_white(raster, pair), missing=missing, warnings=_warnings(raster, pair))
    try:
        raw = read_stored(pair)
        labels = labels_of(raw, pair, classes)
    except BadFile as bad:
        return replace(seen, problem=bad)
    seen.painted = painted(raw)
    if raw.transparent:
        what = "transparent pixels of a mask are taken in their stored colours or numbers: its alpha is passed over"
        seen.warnings += (BadFile(pair.mask, what, "save it without alpha, as index PNG, if alpha holds the labels"),)
    problem = _misfit(pair, raster, raw, labels)
    if problem is not None and image.shape[:2] != labels.shape:
        return replace(seen, problem=problem)
    if raster.missing is not None:
        labels[raster.missing] = VOID
        if problem is None and raster.missing.all():
            problem = BadFile(
                pair.image, "holds nothing but 'no data'", "remove the pair: nothing can be learnt from it"
            )
    blank = problem is None and bool((labels < 0).all())
    if blank:
        problem = BadFile(
            pair.mask, "all pixels are void", "label it, or remove the pair: nothing can be learnt from it"
        )
    pixels = image.reshape(-1, image.shape[2])
    sums = np.stack([pixels.sum(0, dtype=np.float64), np.square(pixels, dtype=np.float32).sum(0, dtype=np.float64)])
    counts = np.bincount(labels[labels >= 0], minlength=len(classes))
    void = labels.size - int(counts.sum())
    both = hashlib.blake2b(digest + labels.tobytes(), digest_size=8).hexdigest()
    seen.blank = blank
    return replace(seen, problem=problem, size=labels.shape, counts=counts, void=void, sums=sums, both=both)


def _white(raster: Raster, pair: Pair) -> float:
    """Return the number that was taken for white; 255 where there was no choice."""
    if not raster.deep:
        return 255.0
    return white_level(raster.filled().values, raster.bits) if pair.levels is None else pair.levels.ranges[0][1]


def _warnings(raster: Raster, pair: Pair) -> tuple[BadFile, ...]:
    lone = lone_number(raster, pair.image)
    return (() if lone is None else (lone,)) + _of_colours(raster, pair)


def lone_number(raster: Raster, path: Path) -> BadFile | None:
    """Say that a number of a picture may stand for nothing, and how to say so in its file."""
    if not raster.deep:
        return None
    step = max(1, raster.values[..., 0].size // LOOKED_AT)
    values = raster.values[::step]
    known = values.reshape(-1, values.shape[2]) if raster.missing is None else values[~raster.missing[::step]]
    lone = next((found for band in known.T if (found := find_lone(band)) is not None), None)
    if lone is None:
        return None
    how = f"say so: gdal_edit.py -a_nodata {lone.number:.9g} {path.name}"
    if is_store(path):
        how = f"say so: _FillValue: {lone.number:.9g} among the array's attributes"
    elif path.suffix.lower() not in (".tif", ".tiff"):
        how = f"save it as TIFF and say so: gdal_edit.py -a_nodata {lone.number:.9g} …"
    nan = ", or write NaN in its place" if raster.values.dtype.kind == "f" else ""
    return BadFile(path, lone.words, f"if it means that, {how}{nan}")


def _of_colours(raster: Raster, pair: Pair) -> tuple[BadFile, ...]:
    if pair.levels is not None and raster.deep:
        numbers = raster.values if len(pair.levels.ranges) == 1 else raster.channels(pair.channels)
        if raster.missing is not None:
            numbers = numbers[~raster.missing]
        low, high = np.array(pair.levels.ranges).T
        beyond = float(((numbers < low) | (numbers > high)).mean()) if numbers.size else 0.0
        if beyond > MOST_BEYOND:
            what = f"{beyond:.0%} of its numbers lie beyond the range of the training pictures and are cut off"
            return (BadFile(pair.image, what, "save it on their scale if it is of another camera"),)
    if not raster.transparent or pair.channels > COLOURS:
        return ()
    return (BadFile(pair.image, TRANSPARENT, "paint them on a background if their colours mean nothing"),)


def _misfit(pair: Pair, raster: Raster, raw: RawMask, labels: np.ndarray) -> BadFile | None:
    """Return whether a mask does not lie on its image, above all because of an EXIF rotation of only one of them."""
    turn, size = raster.turned, raster.values.shape[:2]
    raw_size = size[::-1] if turn >= 5 else size
    fits = size == labels.shape
    if turn == raw.turned or (fits and turn >= 5 and raw_size != labels.shape):
        return None if fits else size_mismatch(pair, size, labels.shape)
    if fits or labels.shape == raw_size:
        return BadFile(
            pair.image,
            f"the image is rotated by its EXIF orientation ({turn}), its mask is not: they may not lie on each other",
            "store the image upright (for example with 'mogrify -auto-orient'), then check the mask against it",
        )
    return size_mismatch(pair, size, labels.shape)
