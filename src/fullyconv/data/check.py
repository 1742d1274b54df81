"""Read a whole data set once: what is in it, and everything that is wrong with it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TypeVar

import numpy as np

from fullyconv.data.classes import FILE_NAME, ClassGuess
from fullyconv.data.levels import Pages, fit_levels
from fullyconv.data.matching import stated_classes
from fullyconv.data.overall import (
    SplitFigures,
    absent_classes,
    binary_masks,
    copies_across_splits,
    merged_classes,
    several_whites,
    single_class,
    stored_mask,
)
from fullyconv.data.pairs import Folder, Pair
from fullyconv.data.palettes import FIX as PALETTE_FIX
from fullyconv.data.palettes import Palettes
from fullyconv.data.raster import COLOURS, Refused
from fullyconv.data.seen import Seen, see
from fullyconv.data.things import THINGS
from fullyconv.files import BadFile, counted
from fullyconv.types import ClassSet, Levels

Result = TypeVar("Result")
Progress = Callable[[str, int, int], None]
"""Called with (what is being done, done, total)."""


@dataclass
class Report:
    """All that a data set's files say."""

    folder: Folder
    classes: ClassSet
    inferred: bool
    splits: dict[str, SplitFigures]
    mean: tuple[float, ...]  # of each channel (RGB first), 0..255, over the training split (or all that there is)
    std: tuple[float, ...]
    problems: list[BadFile]  # training refuses the data set, or leaves out the pairs at fault
    warnings: list[BadFile]  # worth knowing: training goes on
    bad_pairs: set[Path]  # images whose pair cannot be used
    sizes: dict[Path, tuple[int, int]]  # height and width of every image that was read
    digests: dict[Path, str]  # of the pixels and labels of every pair that can be read, by its image
    pictures: dict[Path, bytes]  # the digests of the pixels alone
    levels: Levels | None = None  # the range that images are read by
    heads: dict[str, Report] = field(default_factory=dict)  # what the masks of further heads hold


def find_classes(folder: Folder, *, instances: bool = False, progress: Progress | None = None) -> tuple[ClassSet, bool]:
    """Find the classes of a data set.

    They are those that it states (``stated_classes``), else they are inferred from all masks.

    Args:
        folder: The data set.
        instances: Whether its masks number things, which are then one class.
        progress: Told of every mask that is read.

    Returns:
        The classes, and whether they were inferred.

    Raises:
        BadFile: If there is nothing to infer from, with the reason of the first mask that cannot be used.
    """
    stated = stated_classes(folder)
    if stated is not None and instances and not stated.instances:
        raise BadFile(folder.root, "states its classes, which instances=true does not go with", "choose one of both")
    if stated is not None:
        return stated, False
    if instances:
        return THINGS, True
    return _infer(folder, progress), True


def _infer(folder: Folder, progress: Progress | None) -> ClassSet:
    guess = ClassGuess()
    pairs = [pair for pairs in folder.splits.values() for pair in pairs]
    unusable = []
    for raw in _ahead(stored_mask, pairs, "reading masks", progress):
        if isinstance(raw, BadFile):
            unusable.append(raw)  # one bad mask is reported when its pair is read, beside all others
        else:
            guess.see(raw)
    try:
        return guess.classes()
    except ValueError as error:
        if unusable:
            first = unusable[0]
            what = f"classes cannot be inferred: {len(unusable)} of {len(pairs)} masks are of no use, such as "
            raise BadFile(folder.root, f"{what}{first.path}: {first.what}", first.fix) from None
        what, fix = (error.what, error.fix) if isinstance(error, Refused) else (str(error), f"write a {FILE_NAME}")
        raise BadFile(folder.root, f"classes cannot be inferred: {what}", fix) from None


def check_folder(
    folder: Folder,
    classes: ClassSet | None = None,
    *,
    pages: Pages = None,
    instances: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Read every pair of every split and list what is wrong with it.

    Args:
        folder: The data set; its pairs then know by which range of numbers their images are read.
        classes: What its masks hold, instead of the data set's own.
        pages: Of files of several pages, which one is the image, or all as ``channels``.
        instances: Whether its masks number things, which are then one class.
        progress: Told of every pair that is read.

    Returns:
        Figures of each split, and problems with the file's name and the fix.

    Raises:
        BadFile: If its classes cannot be told.
    """
    inferred = False
    if classes is None:
        classes, inferred = find_classes(folder, instances=instances, progress=progress)
    levels, channels = fit_levels(folder.splits.get("train") or [*chain(*folder.splits.values())], pages, folder.beside)
    folder.read_as(levels, channels)
    folder.say(_said(levels, channels))
    report = _read_all(folder, classes, inferred, channels, progress)
    report.levels = levels
    for name in folder.heads:
        _check_head(report, name, channels, progress)
    return report


def _check_head(report: Report, name: str, channels: int, progress: Progress | None) -> None:
    """Read the masks of a further head; what is wrong with them is wrong with the data set."""
    folder = report.folder.head(name)
    classes = folder.stated or _infer(folder, progress)
    report.folder.name_classes(name, classes)
    found = _read_all(folder, classes, folder.stated is None, channels, progress)
    report.heads[name] = found
    for own, others in ((report.problems, found.problems), (report.warnings, found.warnings)):
        known = set(map(str, own))  # of the images, which were read before
        own += [each for each in others if str(each) not in known]
    report.bad_pairs |= found.bad_pairs
    if folder.note:
        report.folder.say(f"head {name}: {folder.note}")


def _read_all(folder: Folder, classes: ClassSet, inferred: bool, channels: int, progress: Progress | None) -> Report:
    """Read every pair of a folder whose images are read by known levels."""
    blank = (0.0,) * channels
    problems = list(folder.problems)
    report = Report(folder, classes, inferred, {}, blank, blank, problems, [], set(), {}, {}, {})
    tally = _Tally(report)
    of = f" of {folder.task}" if folder.task else ""
    for split, pairs in folder.splits.items():
        report.splits[split] = SplitFigures(pixels=np.zeros(len(classes), np.int64))
        for seen in _ahead(lambda pair: see(pair, classes), pairs, f"reading {split}{of}", progress):
            tally.take(split, seen)
    report.problems[:0] = binary_masks(folder, classes, report.splits)  # before the lines that follow from it
    for problem, image in copies_across_splits(tally.copies):
        report.problems.append(problem)
        report.bad_pairs.add(image)
    if (found := tally.palettes.disagreeing) is not None:
        what = f"palettes of masks disagree: {found[0]}; the numbers are read"
        report.warnings.append(
            BadFile(found[1] or folder.root, what, f"see whether they mean the same, or {PALETTE_FIX}")
        )
    report.warnings += single_class(folder, classes, report.splits)
    report.warnings += merged_classes(folder) if classes.instances else []
    report.warnings += [*several_whites(tally.whites), *absent_classes(folder, classes, report.splits)]
    report.mean, report.std = tally.mean_and_deviation()
    if tally.hollow and not folder.task:
        folder.say(
            f"{counted(tally.hollow, 'picture')} with pixels of 'no data' or NaN: neither trained on nor scored there"
        )
    return report


def _said(levels: Levels | None, channels: int) -> str:
    """Say how numbers are read, where that was decided here."""
    if levels is None or (channels == COLOURS and levels.ranges == ((0.0, 255.0),)):
        return ""
    ranges = [f"{low:g} to {high:g}" for low, high in levels.ranges]
    said = ", ".join(ranges[:3]) + (f" and {len(ranges) - 3} more ranges" if len(ranges) > 3 else "")
    bands = f"{channels} channels; " if channels > COLOURS else ""
    return f"{bands}numbers are read as levels 0 to 255 by one range for all pictures: {said}"


def usable_pairs(report: Report) -> list[Pair]:
    """Return the pairs with nothing wrong, each once, whatever splits list it."""
    pairs = {pair.image: pair for pairs in report.folder.splits.values() for pair in pairs}
    return [pair for image, pair in pairs.items() if image not in report.bad_pairs]


class _Tally:
    """Adds up what pairs hold, for a report."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._sums, self._count = np.zeros((2, len(report.mean))), 0  # of pixels and of their squares; pixels
        self.copies: dict[bytes, list[tuple[str, Path]]] = defaultdict(list)  # by a digest of their pixels
        self.whites: dict[float, list[Path]] = defaultdict(list)
        self.palettes = Palettes()
        self.hollow = 0  # pictures that hold nothing at some pixel

    def take(self, split: str, seen: Seen) -> None:
        """Add one pair of a split."""
        report, image = self._report, seen.pair.image
        report.warnings += seen.warnings
        self.hollow += seen.missing > 0
        if not (report.inferred or report.classes.colour_masks):  # else palettes decide, and were compared before
            self.palettes.see(seen.painted, seen.pair.mask)
        if seen.problem is not None and seen.blank and report.folder.task:
            report.warnings.append(BadFile(seen.pair.mask, seen.problem.what, "its picture teaches the other heads"))
        elif seen.problem is not None:
            report.problems.append(seen.problem)
            report.bad_pairs.add(image)
        if seen.digest:
            self.copies[seen.digest].append((split, image))
            self.whites[seen.white].append(image)
        if not seen.counts.size:
            return
        report.sizes[image], report.digests[image] = seen.size, seen.both
        report.pictures[image] = seen.digest
        _add(report.splits[split], seen)
        if split in ("train", "all") or "train" not in report.folder.splits:
            self._sums, self._count = self._sums + seen.sums, self._count + seen.size[0] * seen.size[1]

    def mean_and_deviation(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return the statistics of the training pixels, of each channel, 0..255."""
        mean, squares = self._sums / max(1, self._count)
        # A blank set must not divide by zero.
        return _rounded(mean), _rounded(np.sqrt(np.maximum(squares - mean**2, 1.0)))


def _rounded(values: np.ndarray) -> tuple[float, ...]:
    return tuple(round(float(value), 3) for value in values)


def _ahead(
    work: Callable[[Pair], Result], pairs: Sequence[Pair], what: str, progress: Progress | None
) -> Iterator[Result]:
    """Run ``work`` over the pairs in threads (decoding releases the interpreter lock), results in order."""
    with ThreadPoolExecutor() as pool:
        for done, result in enumerate(pool.map(work, pairs), start=1):
            yield result
            if progress is not None:
                progress(what, done, len(pairs))


def _add(figures: SplitFigures, seen: Seen) -> None:
    first = figures.pairs == 0
    figures.pairs += 1
    figures.pixels += seen.counts
    figures.void += seen.void
    height, width = seen.size
    low, high = figures.smallest, figures.largest
    figures.smallest = seen.size if first else (min(low[0], height), min(low[1], width))
    figures.largest = (max(high[0], height), max(high[1], width))
