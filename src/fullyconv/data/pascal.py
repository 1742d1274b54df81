"""PASCAL VOC 2007 to 2012, and SBDD's masks for many more of its pictures."""

from __future__ import annotations

import re
from pathlib import Path

from fullyconv.data.pairs import Folder, Listing, Places, Storage, compare_counts, pair_listed, read_list
from fullyconv.facts import SBDD, SEG11VALID, SEG11VALID_COUNT, VOC, VOC_COUNTS
from fullyconv.files import BadFile, counted, whole_file

SBDD_MASKS = Storage(variable="GTcls.Segmentation")
NUMBERED = re.compile(r"(20\d\d_)?\d{6}")  # 000032 in 2007, 2007_000027 from 2008 on


def is_voc(root: Path) -> bool:
    """Return whether a folder is a year of PASCAL VOC: ``VOCdevkit/VOC20xx``, or by its pictures' names.

    Other data sets in VOC's layout keep classes of their own.
    """
    if not (root / "JPEGImages").is_dir() or not re.match(r"VOC20(0[7-9]|1[0-2])", root.name):
        return False
    return root.resolve().parent.name == "VOCdevkit" or _numbered(root)


def _numbered(root: Path) -> bool:
    stems = [stem for file in (root / "ImageSets" / "Segmentation").glob("*.txt") for stem in read_list(file).stems]
    return bool(stems) and all(NUMBERED.fullmatch(stem) for stem in stems)


def open_voc(root: Path) -> Folder:
    """Open ``VOCdevkit/VOC20xx``: a split for every list in ``ImageSets/Segmentation``, 255 is void.

    A list none of whose pictures has a public mask (``test`` from 2008 on) is left out with a note.
    """
    folder = Folder(root, classes=VOC.classes, preprocess=VOC.preprocess)
    lists, secret = {}, []
    for file in sorted((root / "ImageSets" / "Segmentation").glob("*.txt")):
        listing = read_list(file)
        if any((root / "SegmentationClass" / f"{stem}.png").is_file() for stem in listing.stems):
            lists[file.stem] = listing
        else:
            secret.append(f"{file.stem} ({counted(len(listing.stems), 'picture')})")
    if secret:
        folder.say(f"left out, because their masks are not here: {', '.join(secret)}")
    if not _numbered(root):
        folder.say("the pictures are not named as VOC's: write a classes.yaml if the classes are not VOC's 21 either")
    pair_voc(folder, lists)
    compare_counts(folder, VOC_COUNTS.get(root.name[: len("VOC20xx")], {}))
    return folder


def pair_voc(folder: Folder, lists: dict[str, Listing]) -> None:
    """Pair what lists of VOC's layout name; ``SegmentationClassAug`` holds the masks of lists such as ``trainaug``.

    Where it is there, ``trainaug`` is what is trained on: SBDD's masks for VOC's pictures are many more than its own.
    """
    images, augmented = folder.root / "JPEGImages", folder.root / "SegmentationClassAug"
    more = {split: listing for split, listing in lists.items() if "aug" in split and augmented.is_dir()}
    usual = {split: listing for split, listing in lists.items() if split not in more}
    pair_listed(folder, Places(images, folder.root / "SegmentationClass"), usual)
    if not more:
        return
    pair_listed(folder, Places(images, augmented), more)
    if folder.splits.get("trainaug"):
        folder.splits["train"] = folder.splits["trainaug"]
        folder.say(f"train is trainaug: {len(folder.splits['train'])} pairs with masks of {augmented.name}")


def is_sbdd(root: Path) -> bool:
    """Return whether a folder is SBDD's ``benchmark_RELEASE/dataset``."""
    return (root / "img").is_dir() and (root / "cls").is_dir()


def open_sbdd(root: Path) -> Folder:
    """Open SBDD: ``img/*.jpg``, ``cls/*.mat`` and ``train.txt``, ``val.txt``; VOC's classes, no void band."""
    folder = Folder(root, classes=VOC.classes, preprocess=VOC.preprocess)
    lists = {split: read_list(root / f"{split}.txt") for split in ("train", "val") if (root / f"{split}.txt").is_file()}
    pair_listed(folder, Places(root / "img", root / "cls", SBDD_MASKS), lists)
    compare_counts(folder, SBDD.counts)
    return folder


def seg11valid(voc: Path, sbdd: Path) -> tuple[str, ...]:
    """Compute the pictures that the papers score on: VOC2011's ``val`` without those in SBDD's ``train``, sorted.

    There should be ``SEG11VALID_COUNT``.

    Args:
        voc: ``VOCdevkit/VOC2011``.
        sbdd: ``benchmark_RELEASE/dataset``.

    Raises:
        BadFile: Where a list is missing.
    """
    val, trained = _list(voc / "ImageSets" / "Segmentation" / "val.txt"), _list(sbdd / "train.txt")
    return tuple(sorted(set(val.stems) - set(trained.stems)))


def open_pascal(voc: Path, sbdd: Path) -> Folder:
    """Open what the papers train and score on: SBDD's ``train`` (8,498), and seg11valid as ``val``.

    ``voc`` is ``VOCdevkit/VOC2011``, ``sbdd`` is ``benchmark_RELEASE/dataset``. Another count than 736 is
    said in ``note``.
    """
    trained, judged = open_sbdd(sbdd), Folder(voc, classes=VOC.classes, preprocess=VOC.preprocess)
    listing = Listing(voc / "ImageSets" / "Segmentation" / "val.txt", seg11valid(voc, sbdd))
    pair_listed(judged, Places(voc / "JPEGImages", voc / "SegmentationClass"), {"val": listing})
    judged.splits["train"] = trained.splits.get("train", [])
    judged.problems += trained.problems
    compare_counts(judged, {"train": SBDD.counts["train"]})
    judged.say(count_note(len(listing.stems)))
    return judged


def count_note(count: int) -> str:
    """Say how many pictures seg11valid has here, if they are not the papers'."""
    if count == SEG11VALID_COUNT:
        return ""
    return f"{SEG11VALID} has {count} pictures here, the papers' has {SEG11VALID_COUNT}: scores are not comparable"


def seg11valid_file(voc: Path) -> Path:
    """Return where the list of seg11valid belongs."""
    return voc / "ImageSets" / "Segmentation" / f"{SEG11VALID}.txt"


def write_seg11valid(voc: Path, sbdd: Path) -> Path:
    """Write the list where VOC's other lists are, so that it is a split like them."""
    stems, target = seg11valid(voc, sbdd), seg11valid_file(voc)
    with whole_file(target) as draft:
        draft.write_text("".join(f"{stem}\n" for stem in stems))
    return target


def _list(file: Path) -> Listing:
    if not file.is_file():
        raise BadFile(file, "no such list", "name the folders VOCdevkit/VOC2011 and benchmark_RELEASE/dataset")
    return read_list(file)
