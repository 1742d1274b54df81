"""SIFT Flow: 2,688 outdoor pictures, each labelled twice, by what it shows and by how it lies.

Cow, desert and moon never occur in ``test``: they are predicted over, but not averaged over (``mean_iu_present``).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

from fullyconv.data.images import SUFFIXES
from fullyconv.data.pairs import Folder, Listing, OtherMask, Places, Storage, compare_counts, pair_listed, read_list
from fullyconv.facts import SIFTFLOW_GEOMETRIC, SIFTFLOW_SEMANTIC
from fullyconv.files import BadFile
from fullyconv.types import VOID

Target = Literal["semantic", "geometric"]

SUBFOLDER = "spatial_envelope_256x256_static_8outdoorcategories"
UNANNOTATED = ("highway_bost181", "street_urb506")

FOLDERS: dict[Target, str] = {"semantic": "SemanticLabels", "geometric": "GeoLabels"}
FACTS = {"semantic": SIFTFLOW_SEMANTIC, "geometric": SIFTFLOW_GEOMETRIC}
STORED = {
    "semantic": Storage("S", (VOID, *range(len(SIFTFLOW_SEMANTIC.classes)))),  # 0 void, 1..33
    "geometric": Storage("S", (VOID, VOID, *range(len(SIFTFLOW_GEOMETRIC.classes))), first=-1),  # -1 and 0 void, 1..3
}


def is_siftflow(root: Path) -> bool:
    """Return whether a folder is SIFT Flow, or one of its two folders of labels."""
    base = _base(root)
    return (base / "Images").is_dir() and any((base / name).is_dir() for name in FOLDERS.values())


def open_siftflow(root: Path, target: Target | None = None) -> Folder:
    """Open SIFT Flow for one of its targets; ``train`` is the papers' trainval (2,486), ``test`` has 200.

    Without ``target`` the folder says it (``…/GeoLabels``), else it is ``semantic``. The splits come from
    ``trainval.txt`` and ``test.txt`` where they are, else from ``TestSet1.txt`` and what it leaves; both
    targets give the same pictures in the same order.
    """
    if target is None:
        target = next((name for name, folder in FOLDERS.items() if folder == root.name), "semantic")
    if target not in FOLDERS:
        raise ValueError(f"unknown target {target!r}: choose one of {', '.join(FOLDERS)}")
    base = _base(root)
    folder = Folder(base, classes=FACTS[target].classes, preprocess=FACTS[target].preprocess)
    places = Places(_deepest(base / "Images"), _deepest(base / FOLDERS[target]), STORED[target])
    pair_listed(folder, places, _lists(base, places.images))
    compare_counts(folder, FACTS[target].counts)
    return folder


def open_both(root: Path) -> Folder:
    """Open SIFT Flow for both tasks at once: semantic pairs, each with its geometric mask as a further one."""
    folder, geometric = open_siftflow(root, "semantic"), open_siftflow(root, "geometric")
    classes = SIFTFLOW_GEOMETRIC.classes
    targets = {
        (split, pair.image): OtherMask("geometric", pair.mask, pair.storage, classes)
        for split, pairs in geometric.splits.items()
        for pair in pairs
    }
    for split, pairs in folder.splits.items():
        folder.splits[split] = [
            replace(pair, further=(targets[split, pair.image],)) for pair in pairs if (split, pair.image) in targets
        ]
    folder.heads = {"geometric": classes}
    folder.problems += [each for each in geometric.problems if each not in folder.problems]
    return folder


def _base(root: Path) -> Path:
    return root.parent if root.name in FOLDERS.values() else root


def _deepest(place: Path) -> Path:
    return place / SUBFOLDER if (place / SUBFOLDER).is_dir() else place


def _lists(base: Path, images: Path) -> dict[str, Listing]:
    test = _first_list(base, "test.txt", "TestSet1.txt")
    if test is None:
        raise BadFile(base, "no list of test pictures", "add TestSet1.txt, or trainval.txt and test.txt")
    train = _first_list(base, "trainval.txt", "train.txt")
    if train is None:
        stems = {picture.stem for picture in images.iterdir() if picture.suffix.lower() in SUFFIXES}
        train = Listing(test.file, tuple(sorted(stems - set(test.stems) - set(UNANNOTATED))))
    return {"train": train, "test": test}


def _first_list(base: Path, *names: str) -> Listing | None:
    return next((read_list(base / name) for name in names if (base / name).is_file()), None)
