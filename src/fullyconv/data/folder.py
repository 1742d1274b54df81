"""Data-set folders: which image belongs to which mask, and to which split."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from fullyconv.data.images import SUFFIXES, BadFile

SPLITS = ("train", "val", "test")
HELD_OUT = 0.2  # of a folder without splits

LAYOUTS = """\
a data set is a folder with
  images/ and masks/, paired by file stem, or
  train/, val/ and test/, each with images/ and masks/, or images/train/, masks/train/ and so on, or
  images/ and masks/ beside train.txt, val.txt, test.txt, each a list of stems, or
  PASCAL VOC's JPEGImages/, SegmentationClass/ and ImageSets/Segmentation/*.txt"""


@dataclass(frozen=True)
class Pair:
    """An image file and its mask file."""

    image: Path
    mask: Path

    @property
    def name(self) -> str:
        """The stem that pairs them."""
        return self.image.stem


@dataclass
class Folder:
    """A data set as found on disk: pairs by split, and what could not be paired."""

    root: Path
    splits: dict[str, list[Pair]] = field(default_factory=dict)
    problems: list[BadFile] = field(default_factory=list)
    note: str = ""  # what was decided that the folder does not say


def open_folder(root: Path) -> Folder:
    """Find the pairs of a data set; raises ``BadFile`` when the folder has none of the known layouts."""
    if not root.is_dir():
        raise BadFile(root, "no such folder", LAYOUTS)
    folder = Folder(root)
    if (root / "JPEGImages").is_dir():
        lists = {file.stem: file for file in sorted((root / "ImageSets" / "Segmentation").glob("*.txt"))}
        _listed(folder, root / "JPEGImages", root / "SegmentationClass", lists)
    elif places := _split_folders(root):
        for split, (images, masks) in places.items():
            folder.splits[split] = _pairs(folder, images, masks)
    elif (root / "images").is_dir():
        lists = {split: file for split in SPLITS for file in [_list_file(root, split)] if file}
        if lists:
            _listed(folder, root / "images", root / "masks", lists)
        else:
            folder.splits["all"] = _pairs(folder, root / "images", root / "masks")
    if not any(folder.splits.values()) and not folder.problems:
        raise BadFile(root, "no image with a mask", LAYOUTS)
    return folder


def _split_folders(root: Path) -> dict[str, tuple[Path, Path]]:
    """Find the folders of each split, ``train/images`` or ``images/train``."""
    places = {}
    for split in SPLITS:
        for images, masks in (
            (root / split / "images", root / split / "masks"),
            (root / "images" / split, root / "masks" / split),
        ):
            if images.is_dir():
                places[split] = (images, masks)
    return places


def training_splits(folder: Folder) -> tuple[list[Pair], list[Pair]]:
    """Give the training and the validation pairs.

    A folder without splits is divided by a hash of the stems, so that the same pictures are held out
    every time; without ``val``, ``test`` is never touched and training pairs are held out instead.
    """
    train = folder.splits.get("train", folder.splits.get("all", []))
    held_out = folder.splits.get("val", [])
    if not held_out:
        order = sorted(train, key=lambda pair: hashlib.sha256(pair.name.encode()).digest())
        count = max(1, round(HELD_OUT * len(order)))
        held_out, train = order[:count], sorted(order[count:], key=lambda pair: pair.name)
        folder.note = (
            f"no val split: {count} of {count + len(train)} pairs, chosen by a hash of their names, are held out"
        )
    if not train:
        raise BadFile(
            folder.root, "no training pair", "put at least two pairs into it, one to train on and one to check"
        )
    return train, held_out


def evaluation_split(folder: Folder, split: str | None) -> list[Pair]:
    """Give the pairs to score: the named split, or else val, test or the whole folder, whichever is there first."""
    if split is None:
        split = next((name for name in ("val", "test", "all", "train") if folder.splits.get(name)), "val")
    if not folder.splits.get(split):
        known = ", ".join(name for name, pairs in folder.splits.items() if pairs)
        raise BadFile(folder.root, f"no split {split!r}", f"choose one of {known}")
    return folder.splits[split]


def _list_file(root: Path, split: str) -> Path | None:
    return next((file for file in (root / f"{split}.txt", root / "splits" / f"{split}.txt") if file.is_file()), None)


def _by_stem(directory: Path, folder: Folder) -> dict[str, Path]:
    files: dict[str, Path] = {}
    if not directory.is_dir():
        folder.problems.append(BadFile(directory, "no such folder", LAYOUTS))
        return files
    for file in sorted(directory.iterdir()):
        if file.suffix.lower() not in SUFFIXES or file.name.startswith("."):
            continue
        if file.stem in files:
            folder.problems.append(
                BadFile(file, f"has the stem of {files[file.stem].name}", "rename one: stems pair images with masks")
            )
            continue
        files[file.stem] = file
    return files


def _missing(image: Path | None, mask: Path | None, images: Path, masks: Path) -> BadFile:
    if image is not None:
        return BadFile(image, "has no mask", f"add {masks.name}/{image.stem}.png, or remove the image")
    assert_mask = mask or masks
    return BadFile(assert_mask, "has no image", f"add {images.name}/{assert_mask.stem}, or remove the mask")


def _pairs(folder: Folder, images: Path, masks: Path) -> list[Pair]:
    pictures, labels = _by_stem(images, folder), _by_stem(masks, folder)
    for stem in sorted(pictures.keys() ^ labels.keys()):
        folder.problems.append(_missing(pictures.get(stem), labels.get(stem), images, masks))
    return [Pair(pictures[stem], labels[stem]) for stem in sorted(pictures.keys() & labels.keys())]


def _listed(folder: Folder, images: Path, masks: Path, lists: dict[str, Path]) -> None:
    pictures, labels = _by_stem(images, folder), _by_stem(masks, folder)
    for split, file in lists.items():
        pairs = []
        for stem in _stems(file):
            if stem in pictures and stem in labels:
                pairs.append(Pair(pictures[stem], labels[stem]))
            elif stem in pictures or stem in labels:
                folder.problems.append(_missing(pictures.get(stem), labels.get(stem), images, masks))
            else:
                folder.problems.append(
                    BadFile(
                        file, f"lists {stem!r}, which has neither image nor mask", "correct the list, or add the pair"
                    )
                )
        folder.splits[split] = pairs


def _stems(file: Path) -> Iterable[str]:
    # Lists come with or without suffixes and folders, and with further columns.
    lines = (line.split() for line in file.read_text().splitlines())
    return [Path(words[0]).name.removesuffix(Path(words[0]).suffix if Path(words[0]).suffix.lower() in SUFFIXES else "")
            for words in lines if words]  # fmt: skip
