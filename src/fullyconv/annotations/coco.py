"""COCO: one JSON document for many pictures, with polygons or runs; also Roboflow's ``_annotations.coco.json``."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BeforeValidator

from fullyconv.annotations.documents import FIX, Part, at_place, read_document, said_split
from fullyconv.annotations.runs import column_runs, packed_counts
from fullyconv.annotations.shapes import (
    Annotations,
    Bitmap,
    Drawing,
    Outline,
    Region,
    Shape,
    Together,
    rectangle,
    ring_of,
)
from fullyconv.files import BadFile
from fullyconv.types import MOST_CLASSES

Id = int | str


class _Picture(Part):
    id: Id
    file_name: str
    width: int | None = None
    height: int | None = None


class _Category(Part):
    id: int
    name: str
    supercategory: str | None = None


class _Runs(Part):
    size: tuple[int, int]  # height, width
    counts: str | list[int]


def _listed(value: Any) -> Any:
    """Let one polygon stand for a list of one."""
    return [value] if isinstance(value, list) and value and not isinstance(value[0], list) else value


Rings = Annotated[list[list[float]], BeforeValidator(_listed)]


class _Annotation(Part):
    image_id: Id
    category_id: int
    segmentation: _Runs | Rings | None = None
    bbox: list[float] | None = None


class _Coco(Part):
    images: list[_Picture]
    annotations: list[_Annotation]
    categories: list[_Category]


def is_coco(document: dict[str, object]) -> bool:
    """Return whether a JSON document is COCO's."""
    return {"images", "annotations", "categories"} <= document.keys()


def read_coco(paths: Sequence[Path], *, boxes: bool = False) -> Annotations:
    """Read documents of outlines.

    Args:
        paths: The documents; where some are called ``instances``, as COCO's are, the others (captions, keypoints) are
            passed over.
        boxes: Draw the boxes of things without an outline.

    Raises:
        BadFile: For a document that is broken.
    """
    instances = [path for path in paths if "instances" in path.stem.lower()]
    drawings: list[Drawing] = []
    left_out: Counter[str] = Counter()
    categories: dict[str, _Category] = {}
    used: set[str] = set()
    for path in instances or paths:
        document = read_document(path, _Coco)
        for category in sorted(document.categories, key=lambda each: each.id):
            categories.setdefault(category.name, category)
        found = _drawings(path, document, left_out, boxes=boxes)
        used.update(region.label for drawing in found for region in drawing.regions)
        drawings += found
    names = tuple(name for name in categories if name in used or not _is_heading(name, categories))
    return Annotations("COCO", names[:MOST_CLASSES], tuple(drawings), {}, dict(left_out))


def _is_heading(name: str, categories: dict[str, _Category]) -> bool:
    """Return whether a category is Roboflow's heading over the others, which nothing belongs to."""
    return categories[name].id == 0 and any(each.supercategory == name for each in categories.values())


def _drawings(path: Path, document: _Coco, left_out: Counter[str], *, boxes: bool) -> list[Drawing]:
    names: dict[int, str] = {}
    for category in document.categories:
        if names.setdefault(category.id, category.name) != category.name:
            raise BadFile(path, f"category {category.id} has two names: {names[category.id]!r}, {category.name!r}", FIX)
    regions: dict[Id, list[Region]] = defaultdict(list)
    pictures = {picture.id: picture for picture in document.images}
    for number, annotation in enumerate(document.annotations):
        if annotation.category_id not in names or annotation.image_id not in pictures:
            what = f"annotation {number} is of a category or a picture that it does not list"
            raise BadFile(path, what, FIX)
        with at_place(path, f"annotation {number}"):
            shape = _shape(annotation, boxes=boxes)
        if shape is None:
            left_out["boxes"] += 1
        else:
            regions[annotation.image_id].append(Region(names[annotation.category_id], shape))
    split = said_split(path.stem)
    return [
        Drawing(
            picture.file_name,
            path,
            tuple(regions[picture.id]),
            size=(picture.height, picture.width) if picture.height and picture.width else None,
            split=split,
        )
        for picture in document.images
    ]


def _shape(annotation: _Annotation, *, boxes: bool) -> Shape | None:
    found = annotation.segmentation
    if isinstance(found, _Runs):
        return Bitmap(partial(_unfold, found), (0, 0, *found.size), of=found.size)
    if found:
        parts = [Outline([ring_of(ring)]) for ring in found]
        return parts[0] if len(parts) == 1 else Together(parts)
    if annotation.bbox is None or not boxes:
        return None
    if len(annotation.bbox) != 4:
        raise ValueError(f"a box of {len(annotation.bbox)} numbers")
    x, y, width, height = annotation.bbox
    return rectangle(x, y, x + width, y + height)


def _unfold(runs: _Runs) -> np.ndarray:
    counts = packed_counts(runs.counts) if isinstance(runs.counts, str) else runs.counts
    return column_runs(counts, *runs.size)
