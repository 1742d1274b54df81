"""PASCAL-Context: every pixel of VOC2010's pictures labelled; the task of 59 classes and the rest."""

from __future__ import annotations

from pathlib import Path

from fullyconv.data.pairs import Folder, Places, Storage, compare_counts, pair_listed, read_list
from fullyconv.facts import CONTEXT
from fullyconv.files import BadFile

RENAMED = {"diningtable": "table", "bedcloth": "bedclothes", "clothes": "cloth"}
"""Classes of the task that the data set's own list spells otherwise."""

REST = 0  # the class of every label outside the task: an ordinary one, trained and scored
PICTURES = (".", "VOC2010", "VOCdevkit/VOC2010", "../VOC2010", "../VOCdevkit/VOC2010", "../voc2010/VOCdevkit/VOC2010")


def is_context(root: Path) -> bool:
    """Return whether a folder holds PASCAL-Context's ``trainval/*.mat`` and ``labels.txt``."""
    return (root / "labels.txt").is_file() and any((root / "trainval").glob("*.mat"))


def open_context(root: Path, voc: Path | None = None) -> Folder:
    """Open PASCAL-Context: masks ``trainval/ID.mat``, pictures and ``ImageSets/Main`` lists of VOC2010.

    ``voc`` is ``VOCdevkit/VOC2010``, looked for in and beside ``root`` by default. Raises ``BadFile`` if it
    is not there, or if ``labels.txt`` lacks a class of the task.
    """
    voc = voc or next((root / place for place in PICTURES if (root / place / "JPEGImages").is_dir()), None)
    if voc is None:
        raise BadFile(
            root, "PASCAL-Context without its pictures", "unpack VOC2010 into it or beside it (VOCdevkit/VOC2010)"
        )
    folder = Folder(root, classes=CONTEXT.classes, preprocess=CONTEXT.preprocess)
    files = {split: voc / "ImageSets" / "Main" / f"{split}.txt" for split in ("train", "val")}
    lists = {split: read_list(file) for split, file in files.items() if file.is_file()}
    storage = Storage("LabelMap", task_labels(root / "labels.txt"))
    pair_listed(folder, Places(voc / "JPEGImages", root / "trainval", storage), lists)
    compare_counts(folder, CONTEXT.counts)
    return folder


def task_labels(file: Path) -> tuple[int, ...]:
    """Read ``labels.txt`` ("ID: NAME" lines) into the class of every raw label, found by name.

    Raw label 0 and labels outside the task are class ``REST``.
    """
    numbers = _numbers(file)
    wanted = {RENAMED.get(name, name): index for index, name in enumerate(CONTEXT.classes.names) if index != REST}
    missing = [name for name in wanted if name not in numbers]
    if missing:
        raise BadFile(file, f"lacks {', '.join(missing)}", "restore the data set's own list of 459 labels")
    labels = [REST] * (max(numbers.values()) + 1)
    for name, index in wanted.items():
        labels[numbers[name]] = index
    return tuple(labels)


def _numbers(file: Path) -> dict[str, int]:
    """Read the raw label of each name; spaces in names do not count."""
    numbers = {}
    try:
        for line in file.read_text().splitlines():
            number, colon, name = line.partition(":")
            if colon:
                numbers["".join(name.split())] = int(number)
    except (OSError, ValueError) as error:
        raise BadFile(file, f"not a list of labels ({error})", "write lines of the form '2: aeroplane'") from None
    if any(not 0 < number <= 65_535 for number in numbers.values()):
        raise BadFile(file, "label numbers outside 1..65535", "restore the data set's own list")
    return numbers
