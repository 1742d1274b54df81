"""NYUDv2: 1,449 indoor pictures with depth, 40 classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from fullyconv.data.depth import NYUD_CAMERA, Intrinsics, hha
from fullyconv.data.images import read_image, read_raster
from fullyconv.data.mat import read_mat
from fullyconv.data.pairs import Folder, Listing, Pair, Places, Storage, compare_counts, pair_listed, read_list
from fullyconv.draw import save_picture
from fullyconv.facts import NYUD, NYUD_HHA, Facts
from fullyconv.files import BadFile
from fullyconv.types import VOID

Stream = Literal["colour", "hha", "colour-d", "colour-hha"]
"""What a network sees: one picture, or colour with the logarithm of depth or with HHA behind it."""

FOLDERS: dict[Stream, str] = {"colour": "images", "hha": "hha"}
BESIDE: dict[Stream, str] = {"colour-d": "depth", "colour-hha": "hha"}
ARCHIVE = ("data/colorImage", "data/benchmarkData/groundTruth", "data/benchmarkData/metadata/classMapping40.mat")
"""Where the published archive has pictures, their labels of 894 kinds, and the class of each kind."""

ARCHIVE_SPLITS = "data/benchmarkData/metadata/nyusplits.mat"  # variables train, val, test of ids

STORED = Storage("segmentation", (VOID, *range(len(NYUD.classes))))  # 0 void, 1..40
FACTS: dict[Stream, Facts] = {"colour": NYUD, "hha": NYUD_HHA}
MILLIMETRES = 1000.0  # a depth picture's unit in a metre


def is_nyud(root: Path) -> bool:
    """Return whether a folder is NYUDv2: as the papers have it (below), or as its archive unpacks (``ARCHIVE``)."""
    base = _base(root)
    papers = (base / "data" / "images").is_dir() and (base / "segmentation").is_dir()
    return papers or all((base / place).exists() for place in ARCHIVE)


def open_nyud(root: Path, stream: Stream | None = None) -> Folder:
    """Open NYUDv2's colour pictures or its HHA pictures: ``train`` 381, ``val`` 414, ``test`` 654, by lists of ids.

    Pictures are ``data/images/img_ID.png`` and ``data/hha/img_ID.png``, labels ``segmentation/img_ID.mat``, the
    lists ``train.txt``, ``val.txt``, ``test.txt`` (or the archive's ``nyusplits.mat``). Without ``stream`` the
    folder says it (``data/hha``), else it is ``colour``. All streams give the same pictures in the same order.
    The papers train on ``train`` and ``val`` together.
    """
    if stream in BESIDE:
        return _open_beside(root, BESIDE[stream])
    if stream is None:
        stream = "hha" if root.name == FOLDERS["hha"] else "colour"
    if stream not in FOLDERS:
        raise ValueError(f"unknown stream {stream!r}: choose one of {', '.join([*FOLDERS, *BESIDE])}")
    base = _base(root)
    folder = Folder(base, classes=NYUD.classes, preprocess=FACTS[stream].preprocess)
    lists = _lists(base)
    places = Places(base / "data" / FOLDERS[stream], base / "segmentation", STORED)
    if stream == "colour" and not places.masks.is_dir():
        places = _unpacked(base)
    pair_listed(folder, places, lists)
    compare_counts(folder, NYUD.counts if "val" in lists else {**NYUD.counts, "train": NYUD.counts["trainval"]})
    return folder


def _open_beside(root: Path, place: str) -> Folder:
    """Open the colour pictures with those of another folder behind them; what lacks one is a problem."""
    folder = open_nyud(root, "colour")
    for split, pairs in folder.splits.items():
        made = [replace(pair, beside=(pair.image.parents[1] / place / f"{pair.image.stem}.png",)) for pair in pairs]
        folder.splits[split] = [pair for pair in made if pair.beside[0].is_file()]
        folder.problems += [
            BadFile(pair.beside[0], "no such file", "make HHA pictures with fullyconv data hha, or add the depth's")
            for pair in made
            if not pair.beside[0].is_file()
        ]
    return folder


def with_beside(colour: np.ndarray, pair: Pair) -> np.ndarray:
    """Put the pictures beside a pair's image behind its channels: the logarithm of a depth picture, HHA as it is.

    Args:
        colour: H x W x 3 uint8.
        pair: Says which.

    Returns:
        H x W x K, uint8 or, with depth, float32.

    Raises:
        BadFile: For files that cannot be used, or sizes that differ.
    """
    parts = [colour]
    for path in pair.beside:
        raster = read_raster(path)
        deep = raster.kind == "grey" and raster.bits > 8
        more = read_depth(path) if deep else read_image(path)
        if more.shape[:2] != colour.shape[:2]:
            wide, own = (f"{each.shape[1]} x {each.shape[0]}" for each in (more, colour))
            raise BadFile(path, f"it is {wide}, its picture {own}", "save both at one size")
        try:
            parts.append(log_depth(more) if deep else more)
        except ValueError as error:
            raise BadFile(path, str(error), "in-fill its depth, or leave the pair out") from None
    return np.dstack(parts)


def _unpacked(base: Path) -> Places:
    images, masks, mapping = (base / place for place in ARCHIVE)
    classes = read_mat(mapping, "mapClass").ravel()  # of raw labels 1, 2, …: 1..40, 0 void
    if not ((classes >= 0) & (classes <= len(NYUD.classes))).all():
        raise BadFile(mapping, f"classes outside 0..{len(NYUD.classes)}", "restore the published archive")
    table = (VOID, *(VOID if number == 0 else number - 1 for number in classes.tolist()))
    return Places(images, masks, Storage("groundTruth.1.SegmentationClass", table))


def depth_path(pair: Pair) -> Path:
    """Return the depth picture of a pair of either stream."""
    return pair.image.parents[1] / "depth" / pair.image.name


def read_depth(path: Path) -> np.ndarray:
    """Read a 16-bit depth picture, H x W float32 metres, 0 where there is none; raises ``BadFile``."""
    raster = read_raster(path)
    if raster.kind != "grey" or raster.values.dtype.kind not in "iu" or raster.bits <= 8:
        what = f"a depth picture of {raster.kind} {raster.values.dtype} numbers"
        raise BadFile(path, what, "save depth as 16-bit PNG in millimetres")
    return raster.values[..., 0].astype(np.float32) / np.float32(MILLIMETRES)


def log_depth(depth_m: np.ndarray) -> np.ndarray:
    """Take the natural logarithm of depth in millimetres, as the fourth channel of early fusion has it.

    H x W float32; a pixel without depth gets the picture's largest, which is what in-filled depth comes
    closest to (its logarithm would be minus infinity). Raises ``ValueError`` if no pixel has depth.
    """
    known = depth_m > 0
    if not known.any():
        raise ValueError("a depth picture without any depth")
    filled = np.where(known, depth_m, depth_m.max()) * np.float32(MILLIMETRES)
    return np.log(filled).astype(np.float32)


def read_colour_depth(pair: Pair) -> np.ndarray:
    """Read what early fusion sees, H x W x 4 float32: R, G, B (0..255) and the logarithm of depth in millimetres.

    ``pair`` is of the colour stream. Raises ``BadFile`` for files that cannot be used or sizes that differ.
    """
    return with_beside(read_image(pair.image), replace(pair, beside=(depth_path(pair),))).astype(np.float32, copy=False)


def write_hha(picture: np.ndarray, target: Path) -> Path:
    """Write an HHA picture as ``STEM.png``; returns its path."""
    file = target.with_name(target.name + ".png")
    save_picture(picture, file)
    return file


def depth_hha(depth: Path, camera: Intrinsics = NYUD_CAMERA) -> np.ndarray:
    """Return the HHA picture of a depth picture, H x W x 3 uint8: disparity, height, angle are its R, G, B.

    Raises ``BadFile`` for a file that is no depth picture, has no depth, or does not fit the camera.
    """
    depth_m = read_depth(depth)
    height, width = depth_m.shape
    if not (0 <= camera.cx < width and 0 <= camera.cy < height):
        what = f"{width} x {height} pixels, but the camera's centre is at ({camera.cx:g}, {camera.cy:g})"
        raise BadFile(depth, what, "give the camera of these pictures")
    try:
        return hha(depth_m, camera)
    except ValueError as error:
        raise BadFile(depth, str(error), "in-fill its depth, or remove it") from None


def _base(root: Path) -> Path:
    return root.parents[1] if root.parent.name == "data" and root.name in FOLDERS.values() else root


def _lists(base: Path) -> dict[str, Listing]:
    """Read the lists beside the data, or else the archive's own."""
    files = {split: base / f"{split}.txt" for split in NYUD.counts}
    lists = {split: _ids(file, read_list(file).stems) for split, file in files.items() if file.is_file()}
    archive = base / ARCHIVE_SPLITS
    if not lists and archive.is_file():
        numbers = {split: read_mat(archive, split).ravel().tolist() for split in ("train", "val", "test")}
        lists = {split: _ids(archive, [str(number) for number in ids]) for split, ids in numbers.items()}
    if not lists:
        raise BadFile(base, "no list of pictures", "add train.txt, val.txt and test.txt, one id a line")
    if "train" not in lists and "trainval" in lists:
        lists["train"] = lists.pop("trainval")  # what the papers train on
    return lists


def _ids(file: Path, ids: Sequence[str]) -> Listing:
    return Listing(file, tuple(name if name.startswith("img_") else f"img_{name}" for name in ids))
