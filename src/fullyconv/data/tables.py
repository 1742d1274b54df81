"""Classes as other tools write them down: a table of names, with colours or values, beside the masks."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path

from fullyconv.data.masks import RawMask
from fullyconv.files import BadFile, parse_json
from fullyconv.limits import LIMITS
from fullyconv.types import ClassSet

Entry = tuple[str, tuple[int, ...]]
"""A name, with a colour or a value."""

UNSCORED = ("void", "ignore", "unlabeled", "unlabelled", "__ignore__", "_ignore_")  # what pixels that do not count are
FIX = "correct it, or delete it and name the classes in classes.yaml"


def read_table(root: Path, look: Callable[[], RawMask]) -> ClassSet | None:
    """Read the classes from the table in a data set's folder.

    Args:
        root: The folder.
        look: Returns one of its masks: that tells whether masks hold colours or the numbers of lines.

    Returns:
        The classes, those called void or ignore as pixels that are not scored; ``None`` without a table.

    Raises:
        BadFile: For a table that is broken.
    """
    for name, read in READERS.items():
        for path in (root / name, *sorted(root.glob(f"*/{name}")), root.parent / name):
            if path.is_file() and (entries := read(path)):
                try:
                    return _class_set(entries, look)
                except ValueError as error:
                    if isinstance(error, BadFile):
                        raise
                    raise BadFile(path, f"not usable ({error})", FIX) from None
    return None


def _class_set(entries: list[Entry], look: Callable[[], RawMask]) -> ClassSet:
    colours = len(entries[0][1]) == 3
    raw = look() if colours else None
    by_colour = raw is not None and (raw.values.ndim == 3 or raw.palette is not None)
    scored = [place for place, (name, _) in enumerate(entries) if name.casefold() not in UNSCORED]
    others = [place for place in range(len(entries)) if place not in scored]
    values = [place if colours else said[0] for place, (_, said) in enumerate(entries)]
    void = [values[place] for place in others]
    free = next(value for value in (255, 65_535) if value not in values)
    painted = [(said[0], said[1], said[2]) for _, said in entries] if colours else []
    return ClassSet(
        names=tuple(entries[place][0] for place in scored),
        colours=tuple(painted[place] for place in scored) if colours else (),
        values=tuple(range(len(scored))) if by_colour else tuple(values[place] for place in scored),
        ignore_index=free if by_colour or not void else void[0],
        also_ignored=() if by_colour else tuple(void[1:]),
        colour_masks=by_colour,
        ignore_colours=tuple(painted[place] for place in others) if by_colour else (),
    )


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > LIMITS.text_bytes:
            raise BadFile(path, f"more than {LIMITS.text_bytes} bytes of text", LIMITS.remedy("text_bytes"))
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError:
        raise BadFile(path, "not UTF-8 text", "save it as UTF-8") from None
    except OSError as error:
        raise BadFile(path, f"unreadable ({error.strerror})", "check its permissions") from None


def _class_dict(path: Path) -> list[Entry]:
    """Read ``name,r,g,b`` lines; the header says which column is which."""
    rows = [[word.strip() for word in row] for row in csv.reader(io.StringIO(_read(path))) if any(row)]
    columns = {word.lower(): place for place, word in enumerate(rows[0])} if rows else {}
    if not {"name", "r", "g", "b"} <= columns.keys():
        return []
    try:
        return [(row[columns["name"]], tuple(_byte(row[columns[key]]) for key in "rgb")) for row in rows[1:]]
    except (ValueError, IndexError) as error:
        raise BadFile(path, f"not usable ({error})", FIX) from None


def _roboflow(path: Path) -> list[Entry]:
    """Read the lines ``0, background`` of Roboflow's semantic masks, below ``Pixel Value, Class``."""
    rows = [[word.strip() for word in row] for row in csv.reader(io.StringIO(_read(path))) if any(row)]
    if not rows or [word.lower() for word in rows[0]] != ["pixel value", "class"]:
        return []  # the file of the same name for labels of whole pictures
    try:
        return [(row[1], (int(row[0]),)) for row in rows[1:]]
    except (ValueError, IndexError) as error:
        raise BadFile(path, f"not usable ({error})", FIX) from None


def _labelmap(path: Path) -> list[Entry]:
    """Read CVAT's ``label:color_rgb:parts:actions`` lines."""
    lines = [line.split(":") for line in _read(path).splitlines() if line.strip() and not line.startswith("#")]
    try:
        entries = [(words[0].strip(), tuple(map(_byte, words[1].split(",")))) for words in lines if words[1].strip()]
    except (ValueError, IndexError) as error:
        raise BadFile(path, f"not usable ({error})", FIX) from None
    return entries if all(len(colour) == 3 for _, colour in entries) else []


def _dataset_json(path: Path) -> list[Entry]:
    """Read nnU-Net's labels, ``{"cell": 1}`` or of its first version ``{"1": "cell"}``."""
    try:
        document = parse_json(_read(path))
    except (ValueError, RecursionError) as error:
        if isinstance(error, BadFile):
            raise
        return []
    labels = document.get("labels") if isinstance(document, dict) else None
    if not isinstance(labels, dict):
        return []
    if all(isinstance(value, int) for value in labels.values()):
        return [(str(name), (value,)) for name, value in sorted(labels.items(), key=lambda each: each[1])]
    if all(key.isdecimal() and isinstance(name, str) for key, name in labels.items()):
        return [(name, (int(key),)) for key, name in sorted(labels.items(), key=lambda each: int(each[0]))]
    return []  # regions made of several labels


def _byte(word: str) -> int:
    value = int(word)
    if not 0 <= value <= 255:
        raise ValueError(f"{value} is no part of a colour")
    return value


READERS: dict[str, Callable[[Path], list[Entry]]] = {
    "class_dict.csv": _class_dict,
    "labelmap.txt": _labelmap,
    "_classes.csv": _roboflow,
    "dataset.json": _dataset_json,
}
