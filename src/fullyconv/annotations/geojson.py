"""GeoJSON: a collection of features for each picture, in pixels or where the picture lies; also QuPath's and QGIS'."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from fullyconv.annotations.documents import Part, at_place, read_document
from fullyconv.annotations.pictures import Pictures
from fullyconv.annotations.shapes import Annotations, Drawing, Outline, Region, Shape, Together
from fullyconv.data.place import Place, read_place

NAMES = ("class", "label", "name", "classification", "category")  # of the property that holds a feature's class
WGS84 = 4326
CODE = re.compile(r"EPSG:.*?(\d+)$", re.IGNORECASE)
FIX = "save it in pixels, or in the reference system of its picture"

Ring = list[list[float]]  # of points


class _Polygon(Part):
    type: Literal["Polygon"]
    coordinates: list[Ring]


class _MultiPolygon(Part):
    type: Literal["MultiPolygon"]
    coordinates: list[list[Ring]]


class _Other(Part):
    type: Literal["Point", "MultiPoint", "LineString", "MultiLineString", "GeometryCollection"]


class _Feature(Part):
    geometry: Annotated[_Polygon | _MultiPolygon | _Other, Field(discriminator="type")] | None = None
    properties: dict[str, Any] | None = None


class _Named(Part):
    name: str


class _System(Part):
    properties: _Named


class _Collection(Part):
    features: list[_Feature]
    crs: _System | None = None
    picture: str = ""  # ours, as LabelMe's imagePath
    classes: tuple[str, ...] = ()  # ours: all there are, in their order


def is_geojson(document: dict[str, object]) -> bool:
    """Return whether a JSON document is a collection of features."""
    return document.get("type") == "FeatureCollection"


def read_geojson(paths: Sequence[Path], pictures: Pictures) -> Annotations:
    """Read a document for each picture, which is called as it is, or named in it.

    Of a picture that lies somewhere, coordinates are those of its reference system; of others, pixels. Classes are in
    the order that the documents say, those of which they say none by their ``value`` and name.

    Args:
        paths: The documents.
        pictures: Among which they find theirs.

    Raises:
        BadFile: For a document that is broken, is of no picture, or has other coordinates than its picture.
    """
    left_out: Counter[str] = Counter()
    names: dict[str, None] = {}
    values: dict[str, float] = {}
    drawings = []
    for path in paths:
        document = read_document(path, _Collection)
        name = document.picture or path.stem
        place = read_place(pictures.find(name, path).path)
        with at_place(path, "coordinates", FIX):
            _check_system(document, place)
        regions = []
        for number, feature in enumerate(document.features):
            with at_place(path, f"feature {number}"):
                region = _region(feature, place)
            if region is None:
                left_out[f"features of type {feature.geometry.type if feature.geometry else 'null'}"] += 1
                continue
            regions.append(region)
            value = (feature.properties or {}).get("value")
            values.setdefault(region.label, value if isinstance(value, int) else np.inf)
        names |= dict.fromkeys(document.classes)
        drawings.append(Drawing(name, path, tuple(regions)))
    names |= dict.fromkeys(sorted(values, key=lambda name: (values[name], name)))
    return Annotations("GeoJSON", tuple(names), tuple(drawings), {}, dict(left_out))


def _check_system(document: _Collection, place: Place | None) -> None:
    """Refuse coordinates of another reference system; without one they are WGS 84's, says RFC 7946, but in pixels."""
    named = "" if document.crs is None else document.crs.properties.name
    code = WGS84 if named.endswith("CRS84") else int(found[1]) if (found := CODE.search(named)) else None
    if named and place is None:
        raise ValueError(f"in {named}, and its picture lies nowhere")
    if place is not None and place.epsg not in (None, code or WGS84):
        raise ValueError(f"in {named or 'WGS 84, as nothing else is said'}, and its picture in EPSG:{place.epsg}")


def _region(feature: _Feature, place: Place | None) -> Region | None:
    if feature.geometry is None or isinstance(feature.geometry, _Other):
        return None
    geometry = feature.geometry
    listed = geometry.coordinates if isinstance(geometry, _MultiPolygon) else [geometry.coordinates]
    parts = [_outline(rings, place) for rings in listed]
    if not parts:
        return None
    shape: Shape = parts[0] if len(parts) == 1 else Together(parts)
    return Region(_class(feature.properties or {}), shape)


def _outline(rings: list[Ring], place: Place | None) -> Outline:
    """Bring rings, whose points may have a height, to pixels."""
    if not rings or any(len(point) < 2 for ring in rings for point in ring):
        raise ValueError("a polygon without rings, or a point of fewer than two numbers")
    points = [np.array([point[:2] for point in ring], np.float64).reshape(-1, 2) for ring in rings]
    return Outline(points if place is None else [place.pixels(ring) for ring in points])


def _class(properties: dict[str, Any]) -> str:
    for key in NAMES:
        found = properties.get(key)
        found = found.get("name") if isinstance(found, dict) else found
        if isinstance(found, str | int) and str(found):
            return str(found)
    raise ValueError(f"no class among its properties ({', '.join(NAMES)})")
