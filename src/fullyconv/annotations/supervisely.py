"""Supervisely: a JSON document for each picture, ``ann/a.jpg.json`` for ``img/a.jpg``, and ``meta.json``."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from fullyconv.annotations.documents import Part, at_place, read_document
from fullyconv.annotations.runs import png_pixels
from fullyconv.annotations.shapes import Annotations, Bitmap, Drawing, Outline, Region, Shape, rectangle

META = "meta.json"
COLOUR = re.compile(r"#([0-9a-fA-F]{2})([0-9a-fA-F]{2})([0-9a-fA-F]{2})")


class _Points(Part):
    exterior: tuple[tuple[float, float], ...] = ()
    interior: tuple[list[tuple[float, float]], ...] = ()


class _Bitmap(Part):
    data: str
    origin: tuple[int, int]  # left, top


class _Object(Part):
    classTitle: str  # noqa: N815, Supervisely's own names
    geometryType: str = "polygon"  # noqa: N815
    points: _Points | None = None
    bitmap: _Bitmap | None = None


class _Size(Part):
    height: int
    width: int


class _Document(Part):
    size: _Size
    objects: list[_Object]


class _Class(Part):
    title: str
    color: str = ""


class _Meta(Part):
    classes: tuple[_Class, ...] = ()


def is_supervisely(document: dict[str, object]) -> bool:
    """Return whether a JSON document is Supervisely's of one picture."""
    return "objects" in document and isinstance(document.get("size"), dict)


def read_supervisely(root: Path, paths: Sequence[Path]) -> Annotations:
    """Read documents of objects; classes are those of ``meta.json``, in its order.

    Raises:
        BadFile: For a document that is broken.
    """
    left_out: Counter[str] = Counter()
    drawings = tuple(_drawing(path, left_out) for path in paths)
    names: dict[str, None] = {}
    colours = {}
    for place in (root / META, root.parent / META):
        for each in read_document(place, _Meta).classes if place.is_file() and not names else ():
            names[each.title] = None
            if said := COLOUR.fullmatch(each.color):
                colours[each.title] = (int(said[1], 16), int(said[2], 16), int(said[3], 16))
    used = {region.label: None for drawing in drawings for region in drawing.regions}
    return Annotations("Supervisely", tuple(names | used), drawings, colours, dict(left_out))


def _drawing(path: Path, left_out: Counter[str]) -> Drawing:
    document = read_document(path, _Document)
    regions = []
    for number, each in enumerate(document.objects):
        with at_place(path, f"object {number}"):
            shape = _shape(each)
        if shape is None:
            left_out[f"shapes of type {each.geometryType}"] += 1
        else:
            regions.append(Region(each.classTitle, shape))
    return Drawing(path.stem, path, tuple(regions), size=(document.size.height, document.size.width))


def _shape(thing: _Object) -> Shape | None:
    if thing.geometryType == "bitmap" and thing.bitmap is not None:
        pixels = png_pixels(thing.bitmap.data, packed=True)
        left, top = thing.bitmap.origin
        return Bitmap(partial(np.array, pixels), (top, left, *pixels.shape))
    if thing.points is None:
        return None
    exterior = np.array(thing.points.exterior, np.float64).reshape(-1, 2)
    if thing.geometryType == "rectangle":
        return rectangle(*exterior.min(0), *exterior.max(0))
    if thing.geometryType == "polygon":
        return Outline([exterior, *(np.array(ring, np.float64).reshape(-1, 2) for ring in thing.points.interior)])
    return None
