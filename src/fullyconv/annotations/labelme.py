"""LabelMe: a JSON document beside each picture."""

from __future__ import annotations

from base64 import b64decode
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from fullyconv.annotations.documents import Part, at_place, read_document, read_text
from fullyconv.annotations.runs import png_pixels
from fullyconv.annotations.shapes import Annotations, Bitmap, Drawing, Outline, Region, ellipse, rectangle

LABELS = "labels.txt"


class _Shape(Part):
    label: str
    points: list[tuple[float, float]]
    shape_type: str | None = "polygon"
    mask: str | None = None


class _LabelMe(Part):
    shapes: list[_Shape]
    imagePath: str | None = None  # noqa: N815, LabelMe's own name
    imageHeight: int | None = None  # noqa: N815
    imageWidth: int | None = None  # noqa: N815
    imageData: str | None = None  # noqa: N815


def is_labelme(document: dict[str, object]) -> bool:
    """Return whether a JSON document is LabelMe's."""
    return "shapes" in document and ("imagePath" in document or "imageData" in document)


def read_labelme(paths: Sequence[Path]) -> Annotations:
    """Read documents of shapes; classes are in the order of ``labels.txt`` beside them, else in that of their names.

    Raises:
        BadFile: For a document that is broken.
    """
    left_out: Counter[str] = Counter()
    drawings = tuple(_drawing(path, left_out) for path in paths)
    used = sorted({region.label for drawing in drawings for region in drawing.regions})
    return Annotations("LabelMe", _listed(paths, used), drawings, {}, dict(left_out))


def _listed(paths: Sequence[Path], used: Sequence[str]) -> tuple[str, ...]:
    """Return the names of ``labels.txt``, which LabelMe's converters take, too, if all that are used are among them."""
    for folder in dict.fromkeys(path.parent for path in paths):
        if (file := folder / LABELS).is_file():
            names = tuple(dict.fromkeys(line.strip() for line in read_text(file).splitlines() if line.strip()))
            if set(used) <= set(names):
                return names
    return tuple(used)


def _drawing(path: Path, left_out: Counter[str]) -> Drawing:
    document = read_document(path, _LabelMe)
    regions = []
    for number, shape in enumerate(document.shapes):
        with at_place(path, f"shape {number}"):
            outline = _outline(shape)
        if outline is None:
            left_out[f"shapes of type {shape.shape_type}"] += 1
        else:
            regions.append(Region(shape.label, outline))
    size = (document.imageHeight, document.imageWidth)
    stated = (size[0], size[1]) if size[0] and size[1] else None
    embedded = partial(_embedded, path) if document.imageData else None
    return Drawing(document.imagePath or path.stem, path, tuple(regions), size=stated, embedded=embedded)


def _embedded(path: Path) -> bytes:
    """Return the picture's file that a document holds; it is read again, for all together may not fit."""
    with at_place(path, "imageData"):
        return b64decode(read_document(path, _LabelMe).imageData or "", validate=True)


def _outline(shape: _Shape) -> Outline | Bitmap | None:
    points, kind = np.array(shape.points, np.float64).reshape(-1, 2), shape.shape_type or "polygon"
    if kind == "polygon":
        return Outline([points])
    if kind in ("rectangle", "circle", "mask") and len(points) != 2:
        raise ValueError(f"a {kind} of {len(points)} points")
    if kind == "rectangle":
        return rectangle(*points.min(0), *points.max(0))
    if kind == "mask" and shape.mask is not None:  # of its AI tools; the points are the corners of its box
        pixels = png_pixels(shape.mask)
        left, top = points[0].round().astype(int).tolist()
        return Bitmap(partial(np.array, pixels), (top, left, *pixels.shape))
    if kind == "circle":
        radius = float(np.hypot(*(points[1] - points[0])))
        return ellipse((points[0, 0], points[0, 1]), (radius, radius))
    return None
