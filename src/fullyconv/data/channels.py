"""Pictures whose channels are files of their own: ``x_0000.png`` and ``x_0001.png``, or folders beside the images'."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from fullyconv.data.images import SUFFIXES, read_raster
from fullyconv.data.layout import DEEPEST, Found
from fullyconv.data.nothing import all_missing
from fullyconv.data.raster import Raster, colours
from fullyconv.files import BadFile
from fullyconv.limits import LIMITS, Limits
from fullyconv.types import CHANNEL_ENDING, Levels

FIRST = "_0000"  # nnU-Net's: the other channels of a case count on from it
STEM = re.compile(rf"(.+)({CHANNEL_ENDING.pattern})")


def read_channels(path: Path, levels: Levels | None, limits: Limits = LIMITS, *, level: int = 0) -> Raster:
    """Read a picture with all its channels, wherever they lie.

    Args:
        path: The file of the first ones.
        levels: Which page of it is read, and where its further channels lie (``Levels.beside``).
        limits: What each file may ask for.
        level: Of a picture in several sizes, which one: 0 is the full one.

    Returns:
        The file's own numbers; of several files all bands, one file after the other, in a type that holds them all.

    Raises:
        BadFile: For a file that is missing or cannot be used, or sizes that differ.
    """
    pages = None if levels is None else levels.pages
    first = read_raster(path, pages, limits, level=level)
    if levels is None or not levels.beside:
        return first
    stacked, missing = [_bands(first)], [first.missing]
    for other in channel_files(path, levels.beside):
        raster = read_raster(other, pages, limits, level=level)
        if raster.values.shape[:2] != first.values.shape[:2]:
            sizes = (f"{shape[1]} x {shape[0]}" for shape in (raster.values.shape, first.values.shape))
            raise BadFile(other, "a channel of {}, of a picture of {}".format(*sizes), "save both at one size")
        first = replace(first, bits=max(first.bits, raster.bits), lossy=first.lossy or raster.lossy)
        stacked.append(_bands(raster))
        missing.append(raster.missing)
    values = np.concatenate(stacked, axis=2)
    return replace(first, values=values, kind="bands", palette=None, alpha=None, missing=all_missing(missing))


def _bands(raster: Raster) -> np.ndarray:
    return colours(raster) if raster.kind == "cmyk" else raster.bands()


def channel_files(image: Path, beside: Sequence[str]) -> list[Path]:
    """Find the files of a picture's further channels; raises ``BadFile`` for the first that is not there."""
    return [_channel_file(image, name) for name in beside]


def _channel_file(image: Path, name: str) -> Path:
    if not CHANNEL_ENDING.fullmatch(name):
        files = (of_stem(place, image.suffix) for place in places_beside(image, name))
        found = next((file for file in files if file is not None and file != image), None)
    elif image.stem.endswith(FIRST):
        found = of_stem(image.with_name(image.stem.removesuffix(FIRST) + name), image.suffix)
    else:
        what = f"no first channel of a picture: its others are called {name}"
        raise BadFile(image, what, f"take the file that ends with {FIRST}; the others are found beside it")
    if found is None:
        where = f"{name}/{image.stem}" if not CHANNEL_ENDING.fullmatch(name) else image.stem.removesuffix(FIRST) + name
        raise BadFile(image, f"lacks its channel {where}", "add it, or leave the picture out")
    return found


def places_beside(image: Path, name: str) -> Iterator[Path]:
    """Yield where what belongs to a picture may lie, without its suffix: in a folder in one of its own, or instead."""
    stem = image.with_suffix("")
    for folder in image.parents[: DEEPEST + 1]:
        for place in (folder / name, folder.parent / name):
            if place.is_dir():
                yield place / stem.relative_to(folder)


def of_stem(stem: Path, usual: str) -> Path | None:
    """Return the picture of a stem, if there is one: of the usual suffix before all others."""
    return next((file for suffix in (usual, *SUFFIXES) if (file := Path(f"{stem}{suffix}")).is_file()), None)


def is_first(image: Path, beside: Sequence[str]) -> bool:
    """Return whether a file holds the first channels of a picture, as far as names say, and not further ones.

    >>> [is_first(Path(name), ("_0001",)) for name in ("x_0000.png", "x_0001.png", "y.png")]
    [True, False, True]
    """
    found = STEM.fullmatch(image.stem) if any(map(CHANNEL_ENDING.fullmatch, beside)) else None
    if found is not None and found[2] != FIRST:
        return False
    if not set(image.parts[:-1]) & set(beside):
        return True
    try:
        return bool(channel_files(image, beside))  # a folder far above may be called so, too
    except BadFile:
        return False


def first_channels(images: Sequence[Found], masks: Sequence[Found]) -> tuple[list[Found], tuple[str, ...]]:
    """Find out whether images are channels of cases, as nnU-Net calls them: several for each mask.

    Args:
        images: All of them.
        masks: Theirs; frames of a film, which are numbered alike, have masks of the same names.

    Returns:
        The first channels, to be paired by the names of cases, with other images; and the endings of the others.

    >>> names = [Found(Path(f"{each}.png"), "image", "", "", each) for each in ("a_0000", "a_0001")]
    >>> first, others = first_channels(names, [Found(Path("m/a.png"), "mask", "", "", "a")])
    >>> [found.stem for found in first], others
    (['a'], ('_0001',))
    """
    cases: dict[tuple[str, str, str], set[str]] = defaultdict(set)
    parts = [STEM.fullmatch(image.stem) for image in images]
    for image, part in zip(images, parts, strict=True):
        if part is not None:
            cases[image.split, image.where, part[1]].add(part[2])
    endings = sorted(set().union(*cases.values()))
    whole = sum(len(found) == len(endings) for found in cases.values())
    drawn = {mask.stem for mask in masks}
    counted = endings == [f"_{number:04d}" for number in range(len(endings))]
    named = sum(name in drawn for _, _, name in cases) * 2 >= min(len(cases), len(masks))
    films = any(image.stem in drawn for image in images)
    if len(endings) < 2 or not counted or 2 * whole < len(cases) or not named or films:
        return list(images), ()
    first = [
        image if part is None else replace(image, stem=part[1])
        for image, part in zip(images, parts, strict=True)
        if part is None or part[2] == FIRST
    ]
    return first, tuple(endings[1:])
