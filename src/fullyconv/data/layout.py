"""The picture files of a folder, and what the names of their folders say: image or mask, split, site."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from fullyconv.data.images import SUFFIXES

DEEPEST = 6  # folders below the data set's: sets as published need at most 4
IMAGES = [
    "images",
    "image",
    "imgs",
    "img",
    "pictures",
    "photos",
    "jpegimages",
    "leftimg8bit",
    "rgb",
    "inputs",
    "input",
    "frames",
    "patches",
]
MASKS = [
    "masks",
    "mask",
    "labels",
    "label",
    "labelled",
    "annotations",
    "annotation",
    "annots",
    "annot",
    "anns",
    "ann",
    "gts",
    "gt",
    "gtfine",
    "gtcoarse",
    "groundtruths",
    "groundtruth",
    "segmentationclassaug",
    "segmentationclass",
    "segmentations",
    "segmentation",
    "segments",
    "seg",
    "targets",
    "target",
    "trimaps",
    "trimap",
    "1stmanual",
    "manual",
    "1sths0",
    "1stho",
]
SPLIT_NAMES = {
    "train": "train", "training": "train", "tr": "train", "val": "val", "valid": "val", "validation": "val",
    "dev": "val", "test": "test", "testing": "test", "ts": "test",
}  # fmt: skip
SHORT = {"tr", "ts"}  # of nnU-Net, imagesTr: by themselves they say nothing
NEUTRAL = [
    "original",
    "raw",
    "semantic",
    "all",
    "data",
    "dataset",
    "files",
    "dir",
    "folder",
    "png",
    "jpg",
    "jpeg",
    "tif",
    "tiff",
    "bmp",
    "2017",
    "512",
    "256",
]
WORDS = sorted({*IMAGES, *MASKS, *SPLIT_NAMES, *NEUTRAL}, key=len, reverse=True)
KNOWN = re.compile(f"(?:{'|'.join(WORDS)})+")
VISUAL = re.compile(r"colou?rs?|instance|overlay|blend|preview|vis|viz|thumb|poly", re.IGNORECASE)
"""What renderings for the eye are called: of several masks of a picture, others are taken first."""


@dataclass(frozen=True)
class Found:
    """A file, what its folders say of it, and the ``stem`` under which it is paired.

    ``role`` is image, mask or empty, ``split`` train, val, test or empty, ``where`` the folders that say neither
    (sites, cities).
    """

    path: Path
    role: str
    split: str
    where: str
    stem: str


def look(root: Path, suffixes: tuple[str, ...] = SUFFIXES) -> list[Found]:
    """Find the files of these suffixes below a folder, in the order of their paths; hidden ones are left out.

    Links to folders are followed as far as ``DEEPEST``; those to a folder that they lie in are not.
    """
    return sorted(_walk(root, Found(root, "", "", "", ""), suffixes, DEEPEST), key=lambda found: found.path)


def _walk(folder: Path, said: Found, suffixes: tuple[str, ...], depth: int) -> Iterator[Found]:
    with os.scandir(folder) as entries:
        listed = sorted((entry for entry in entries if not entry.name.startswith((".", "__MACOSX"))), key=_name)
    for entry in listed:
        path = folder / entry.name
        if entry.is_dir():
            if depth and not (entry.is_symlink() and folder.resolve().is_relative_to(path.resolve())):
                yield from _walk(path, _with(said, entry.name), suffixes, depth - 1)
        elif path.suffix.lower() in suffixes:
            yield replace(said, path=path, stem=path.stem)


def _name(entry: os.DirEntry[str]) -> str:
    return entry.name


def _with(said: Found, name: str) -> Found:
    """Add what one more folder's name says; the deepest that says something counts."""
    meaning = folder_meaning(name)
    if meaning is None:
        return replace(said, where=f"{said.where}{name}/")
    return replace(said, role=meaning[0] or said.role, split=meaning[1] or said.split)


def folder_meaning(name: str) -> tuple[str, str] | None:
    """Read a folder's name: its role and split, each empty if it says neither; ``None`` for sites and the like.

    Names that are made of known words alone are read: ``labelsTr``, ``Train_Masks``, ``label_images_semantic``.

    >>> folder_meaning("trainannot"), folder_meaning("imagesTr"), folder_meaning("aachen")
    (('mask', 'train'), ('image', 'train'), None)
    """
    plain = re.sub(r"[\W_]+", "", unicodedata.normalize("NFC", name).casefold())
    if not KNOWN.fullmatch(plain):
        return None
    words = re.findall("|".join(WORDS), plain)
    splits = {SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES}
    role = "mask" if set(words) & set(MASKS) else "image" if set(words) & set(IMAGES) else ""
    if len(splits) > 1 or (not role and set(words) <= SHORT):
        return None  # trainval
    return role, next(iter(splits), "")
