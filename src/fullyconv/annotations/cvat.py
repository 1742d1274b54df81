"""CVAT for images: one XML document with polygons, boxes, ellipses and masks."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from fullyconv.annotations.documents import FIX, read_text
from fullyconv.annotations.runs import row_runs
from fullyconv.annotations.shapes import Annotations, Bitmap, Drawing, Outline, Region, Shape, ellipse, turn
from fullyconv.files import BadFile

LINES = ("polyline", "points", "skeleton", "cuboid", "tag")
COLOUR = re.compile(r"#([0-9a-fA-F]{2})([0-9a-fA-F]{2})([0-9a-fA-F]{2})")


def is_cvat(text: str) -> bool:
    """Return whether an XML document is CVAT's."""
    return "<annotations" in text[:2000] and "<image" in text


def read_cvat(paths: Sequence[Path]) -> Annotations:
    """Read documents of shapes: what has a higher ``z_order`` lies on top, then what comes later.

    Raises:
        BadFile: For a document that is broken.
    """
    left_out: Counter[str] = Counter()
    names: dict[str, None] = {}
    colours: dict[str, tuple[int, int, int]] = {}
    drawings = []
    for path in paths:
        root = _parse(path)
        for label in root.iter("label"):
            name, said = (label.findtext("name") or "").strip(), COLOUR.fullmatch(label.findtext("color") or "")
            if name and label.findtext("parent") is None:
                names[name] = None
                if said:
                    colours[name] = (int(said[1], 16), int(said[2], 16), int(said[3], 16))
        drawings += [_drawing(path, image, left_out) for image in root.iter("image")]
    used = {region.label: None for drawing in drawings for region in drawing.regions}
    return Annotations("CVAT", tuple(names | used), tuple(drawings), colours, dict(left_out))


def _parse(path: Path) -> ElementTree.Element:
    text = read_text(path)
    if "<!DOCTYPE" in text or "<!ENTITY" in text:  # entities unfold to gigabytes; CVAT writes none
        raise BadFile(path, "XML with definitions of its own", FIX)
    try:
        return ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError) as error:
        raise BadFile(path, f"not usable ({error})", FIX) from None


def _drawing(path: Path, image: ElementTree.Element, left_out: Counter[str]) -> Drawing:
    name = image.get("name") or ""
    try:
        size = (int(image.get("height", "0")), int(image.get("width", "0")))
        found = []
        for element in image:
            if element.tag in LINES:
                left_out[f"shapes of type {element.tag}"] += 1
            elif element.get("label") is not None:
                found.append((int(element.get("z_order", "0")), Region(element.get("label", ""), _shape(element))))
    except (ValueError, KeyError) as error:
        raise BadFile(path, f"image {name[:80]!r}: {error}", FIX) from None
    regions = tuple(region for _, region in sorted(found, key=lambda each: each[0]))  # of one z-order as they come
    return Drawing(name, path, regions, size=size if all(size) else None, split=image.get("subset", ""))


def _shape(element: ElementTree.Element) -> Shape:
    if element.tag == "mask":
        left, top, width, height = (int(element.attrib[key]) for key in ("left", "top", "width", "height"))
        counts = [int(word) for word in element.attrib["rle"].split(",")]
        return Bitmap(partial(row_runs, counts, height, width), (top, left, height, width))
    turned = _number(element, "rotation", "0")
    if element.tag == "polygon":
        return Outline([_points(element.attrib["points"])])
    if element.tag == "box":
        x0, y0, x1, y1 = (_number(element, key) for key in ("xtl", "ytl", "xbr", "ybr"))
        corners = np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])
        return turn(corners, ((x0 + x1) / 2, (y0 + y1) / 2), turned)
    if element.tag == "ellipse":
        x, y, across, down = (_number(element, key) for key in ("cx", "cy", "rx", "ry"))
        return ellipse((x, y), (across, down), turned)
    raise ValueError(f"a shape of type {element.tag[:40]!r}")


def _number(element: ElementTree.Element, key: str, default: str | None = None) -> float:
    return float(element.attrib[key] if default is None else element.get(key, default))


def _points(text: str) -> np.ndarray:
    points = [tuple(map(float, pair.split(","))) for pair in text.split(";")]
    if any(len(point) != 2 for point in points):
        raise ValueError(f"points {text[:40]!r}")
    return np.array(points, np.float64)
