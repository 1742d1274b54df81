"""Data-set folders: which image belongs to which mask, and to which split."""

from __future__ import annotations

import hashlib
from pathlib import Path

from fullyconv.data.channels import channel_files
from fullyconv.data.classes import stated_channels, stated_heads
from fullyconv.data.context import is_context, open_context
from fullyconv.data.finding import find_pairs
from fullyconv.data.foreign import unpaired
from fullyconv.data.further import find_further, is_further
from fullyconv.data.nyud import is_nyud, open_nyud
from fullyconv.data.pairs import Folder, Pair, read_list
from fullyconv.data.pascal import is_sbdd, is_voc, open_pascal, open_sbdd, open_voc, pair_voc
from fullyconv.data.problems import group
from fullyconv.data.siftflow import is_siftflow, open_siftflow
from fullyconv.files import BadFile

SPLITS = ("train", "val", "test")
HELD_OUT = 0.2  # of a folder without splits

LAYOUTS = """\
a data set is a folder with
  images/ and masks/ (or imgs, labels, annotations, gt, …), paired by stem, or by stem and a suffix (_mask, _gt, …), or
  images and masks in one folder, told apart by a suffix (a.jpg, a_mask.png), or
  train/, val/ and test/ (or training, valid, …) around or inside these, or train/ and train_labels/, or
  any of these beside train.txt, val.txt, test.txt, each a list of stems, or
  any of these with further masks of each picture in folders that classes.yaml names under 'heads', or
  PASCAL VOC's JPEGImages/, SegmentationClass/ and ImageSets/Segmentation/*.txt, or
  one of the data sets VOC2007 to VOC2012, SBDD, PASCAL-Context, SIFT Flow or NYUDv2 as published"""

OFFICIAL = (
    (is_context, open_context),
    (is_siftflow, open_siftflow),
    (is_nyud, open_nyud),
    (is_sbdd, open_sbdd),
    (is_voc, open_voc),
)
"""The published data sets: how each is recognised and opened. The first that fits is taken."""

INSIDE = ("VOC20*", "VOCdevkit/VOC20*", "TrainVal/VOCdevkit/VOC20*", "dataset", "*_RELEASE/dataset", "SiftFlow*")
"""Where the published archives put their data set."""


def open_folder(root: Path, mask_suffix: str | None = None) -> Folder:
    """Find the pairs of a data set.

    Published data sets come with their official classes. SIFT Flow's two label sets are two folders:
    open ``SemanticLabels`` or ``GeoLabels``; likewise NYUDv2's ``data/images`` or ``data/hha``. A folder
    into which both SBDD and a year of VOC were unpacked is what the papers train and score on: SBDD's ``train``,
    and VOC's ``val`` without it.

    Args:
        root: The folder, of one of ``LAYOUTS``.
        mask_suffix: What the masks' stems have after the images' (``_gt``), instead of what is found by counting.

    Returns:
        Pairs by split, in a fixed order, and what could not be paired; no file is opened yet.

    Raises:
        BadFile: If there is no pair in it, with the reason why images and masks that are there do not pair.
    """
    if root.is_file():
        raise BadFile(root, "a file, not a folder of pictures", LAYOUTS)
    if not root.is_dir():
        raise BadFile(root, "no such folder", LAYOUTS)
    folder = (_open_official(root) if mask_suffix is None else None) or _open_plain(root, mask_suffix)
    _find_channels(folder, stated_channels(root))
    heads = stated_heads(root)
    if any(folder.splits.values()):
        find_further(folder, heads)
        return folder
    if folder.problems:
        raise _nothing_paired(root, folder.problems)
    if heads:
        what = f"no image with a mask is left beside those of the heads {', '.join(heads)}"
        raise BadFile(root, what, "keep each picture's first mask in a folder that no head names, say masks/")
    raise unpaired(root) or BadFile(root, "no image with a mask", LAYOUTS)


def _find_channels(folder: Folder, beside: tuple[str, ...]) -> None:
    """Let pictures have further channels; what lacks one is a problem."""
    folder.beside += beside
    for split, pairs in folder.splits.items() if folder.beside else ():
        found = []
        for pair in pairs:
            try:
                channel_files(pair.image, folder.beside)
                found.append(pair)
            except BadFile as bad:
                folder.problems.append(bad)
                folder.lacking.setdefault(split, []).append(bad)
        folder.splits[split] = found


def _nothing_paired(root: Path, problems: list[BadFile]) -> BadFile:
    """Say why nothing pairs: where that is so, nothing else is worth saying."""
    first = problems[0]
    more = "".join(f"\n{line}" for each in group(problems[1:]) for line in each.lines())
    return BadFile(root, f"no image with a mask: {first.what}", f"{first.fix}{more}")


def _open_official(root: Path) -> Folder | None:
    for fits, open_it in OFFICIAL:
        if fits(root):
            return open_it(root)
    inside = {place: open_it for pattern in INSIDE for place in sorted(root.glob(pattern))
              for fits, open_it in OFFICIAL if fits(place)}  # fmt: skip
    years, sbdd = [place for place in inside if is_voc(place)], [place for place in inside if is_sbdd(place)]
    if len(inside) == 2 and years and sbdd:
        return open_pascal(years[0], sbdd[0])
    if len(inside) > 1:
        names = ", ".join(str(place.relative_to(root)) for place in inside)
        raise BadFile(root, f"several data sets: {names}", "name the folder of one of them")
    for place, open_it in inside.items():
        return open_it(place)
    return None


def _open_plain(root: Path, mask_suffix: str | None) -> Folder:
    files = sorted((root / "ImageSets" / "Segmentation").glob("*.txt"))
    if not (files and (root / "JPEGImages").is_dir() and (root / "SegmentationClass").is_dir()):
        lists = {split: read_list(file) for split in SPLITS for file in [_list_file(root, split)] if file}
        channels, heads = set(stated_channels(root)), stated_heads(root)

        def left_out(path: Path) -> bool:
            return bool(channels & set(path.relative_to(root).parts[:-1])) or is_further(path, root, heads)

        return find_pairs(root, lists, mask_suffix, left_out=left_out)
    folder = Folder(root)
    pair_voc(folder, {file.stem: read_list(file) for file in files})
    return folder


def _list_file(root: Path, split: str) -> Path | None:
    return next((file for file in (root / f"{split}.txt", root / "splits" / f"{split}.txt") if file.is_file()), None)


def training_splits(folder: Folder) -> tuple[list[Pair], list[Pair]]:
    """Return the training and the validation pairs.

    A folder without splits is divided by a hash of the stems, so that the same pictures are held out
    every time; without ``val``, ``test`` is never touched and training pairs are held out instead.

    Args:
        folder: The data set; its note says what was held out.

    Returns:
        Pairs to train on, and pairs to validate on, both not empty.

    Raises:
        BadFile: If nothing is left to train on.
    """
    train = folder.splits.get("train", folder.splits.get("all", []))
    held_out = folder.splits.get("val", [])
    if not held_out:
        order = sorted(train, key=lambda pair: hashlib.sha256(pair.name.encode()).digest())
        count = max(1, round(HELD_OUT * len(order)))
        held_out, train = order[:count], sorted(order[count:], key=lambda pair: pair.name)
        folder.say(
            f"no val split: {count} of {count + len(train)} pairs, chosen by a hash of their names, are held out"
        )
    if not train:
        raise BadFile(
            folder.root, "no training pair", "put at least two pairs into it, one to train on and one to check"
        )
    return train, held_out


def evaluation_split(folder: Folder, split: str | None) -> list[Pair]:
    """Return the pairs to score.

    Args:
        folder: The data set.
        split: A split's name; ``None`` takes val, test, the whole folder or train, whichever is there first.

    Raises:
        BadFile: If there is no such split, or it is empty.
    """
    if split is None:
        split = next((name for name in ("val", "test", "all", "train") if folder.splits.get(name)), "val")
    if not folder.splits.get(split):
        known = ", ".join(name for name, pairs in folder.splits.items() if pairs)
        raise BadFile(folder.root, f"no split {split!r}", f"choose one of {known}")
    return folder.splits[split]
