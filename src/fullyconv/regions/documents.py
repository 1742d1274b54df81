"""Polygons in the formats of maps and annotation tools: GeoJSON, COCO, YOLO, LabelMe."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from fullyconv.data.place import Place
from fullyconv.regions.filling import fill
from fullyconv.regions.tracing import Polygon
from fullyconv.types import ClassSet

Size = tuple[int, int]
"""Height and width of a picture."""


def geojson(
    polygons: Iterable[Polygon], classes: ClassSet, place: Place | None = None, picture: str = ""
) -> dict[str, Any]:
    """Describe polygons as a GeoJSON FeatureCollection.

    Coordinates are those of ``place``, in its reference system, which is named as GDAL and QGIS read it; without one,
    pixels from the picture's upper left corner. Outlines run counterclockwise and holes clockwise (RFC 7946).

    Args:
        polygons: What ``trace`` found.
        classes: What their labels mean.
        place: Where the picture lies.
        picture: Its path, from where the document lies; kept beside the features, as are the names of all classes, so
            that ``data convert`` draws the same masks of it.

    >>> from fullyconv.regions import trace
    >>> found = geojson(trace(np.zeros((1, 2), int)), ClassSet(("road",)))
    >>> found["features"][0]["properties"], found["features"][0]["geometry"]["coordinates"]
    ({'class': 'road', 'value': 0, 'pixels': 2}, [[[0, 0], [2, 0], [2, 1], [0, 1], [0, 0]]])
    """
    return collection(classes, place, picture) | {"features": [feature(each, classes, place) for each in polygons]}


def collection(classes: ClassSet, place: Place | None, picture: str = "") -> dict[str, Any]:
    """Return all of a GeoJSON FeatureCollection but its features; see ``geojson``."""
    document: dict[str, Any] = {"type": "FeatureCollection", "classes": list(classes.names)}
    if picture:
        document["picture"] = picture
    if place is not None and place.epsg is not None:
        name = f"urn:ogc:def:crs:EPSG::{place.epsg}" if place.epsg != 4326 else "urn:ogc:def:crs:OGC:1.3:CRS84"
        document["crs"] = {"type": "name", "properties": {"name": name}}
    return document


def feature(polygon: Polygon, classes: ClassSet, place: Place | None = None) -> dict[str, Any]:
    """Return one GeoJSON Feature; see ``geojson``."""
    label = polygon.label
    properties = {"class": classes.names[label], "value": classes.values[label], "pixels": polygon.pixels}
    rings = [
        _closed(ring if place is None else place.at(ring), hole=index > 0) for index, ring in enumerate(polygon.rings)
    ]
    return {"type": "Feature", "properties": properties, "geometry": {"type": "Polygon", "coordinates": rings}}


def _closed(ring: np.ndarray, *, hole: bool) -> list[list[float]]:
    """Turn a ring the way the standard wants it, lowest corner first, and repeat its first corner."""
    x, y = ring[:, 0].astype(np.float64), ring[:, 1].astype(np.float64)
    area = float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum())
    turned = ring[::-1] if (area < 0) != hole else ring
    first = int(np.lexsort((turned[:, 0], turned[:, 1]))[0])
    turned = np.roll(turned, -first, 0)
    closed: list[list[float]] = np.concatenate([turned, turned[:1]]).tolist()
    return closed


def one_ring(polygon: Polygon) -> np.ndarray:
    """Join holes to the outline by cuts that are walked along twice: for formats whose polygons have no holes.

    Filled by any rule, the ring covers what the polygon covers. A cut runs from a hole's left edge to the left.

    Args:
        polygon: What ``trace`` found, or a simpler form of it.

    Returns:
        K x 2 corners.

    >>> from fullyconv.regions import trace
    >>> frame = trace(np.array([[0, 0, 0], [0, 1, 0], [0, 0, 0]]))[0]
    >>> one_ring(frame).tolist()
    [[3, 0], [3, 3], [0, 3], [0, 1], [1, 1], [1, 2], [2, 2], [2, 1], [1, 1], [0, 1], [0, 0]]
    """
    ring, *holes = polygon.rings
    for hole in sorted(holes, key=lambda each: (each[:, 0].min(), each[:, 1].min())):
        first = int(np.lexsort((hole[:, 1], hole[:, 0]))[0])  # leftmost, then topmost
        hole = np.roll(hole, -first, 0)
        x, y = hole[0]
        after = np.roll(ring, -1, 0)
        low, high = np.minimum(ring[:, 1], after[:, 1]), np.maximum(ring[:, 1], after[:, 1])
        crossed = np.flatnonzero((low <= y) & (y < high))
        share = (y - ring[crossed, 1]) / (after[crossed, 1] - ring[crossed, 1])
        place = ring[crossed, 0] + share * (after[crossed, 0] - ring[crossed, 0])
        place = np.where(place <= x, place, -np.inf)
        if not len(crossed) or np.isneginf(place.max()):
            continue  # a hole that simplifying has moved out of its outline
        nearest = int(place.argmax())
        cut = np.array([[place[nearest], y]], ring.dtype)
        at = int(crossed[nearest]) + 1
        ring = np.concatenate([ring[:at], cut, hole, hole[:1], cut, ring[at:]])
    return ring


def yolo(polygons: Iterable[Polygon], size: Size) -> str:
    """Describe polygons as the lines of a YOLO file: the class, then x and y as shares of width and height.

    Args:
        polygons: What ``trace`` found; large ones come first, so that what lies in them is painted over them.
        size: Of the picture.

    >>> from fullyconv.regions import trace
    >>> print(yolo(trace(np.zeros((1, 2), int)), (1, 2)), end="")
    0 1 0 1 1 0 1 0 0
    """
    height, width = size
    lines = []
    for each in _large_first(polygons):
        shares = one_ring(each) / np.array([width, height])
        lines.append(" ".join([str(each.label), *(f"{share:.8g}" for share in shares.ravel())]) + "\n")
    return "".join(lines)


def yolo_classes(classes: ClassSet) -> dict[str, Any]:
    """Return what ``data.yaml`` says of the classes."""
    return {"names": dict(enumerate(classes.names)), "nc": len(classes)}


def labelme(polygons: Iterable[Polygon], classes: ClassSet, size: Size, image: str) -> dict[str, Any]:
    """Describe polygons as a LabelMe document.

    Args:
        polygons: What ``trace`` found; large ones come first.
        classes: What their labels mean.
        size: Of the picture.
        image: The picture's path, from where the document lies.
    """
    shapes = [
        {
            "label": classes.names[each.label],
            "points": one_ring(each).astype(float).tolist(),
            "group_id": None,
            "description": "",
            "shape_type": "polygon",
            "flags": {},
        }
        for each in _large_first(polygons)
    ]
    return {
        "version": "5.5.0",
        "flags": {},
        "shapes": shapes,
        "imagePath": image,
        "imageData": None,
        "imageHeight": size[0],
        "imageWidth": size[1],
    }


def _large_first(polygons: Iterable[Polygon]) -> list[Polygon]:
    """Sort by the area inside the outline, so that what lies in a hole comes after what lies around it."""
    return sorted(polygons, key=lambda each: -abs(ring_area(each.rings[0])))


def ring_area(ring: np.ndarray) -> float:
    """Return the signed area inside a ring: positive where it runs clockwise on the screen."""
    x, y = ring[:, 0].astype(np.float64), ring[:, 1].astype(np.float64)
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2)


class Coco:
    """A COCO document of many pictures; those that have no polygons are in it, too.

    Polygons with holes are run lengths (COCO's polygons have none); both are exact.

    >>> from fullyconv.regions import trace
    >>> coco = Coco(ClassSet(("road",)))
    >>> coco.add("a.jpg", (1, 2), trace(np.zeros((1, 2), int)))
    >>> coco.document()["annotations"][0]["segmentation"]
    [[2, 0, 2, 1, 0, 1, 0, 0]]
    """

    def __init__(self, classes: ClassSet) -> None:
        self._classes = classes
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []

    def add(self, image: str, size: Size, polygons: Sequence[Polygon]) -> None:
        """Add a picture with its polygons."""
        number = len(self._images) + 1
        self._images.append({"id": number, "file_name": image, "height": size[0], "width": size[1]})
        for each in polygons:
            left, top, right, bottom = each.box
            flat = [each.rings[0].ravel().tolist()]
            self._annotations.append(
                {
                    "id": len(self._annotations) + 1,
                    "image_id": number,
                    "category_id": each.label + 1,
                    "segmentation": run_lengths(each, size) if len(each.rings) > 1 else flat,
                    "area": each.pixels,
                    "bbox": [left, top, right - left, bottom - top],
                    "iscrowd": 0,
                }
            )

    def document(self) -> Mapping[str, Any]:
        """Return the whole."""
        categories = [
            {"id": index + 1, "name": name, "supercategory": ""} for index, name in enumerate(self._classes.names)
        ]
        return {"images": self._images, "annotations": self._annotations, "categories": categories}


def run_lengths(polygon: Polygon, size: Size) -> dict[str, Any]:
    """Describe the pixels of a polygon, as it was traced or simplified, as COCO's runs: down columns, outside first.

    >>> from fullyconv.regions import trace
    >>> run_lengths(trace(np.array([[1, 0], [0, 0]]))[1], (2, 2))
    {'counts': [1, 3], 'size': [2, 2]}
    """
    inside = fill(polygon.rings, size).T.ravel()
    changes = np.flatnonzero(np.diff(inside)) + 1
    ends = np.concatenate([[0] if not inside[0] else [0, 0], changes, [inside.size]])
    return {"counts": np.diff(ends).tolist(), "size": list(size)}
