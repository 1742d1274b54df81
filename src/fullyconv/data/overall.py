"""What is wrong with a data set as a whole, once every pair has been read."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import numpy as np

from fullyconv.data.classes import FILE_NAME
from fullyconv.data.dataset import read_stored
from fullyconv.data.folder import SPLITS
from fullyconv.data.masks import RawMask
from fullyconv.data.matching import listed
from fullyconv.data.pairs import Folder, Pair
from fullyconv.data.things import LOOKED_AT, Things
from fullyconv.files import BadFile
from fullyconv.types import MOST_VALUE, ClassSet


@dataclass
class SplitFigures:
    """What one split holds."""

    pairs: int = 0
    smallest: tuple[int, int] = (0, 0)  # height, width, each by itself
    largest: tuple[int, int] = (0, 0)
    pixels: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))  # per class
    void: int = 0

    @property
    def shares(self) -> np.ndarray:
        """The share of each class among the labelled pixels, C float64."""
        return self.pixels / max(1, int(self.pixels.sum()))


def stored_mask(pair: Pair) -> RawMask | BadFile:
    """Read a pair's mask as it is stored, or say why it cannot be read."""
    try:
        return read_stored(pair)
    except BadFile as bad:
        return bad


def binary_masks(folder: Folder, classes: ClassSet, splits: dict[str, SplitFigures]) -> list[BadFile]:
    """Find masks drawn for the eye, 0 and 255, in which 255 would be taken for void."""
    used = np.sum([figures.pixels for figures in splits.values()], axis=0)
    void = sum(figures.void for figures in splits.values())
    suspicious = classes.ignore_index == 255 and not classes.colour_masks and void > 0
    if classes == folder.classes or not suspicious or np.count_nonzero(used) > 1 or not used[0]:
        return []
    mask = next(pairs[0].mask for pairs in folder.splits.values() if pairs)
    return [
        BadFile(
            mask,
            "0/255 masks read as indices: the only values in the set are 0 and 255, and 255 means ignore",
            "give the object 'value: 255' in classes.yaml and set 'ignore: 254'",
        )
    ]


def single_class(folder: Folder, classes: ClassSet, splits: dict[str, SplitFigures]) -> list[BadFile]:
    """Say that there is nothing to tell apart: a single class, or a single one that occurs."""
    pixels = np.sum([figures.pixels for figures in splits.values()], axis=0)
    if len(classes) > 1 and np.count_nonzero(pixels) != 1:
        return []
    name = classes.names[int(np.argmax(pixels))]
    what = f"all labelled pixels are of one class ({name}), so there is nothing to tell apart"
    return [BadFile(folder.root, what, "see whether the masks hold their labels elsewhere, or give the rest a class")]


def merged_classes(folder: Folder) -> list[BadFile]:
    """Say that masks which are said to number things look like masks of classes, all of which become one."""
    things = Things()
    pairs = [*chain(*folder.splits.values())]
    for raw in map(stored_mask, pairs[:: max(1, -(-len(pairs) // LOOKED_AT))]):
        if isinstance(raw, RawMask) and raw.values.min(initial=0) >= 0 and raw.values.max(initial=0) <= MOST_VALUE:
            things.see(raw)
    why = things.look_like_classes()
    if not why:
        return []
    what = f"the masks look like masks of classes ({why}), and all of their numbers above 0 are taken for one class"
    fix = "leave out --instances (instances=true, 'masks: instances' in classes.yaml) if the numbers are classes"
    return [BadFile(folder.root, what, fix)]


def several_whites(whites: dict[float, list[Path]]) -> list[BadFile]:
    """Say that pictures of one set are scaled differently, because the numbers of some do not reach as far."""
    if len(whites) < 2:
        return []
    counted = sorted(whites.items(), key=lambda each: len(each[1]))
    said = ", ".join(f"{white:g} in {len(paths)}" for white, paths in reversed(counted))
    fix = "save all as 8 bit, scaled alike, if these are of one camera"
    return [BadFile(counted[0][1][0], f"pictures are scaled differently: white is {said}", fix)]


def absent_classes(folder: Folder, classes: ClassSet, splits: dict[str, SplitFigures]) -> list[BadFile]:
    """Find classes without a pixel: they cannot be learnt or scored, but the others can."""
    found = []
    for split, figures in splits.items():
        missing = [name for name, pixels in zip(classes.names, figures.pixels, strict=True) if not pixels]
        if not missing or not figures.pairs:
            continue
        if classes == folder.classes:  # worth no more than a note in a data set that is as published
            folder.say(f"never in {split}: {', '.join(missing)}")
        else:
            of = f" of head {folder.task!r}" if folder.task else ""
            what = f"{len(missing)} of {len(classes)} classes{of} never occur in split {split!r}: {listed(missing)}"
            found.append(BadFile(folder.root, what, _without(split, missing, classes, splits)))
    return found


def _without(split: str, missing: list[str], classes: ClassSet, splits: dict[str, SplitFigures]) -> str:
    """Say what it means that a split lacks classes, and what to do."""
    anywhere = np.sum([figures.pixels for figures in splits.values()], axis=0)
    if not any(anywhere[classes.names.index(name)] for name in missing):
        return f"no split has them, so they are neither learnt nor scored: leave them out of {FILE_NAME}?"
    if split in ("train", "all"):
        return "they are not learnt, but others are scored on them: put pictures with them into it"
    return "they are not scored there: put pictures with them into it if they matter"


def copies_across_splits(copies: dict[bytes, list[tuple[str, Path]]]) -> list[tuple[BadFile, Path]]:
    """Find pictures that are in two splits, each with the later of the two places."""
    problems = []
    for places in copies.values():
        first_split, first = places[0]
        for split, path in places[1:]:
            # Lists such as trainval hold what train and val hold, by design.
            by_design = path == first and not {split, first_split} <= set(SPLITS)
            if split != first_split and not by_design:
                what = f"the same picture as {first} in split {first_split!r}"
                fix = f"remove it from one: scores on {split!r} would be flattered"
                problems.append((BadFile(path, what, fix), path))
    return problems
