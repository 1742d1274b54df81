"""YOLO's outlines: a line of text for each thing, its class and the corners as shares of the picture's size."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from fullyconv.annotations.documents import at_place, read_text
from fullyconv.annotations.shapes import Annotations, Drawing, Outline, Region, rectangle
from fullyconv.data.images import SUFFIXES
from fullyconv.data.layout import look
from fullyconv.documents import read_yaml

FIX = "a line is a class and x y of each corner, from 0 to 1"
DESCRIPTIONS = ("data.yaml", "data.yml", "dataset.yaml", "*.yaml", "*.yml")
NAME_LISTS = ("classes.txt", "*/classes.txt", "obj.names", "*.names", "*/*.names", "_darknet.labels")  # a name a line
MOST_CLASSES = 10_000


def is_yolo(text: str) -> bool:
    """Return whether the first line is a class and coordinates from 0 to 1."""
    words = text.split("\n", 1)[0].split()
    try:
        numbers = [float(word) for word in words[1:]]
    except ValueError:
        return False
    return len(numbers) >= 4 and words[0].isdecimal() and all(0 <= number <= 1 for number in numbers)


def read_yolo(root: Path, pictures: Mapping[Path, Path | None], *, boxes: bool = False) -> Annotations:
    """Read the outlines of pictures; the names of classes are in ``data.yaml``, ``classes.txt`` or ``obj.names``.

    Args:
        root: The data set's folder.
        pictures: The files of lines of its pictures (``line_files``); one without such a file holds nothing.
        boxes: Draw things that are boxes (centre, width and height) as rectangles.

    Raises:
        BadFile: For a line that is none, or a class without a name.
    """
    names = _names(root)
    left_out: Counter[str] = Counter()
    drawings = []
    for picture, lines in pictures.items():
        if lines is not None:
            regions = _regions(lines, names, left_out, boxes=boxes)
            drawings.append(Drawing(str(picture), lines, regions))
        else:
            drawings.append(Drawing(str(picture), picture, ()))
    if not names:
        used = {region.label for drawing in drawings for region in drawing.regions}
        names = {number: f"class_{number}" for number in range(1 + max((int(each[6:]) for each in used), default=0))}
    ordered = tuple(name for _, name in sorted(names.items()))
    return Annotations("YOLO", ordered, tuple(drawings), {}, dict(left_out))


def line_files(root: Path, pictures: Sequence[Path]) -> dict[Path, Path | None]:
    """Find the file of lines of each picture: where it belongs; if none is there, the one below ``root`` of its name.

    So lines that ``predict`` wrote, or a tool exported, into a folder of their own are found.
    """
    usual = {picture: lines for picture in pictures if (lines := label_file(picture)).is_file()}
    if usual:
        return {picture: usual.get(picture) for picture in pictures}
    by_stem: dict[str, list[Path]] = defaultdict(list)
    for found in look(root, (".txt",)):
        by_stem[found.stem].append(found.path)
    named = Counter(picture.stem for picture in pictures)
    return {
        picture: by_stem[stem][0] if named[stem := picture.stem] == len(by_stem[stem]) == 1 else None
        for picture in pictures
    }


def label_file(picture: Path) -> Path:
    """Return where the lines of a picture belong: as it is called, in ``labels`` where it lies in ``images``.

    >>> label_file(Path("set/images/train/a.jpg")).as_posix()
    'set/labels/train/a.txt'
    """
    parts = list(picture.parts)
    for place in range(len(parts) - 2, -1, -1):
        if parts[place].lower() == "images":
            parts[place] = "labels"
            break
    return Path(*parts).with_suffix(".txt") if picture.suffix.lower() in SUFFIXES else picture


def _names(root: Path) -> dict[int, str]:
    """Read the names of classes from the first description or list that has some, in the folder or just below it."""
    for pattern in (*DESCRIPTIONS, *(f"*/{each}" for each in DESCRIPTIONS[:2])):
        for path in sorted(root.glob(pattern)):
            document = read_yaml(path, fix="correct it, or leave it out")
            names = document.get("names") if isinstance(document, dict) else None
            if isinstance(names, list):
                return {number: str(name) for number, name in enumerate(names)}
            if isinstance(names, dict) and all(key.isdecimal() and len(key) < 6 for key in names):
                return {int(key): str(name) for key, name in names.items()}
    for path in (path for pattern in NAME_LISTS for path in sorted(root.glob(pattern))):
        if any(lines := [line.strip() for line in read_text(path).splitlines()]):
            return {number: name for number, name in enumerate(lines) if name}
    return {}


def _regions(path: Path, names: Mapping[int, str], left_out: Counter[str], *, boxes: bool) -> tuple[Region, ...]:
    regions = []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        label, *words = line.split()
        with at_place(path, f"line {number}", FIX):
            values = np.array([float(word) for word in words])
            kind = int(label)
            if not 0 <= kind < MOST_CLASSES or (names and kind not in names):
                raise ValueError(f"class {label}, which has no name")
            outline = _outline(values, boxes=boxes)
        if outline is None:
            left_out["boxes"] += 1
        else:
            regions.append(Region(names.get(kind, f"class_{kind}"), outline))
    return tuple(regions)


def _outline(values: np.ndarray, *, boxes: bool) -> Outline | None:
    if len(values) != 4 and (len(values) < 6 or len(values) % 2):
        raise ValueError(f"{len(values)} coordinates")
    if not ((values > -0.5) & (values < 1.5)).all():  # tools write a little beyond the border
        raise ValueError(f"coordinate {values[~((values > -0.5) & (values < 1.5))][0]:g}")
    if len(values) > 4:
        return Outline([values.reshape(-1, 2)], relative=True)
    x, y, width, height = values.tolist()
    box = rectangle(x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    return replace(box, relative=True) if boxes else None
