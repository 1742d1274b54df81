"""A GeoPackage holds the polygons of the GeoJSON, as GDAL reads them, in the picture's reference system."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fullyconv import ClassSet
from fullyconv.data.place import Place
from fullyconv.files import BadFile
from fullyconv.regions import trace
from fullyconv.regions.documents import geojson
from fullyconv.regions.geopackage import geopackage

CLASSES = ClassSet(("a", "b", "c"), values=(3, 5, 9))
PLACES = {
    "none": None,
    "metres": Place((2.0, 0.0, 500_000.0, 0.0, -2.0, 4_600_000.0), epsg=32633),
    "degrees": Place((0.01, 0.0, 12.5, 0.0, -0.01, 48.0), epsg=4326, degrees=True),
    "unnamed": Place((0.01, 0.001, 12.5, 0.001, -0.01, 48.0), degrees=True),
}
SYSTEMS = {
    "none": "Undefined Cartesian",
    "metres": "EPSG:32633",
    "degrees": "EPSG:4326",
    "unnamed": "Undefined geographic",
}


def rings_of(binary: bytes) -> list[list[list[float]]]:
    """What well-known binary says of a polygon."""
    order, kind, count = struct.unpack_from("<BII", binary)
    assert (order, kind) == (1, 3)
    place, rings = 9, []
    for _ in range(count):
        (length,) = struct.unpack_from("<I", binary, place)
        rings.append(np.frombuffer(binary, "<f8", 2 * length, place + 4).reshape(-1, 2).tolist())
        place += 4 + 16 * length
    assert place == len(binary)
    return rings


@pytest.mark.parametrize("kind", PLACES)
def test_gdal_reads_the_polygons_of_the_geojson(tmp_path: Path, kind: str) -> None:
    raw = pytest.importorskip("pyogrio.raw")
    labels = np.random.default_rng(0).integers(0, 3, (30, 40))
    labels[5:25, 5:25] = 1
    labels[10:20, 10:20] = 2  # in a hole
    polygons, place = trace(labels), PLACES[kind]
    with geopackage(tmp_path / "x.gpkg", CLASSES, place) as add:
        for each in polygons:
            add(each)
    about, _, shapes, columns = raw.read(tmp_path / "x.gpkg")
    found: list[Any] = [
        {"geometry": rings_of(shape), "properties": dict(zip(about["fields"].tolist(), values, strict=True))}
        for shape, *values in zip(shapes, *(column.tolist() for column in columns), strict=True)
    ]
    expected = [
        {"geometry": each["geometry"]["coordinates"], "properties": each["properties"]}
        for each in geojson(polygons, CLASSES, place)["features"]
    ]
    assert found == expected
    assert about["geometry_type"] == "Polygon"
    assert SYSTEMS[kind] in about["crs"]


def test_a_system_that_nobody_knows(tmp_path: Path) -> None:
    pytest.importorskip("rasterio")
    with (
        pytest.raises(BadFile, match=r"x\.gpkg: EPSG:99999 is no reference system that is known: leave out"),
        geopackage(tmp_path / "x.gpkg", CLASSES, Place((1.0, 0.0, 0.0, 0.0, -1.0, 0.0), epsg=99999)),
    ):
        pass
    assert not list(tmp_path.iterdir())


def test_no_polygons_and_a_death(tmp_path: Path) -> None:
    raw = pytest.importorskip("pyogrio.raw")
    with geopackage(tmp_path / "x.gpkg", CLASSES, None):
        pass
    assert len(raw.read(tmp_path / "x.gpkg")[2]) == 0
    before = (tmp_path / "x.gpkg").read_bytes()
    with pytest.raises(AttributeError), geopackage(tmp_path / "x.gpkg", CLASSES, None) as add:
        add(None)  # type: ignore[arg-type]
    assert [file.name for file in tmp_path.iterdir()] == ["x.gpkg"]
    assert (tmp_path / "x.gpkg").read_bytes() == before
