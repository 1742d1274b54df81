"""Pictures without masks that can be read: what lies there instead, and what to do about it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from fullyconv.data.layout import look
from fullyconv.data.unread import HEAD, SCENES, UNREAD, tell_kind
from fullyconv.files import BadFile, counted
from fullyconv.limits import LIMITS

PNG = "save the masks as PNG, whose numbers (or colours) are the classes"
NUMBERS = (*UNREAD, ".gz", *SCENES)  # what masks come in and is not read
LARGE = 1 << 16  # bytes of a large document that are looked at
LOOKED_AT = 3  # documents of each kind of file
BOXES, VIA = "boxes of VOC (XML), which are no areas", "outlines of VIA (VGG Image Annotator), which are not read"
OUTLINES = {BOXES: "draw outlines or masks in a tool for them", VIA: "export them from VIA as COCO, and convert that"}


def unpaired(root: Path) -> BadFile | None:
    """Say what lies in a folder in which nothing pairs: masks of another format, outlines, or pictures alone.

    Args:
        root: The folder.

    Returns:
        One sentence, ``None`` if there are no pictures.
    """
    found, others = look(root), [other.path for other in look(root, NUMBERS)]
    if others:
        suffix, count = Counter(path.suffix.lower() for path in others).most_common(1)[0]
        first = next(path for path in others if path.suffix.lower() == suffix)
        return _unread(first, f"no image with a mask, but {count} {suffix} files", masks=bool(found))
    if not found and next(_documents(root), ("", BOXES))[1] in OUTLINES:
        return None
    for path, kind in _documents(root):
        if kind in OUTLINES:
            return BadFile(path, f"no image with a mask, but {kind}", OUTLINES[kind])
        fix = f"draw masks with 'fullyconv data convert {root} --out {root}-plain' and take that folder"
        return BadFile(path, f"no image with a mask, but outlines of {kind}, which are not masks", fix)
    masks = [each for each in found if each.role == "mask"]
    if len(masks) == len(found):
        return BadFile(
            masks[0].path.parent, f"{counted(len(masks), 'mask')} and no image", "put the images into images/ beside it"
        )
    what = f"{counted(len(found) - len(masks), 'image')} and no mask that pairs, such as {found[0].path.name}"
    fix = "put masks of the same names into masks/ beside the images' folder, or choose mask_suffix"
    return BadFile(root, what, fix)


def _unread(first: Path, what: str, *, masks: bool) -> BadFile:
    """Say what files are that are not read, by the first: the masks of pictures that are, or the pictures too."""
    with first.open("rb") as file:
        told = tell_kind(first, file.read(HEAD))
    if masks or told is None:
        return BadFile(first, f"{what}, which are not read as masks", PNG)
    return BadFile(first, f"{what}, and this is {told[0]}", told[1])


def _documents(root: Path) -> Iterator[tuple[Path, str]]:
    """Find outlines: COCO's and LabelMe's JSON, Label Studio's and VIA's, YOLO's text, XML of CVAT or VOC, GeoJSON."""
    for path in [each.path for each in look(root, (".json",))][:LOOKED_AT]:
        if path.stat().st_size <= LIMITS.text_bytes:
            yield from ((path, kind) for kind in _kind(path.read_bytes()))
        else:
            yield from ((path, kind) for kind in _kind_of_large(path))
    for path in [each.path for each in look(root, (".txt",))][:LOOKED_AT]:
        if path.stat().st_size <= LIMITS.text_bytes and _is_yolo(path.read_bytes()):
            yield path, "YOLO"
    for path in [each.path for each in look(root, (".xml",))][:LOOKED_AT]:
        with path.open("rb") as file:
            yield path, "CVAT (XML)" if b"<annotations" in file.read(4096) else BOXES
    yield from ((each.path, "GeoJSON") for each in look(root, (".geojson",)))


def _kind(data: bytes) -> Iterator[str]:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return
    if isinstance(document, dict) and {"images", "annotations"} <= document.keys():
        yield "COCO"
    elif isinstance(document, dict) and "shapes" in document:
        yield "LabelMe"
    elif isinstance(document, list) and document and isinstance(document[0], dict):
        if {"data", "annotations"} <= document[0].keys() or "annotation_id" in document[0]:
            yield "Label Studio"
    elif isinstance(document, dict) and ("_via_img_metadata" in document or _is_via(document)):
        yield VIA


def _kind_of_large(path: Path) -> Iterator[str]:
    """Tell from its beginning what a document is: one of many pictures, or one that holds the picture itself."""
    with path.open("rb") as file:
        head = file.read(LARGE)
    for key, kind in (
        (b'"shapes"', "LabelMe"),
        (b'"imageData"', "LabelMe"),
        (b'"annotations"', "COCO"),
        (b'"images"', "COCO"),
    ):
        if key in head:
            yield kind
            return


def _is_via(document: dict[str, object]) -> bool:
    return bool(document) and all(isinstance(each, dict) and "regions" in each for each in document.values())


def _is_yolo(data: bytes) -> bool:
    """Return whether lines are a class and coordinates from 0 to 1."""
    try:
        words = data.decode("utf-8").split("\n", 1)[0].split()
        numbers = [float(word) for word in words[1:]]
    except ValueError:
        return False
    return len(numbers) >= 4 and words[0].isdecimal() and all(0 <= number <= 1 for number in numbers)
