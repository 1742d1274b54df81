"""Read a whole data set once: what is in it, and everything that is wrong with it."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from fullyconv.data.classes import FILE_NAME, ClassGuess, read_classes
from fullyconv.data.dataset import read_labels, read_stored, size_mismatch
from fullyconv.data.folder import SPLITS
from fullyconv.data.images import RawMask, orientation, read_image
from fullyconv.data.pairs import Folder, Pair
from fullyconv.files import BadFile
from fullyconv.types import ClassSet

Result = TypeVar("Result")
Progress = Callable[[str, int, int], None]
"""Called with (what is being done, done, total)."""


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


@dataclass
class Report:
    """All that a data set's files say."""

    folder: Folder
    classes: ClassSet
    inferred: bool
    splits: dict[str, SplitFigures]
    mean: tuple[float, float, float]  # RGB, 0..255, over the training split (or all that there is)
    std: tuple[float, float, float]
    problems: list[BadFile]
    bad_pairs: set[Path]  # images whose pair cannot be used
    digests: dict[Path, str]  # of the pixels and labels of every pair that can be read, by its image


@dataclass
class _Seen:
    """What one pair told."""

    pair: Pair
    problem: BadFile | None = None
    size: tuple[int, int] = (0, 0)
    counts: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    void: int = 0
    sums: np.ndarray = field(default_factory=lambda: np.zeros((2, 3)))  # of pixels and of their squares
    digest: bytes = b""  # of the image
    both: str = ""  # of image and labels


def find_classes(folder: Folder, *, progress: Progress | None = None) -> tuple[ClassSet, bool]:
    """Read the data set's ``classes.yaml``, here or one folder up; without one, take its official classes.

    The classes of a data set that is not a published one are inferred from its masks. Gives the classes and
    whether they were inferred. Raises ``BadFile`` if there is nothing to infer from.
    """
    for place in (folder.root / FILE_NAME, folder.root.parent / FILE_NAME):
        if place.is_file():
            return read_classes(place), False
    if folder.classes is not None:
        return folder.classes, False
    guess = ClassGuess()
    pairs = [pair for pairs in folder.splits.values() for pair in pairs]
    for raw in _ahead(_quietly, pairs, "reading masks", progress):
        if raw is not None:
            guess.see(raw)
    try:
        return guess.classes(), True
    except ValueError as error:
        raise BadFile(folder.root, f"classes cannot be inferred: {error}", f"write a {FILE_NAME}") from None


def _quietly(pair: Pair) -> RawMask | None:
    try:
        return read_stored(pair)
    except BadFile:
        return None  # reported when the pair is read


def check_folder(folder: Folder, classes: ClassSet | None = None, *, progress: Progress | None = None) -> Report:
    """Read every pair of every split and list what is wrong, with the file's name and the fix.

    ``classes`` override the data set's own.
    """
    inferred = False
    if classes is None:
        classes, inferred = find_classes(folder, progress=progress)
    known = classes
    problems, bad, digests = list(folder.problems), set(), {}
    splits: dict[str, SplitFigures] = {}
    sums, squares, count = np.zeros(3), np.zeros(3), 0
    copies: dict[bytes, list[tuple[str, Path]]] = defaultdict(list)
    for split, pairs in folder.splits.items():
        figures = splits[split] = SplitFigures(pixels=np.zeros(len(classes), np.int64))
        for seen in _ahead(lambda pair: _read(pair, known), pairs, f"reading {split}", progress):
            if seen.problem is not None:
                problems.append(seen.problem)
                bad.add(seen.pair.image)
            if seen.digest:
                copies[seen.digest].append((split, seen.pair.image))
            if not seen.counts.size:
                continue
            digests[seen.pair.image] = seen.both
            _add(figures, seen)
            if split in ("train", "all") or "train" not in folder.splits:
                sums, squares = sums + seen.sums[0], squares + seen.sums[1]
                count += seen.size[0] * seen.size[1]
    problems += _binary_masks(folder, classes, splits)
    problems += _absent_classes(folder, classes, splits)
    problems += _copies_across_splits(copies)
    mean = sums / max(1, count)
    std = np.sqrt(np.maximum(squares / max(1, count) - mean**2, 1.0))  # a blank set must not divide by zero
    return Report(folder, classes, inferred, splits, _triple(mean), _triple(std), problems, bad, digests)


def _triple(values: np.ndarray) -> tuple[float, float, float]:
    red, green, blue = (round(float(value), 3) for value in values)
    return red, green, blue


def _ahead(
    work: Callable[[Pair], Result], pairs: Sequence[Pair], what: str, progress: Progress | None
) -> Iterator[Result]:
    """Run ``work`` over the pairs in threads (decoding releases the interpreter lock), results in order."""
    with ThreadPoolExecutor() as pool:
        for done, result in enumerate(pool.map(work, pairs), start=1):
            yield result
            if progress is not None:
                progress(what, done, len(pairs))


def _read(pair: Pair, classes: ClassSet) -> _Seen:
    try:
        image = read_image(pair.image)
        digest = hashlib.blake2b(image.tobytes() + bytes(str(image.shape), "ascii"), digest_size=16).digest()
    except BadFile as bad:
        return _Seen(pair, bad)
    try:
        labels = read_labels(pair, classes)
    except BadFile as bad:
        return _Seen(pair, bad, digest=digest)
    problem = _misfit(pair, image, labels)
    if problem is not None and image.shape[:2] != labels.shape:
        return _Seen(pair, problem, digest=digest)
    if problem is None and (labels < 0).all():
        problem = BadFile(
            pair.mask, "all pixels are void", "label it, or remove the pair: nothing can be learnt from it"
        )
    pixels = image.reshape(-1, 3)
    sums = np.stack([pixels.sum(0, dtype=np.float64), np.square(pixels, dtype=np.float32).sum(0, dtype=np.float64)])
    counts = np.bincount(labels[labels >= 0], minlength=len(classes))
    both = hashlib.blake2b(digest + labels.tobytes(), digest_size=8).hexdigest()
    return _Seen(pair, problem, labels.shape, counts, labels.size - int(counts.sum()), sums, digest, both)


def _misfit(pair: Pair, image: np.ndarray, labels: np.ndarray) -> BadFile | None:
    """Return whether a mask does not lie on its image, above all because of an EXIF rotation of only one of them."""
    with Image.open(pair.image) as stored_image:
        turn, raw_size = orientation(stored_image), stored_image.size[::-1]
    mask_turn = 1
    if not pair.storage.variable:
        with Image.open(pair.mask) as stored_mask:
            mask_turn = orientation(stored_mask)
    fits = image.shape[:2] == labels.shape
    if turn == mask_turn or (fits and turn >= 5 and raw_size != labels.shape):
        return None if fits else size_mismatch(pair, image.shape[:2], labels.shape)
    if fits or labels.shape == raw_size:
        return BadFile(
            pair.image,
            f"the image is rotated by its EXIF orientation ({turn}), its mask is not: they may not lie on each other",
            "store the image upright (for example with 'mogrify -auto-orient'), then check the mask against it",
        )
    return size_mismatch(pair, image.shape[:2], labels.shape)


def _add(figures: SplitFigures, seen: _Seen) -> None:
    first = figures.pairs == 0
    figures.pairs += 1
    figures.pixels += seen.counts
    figures.void += seen.void
    height, width = seen.size
    low, high = figures.smallest, figures.largest
    figures.smallest = seen.size if first else (min(low[0], height), min(low[1], width))
    figures.largest = (max(high[0], height), max(high[1], width))


def _binary_masks(folder: Folder, classes: ClassSet, splits: dict[str, SplitFigures]) -> list[BadFile]:
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


def _absent_classes(folder: Folder, classes: ClassSet, splits: dict[str, SplitFigures]) -> list[BadFile]:
    """Find classes without a pixel: a problem of a data set of one's own, worth a note of a published one."""
    problems = []
    for split, figures in splits.items():
        missing = [name for name, pixels in zip(classes.names, figures.pixels, strict=True) if not pixels]
        if classes == folder.classes and missing:
            folder.say(f"never in {split}: {', '.join(missing)}")
        elif figures.pairs:
            fix = "move pairs between the splits, or take the class out of classes.yaml"
            problems += [
                BadFile(folder.root, f"class {name!r} never occurs in split {split!r}", fix) for name in missing
            ]
    return problems


def _copies_across_splits(copies: dict[bytes, list[tuple[str, Path]]]) -> list[BadFile]:
    problems = []
    for places in copies.values():
        if len({split for split, _ in places}) > 1:
            (first_split, first), *others = places
            for split, path in others:
                # Lists such as trainval hold what train and val hold, by design.
                by_design = path == first and not {split, first_split} <= set(SPLITS)
                if split != first_split and not by_design:
                    what = f"the same picture as {first} in split {first_split!r}"
                    problems.append(BadFile(path, what, f"remove it from one: scores on {split!r} would be flattered"))
    return problems
