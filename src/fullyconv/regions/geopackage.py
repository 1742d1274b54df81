"""Polygons in a GeoPackage (OGC 12-128r18): a database of SQLite, which GDAL and QGIS read, with a reference system."""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np

from fullyconv.data.place import Place
from fullyconv.files import BadFile, whole_file
from fullyconv.regions.documents import feature
from fullyconv.regions.tracing import Polygon
from fullyconv.types import ClassSet

TABLE = "regions"
CARTESIAN, GEOGRAPHIC, WGS84 = -1, 0, 4326  # what the standard calls systems that nobody names, and the one it demands
POLYGON, LITTLE, WITH_BOX = 3, 1, 0b11  # codes of well-known binary and of its header: little-endian, with an envelope
WGS84_WORDS = (
    'GEOGCS["WGS 84",DATUM["WGS_1984",SPHEROID["WGS 84",6378137,298.257223563,AUTHORITY["EPSG","7030"]],'
    'AUTHORITY["EPSG","6326"]],PRIMEM["Greenwich",0,AUTHORITY["EPSG","8901"]],'
    'UNIT["degree",0.0174532925199433,AUTHORITY["EPSG","9122"]],AUTHORITY["EPSG","4326"]]'
)
TABLES = f"""
PRAGMA application_id = 0x47504B47;
PRAGMA user_version = 10300;
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
CREATE TABLE gpkg_spatial_ref_sys (
    srs_name TEXT NOT NULL, srs_id INTEGER PRIMARY KEY, organization TEXT NOT NULL,
    organization_coordsys_id INTEGER NOT NULL, definition TEXT NOT NULL, description TEXT);
CREATE TABLE gpkg_contents (
    table_name TEXT NOT NULL PRIMARY KEY, data_type TEXT NOT NULL, identifier TEXT UNIQUE, description TEXT DEFAULT '',
    last_change DATETIME NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ','now')), min_x DOUBLE, min_y DOUBLE,
    max_x DOUBLE, max_y DOUBLE, srs_id INTEGER, FOREIGN KEY (srs_id) REFERENCES gpkg_spatial_ref_sys(srs_id));
CREATE TABLE gpkg_geometry_columns (
    table_name TEXT NOT NULL UNIQUE, column_name TEXT NOT NULL, geometry_type_name TEXT NOT NULL,
    srs_id INTEGER NOT NULL, z TINYINT NOT NULL, m TINYINT NOT NULL, PRIMARY KEY (table_name, column_name),
    FOREIGN KEY (table_name) REFERENCES gpkg_contents(table_name),
    FOREIGN KEY (srs_id) REFERENCES gpkg_spatial_ref_sys (srs_id));
CREATE TABLE {TABLE} (
    fid INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, geom POLYGON, class TEXT, value INTEGER, pixels INTEGER);
"""


@contextmanager
def geopackage(path: Path, classes: ClassSet, place: Place | None) -> Iterator[Callable[[Polygon], None]]:
    """Write polygons one by one; the file appears whole when the block ends.

    Coordinates and properties are those of ``fullyconv.regions.documents.geojson``.

    Args:
        path: The file.
        classes: What labels mean.
        place: Where the picture lies, with the reference system.

    Yields:
        What takes a polygon.

    Raises:
        BadFile: Where the reference system cannot be described: it is unknown, or rasterio is missing.

    >>> import tempfile
    >>> from fullyconv.regions import trace
    >>> file = Path(tempfile.mkdtemp(), "x.gpkg")
    >>> with geopackage(file, ClassSet(("road",)), None) as add:
    ...     for each in trace(np.zeros((1, 2), int)):
    ...         add(each)
    >>> with closing(sqlite3.connect(file)) as database:
    ...     print(database.execute("SELECT class, value, pixels FROM regions").fetchall())
    [('road', 0, 2)]
    """
    system = _system(path, place)
    with whole_file(path) as draft, closing(sqlite3.connect(draft)) as database:
        database.executescript(TABLES)
        database.executemany("INSERT INTO gpkg_spatial_ref_sys VALUES (?, ?, ?, ?, ?, NULL)", _systems(system))
        number = system[1]
        box = np.array([np.inf, np.inf, -np.inf, -np.inf])

        def add(polygon: Polygon) -> None:
            document = feature(polygon, classes, place)
            rings = [np.asarray(ring, np.float64) for ring in document["geometry"]["coordinates"]]
            least, most = rings[0].min(0), rings[0].max(0)
            box[:2], box[2:] = np.minimum(box[:2], least), np.maximum(box[2:], most)
            row = (_binary(rings, number, (least[0], most[0], least[1], most[1])), *document["properties"].values())
            database.execute(f"INSERT INTO {TABLE} (geom, class, value, pixels) VALUES (?, ?, ?, ?)", row)

        yield add
        bounds = box.tolist() if np.isfinite(box).all() else [None] * 4
        database.execute(
            "INSERT INTO gpkg_contents (table_name, data_type, identifier, min_x, min_y, max_x, max_y, srs_id)"
            " VALUES (?, 'features', ?, ?, ?, ?, ?, ?)",
            (TABLE, TABLE, *bounds, number),
        )
        row = TABLE, "geom", "POLYGON", number, 0, 0
        database.execute("INSERT INTO gpkg_geometry_columns VALUES (?, ?, ?, ?, ?, ?)", row)
        database.commit()


System = tuple[str, int, str, int, str]
"""Name, number, who gave it, the number there, and its description."""


def _systems(own: System) -> list[System]:
    """List the reference systems that a file must describe, and its own."""
    demanded: list[System] = [
        ("Undefined Cartesian", CARTESIAN, "NONE", CARTESIAN, "undefined"),
        ("Undefined geographic", GEOGRAPHIC, "NONE", GEOGRAPHIC, "undefined"),
        ("WGS 84", WGS84, "EPSG", WGS84, WGS84_WORDS),
    ]
    return [*(each for each in demanded if each[1] != own[1]), own]


def _system(path: Path, place: Place | None) -> System:
    if place is None or (place.epsg is None and not place.degrees):
        return "Undefined Cartesian", CARTESIAN, "NONE", CARTESIAN, "undefined"
    if place.epsg is None:
        return "Undefined geographic", GEOGRAPHIC, "NONE", GEOGRAPHIC, "undefined"
    if place.epsg == WGS84:
        return "WGS 84", WGS84, "EPSG", WGS84, WGS84_WORDS
    try:
        from rasterio.crs import CRS
        from rasterio.errors import CRSError
    except ModuleNotFoundError:
        fix = "pip install 'fullyconv[hsi]', or leave out --polygons-to gpkg"
        raise BadFile(path, f"rasterio is missing, which describes {place.crs}", fix) from None
    try:
        words = str(CRS.from_epsg(place.epsg).to_wkt())
    except CRSError:
        fix = "leave out --polygons-to gpkg, or correct the picture's reference system"
        raise BadFile(path, f"{place.crs} is no reference system that is known", fix) from None
    return place.crs or "", place.epsg, "EPSG", place.epsg, words


def _binary(rings: list[np.ndarray], system: int, box: tuple[float, float, float, float]) -> bytes:
    """Write a polygon as the standard's binary: a header with its bounds, and well-known binary."""
    parts = [b"GP", struct.pack("<BBi4d", 0, WITH_BOX, system, *box), struct.pack("<BII", LITTLE, POLYGON, len(rings))]
    for ring in rings:
        parts += [struct.pack("<I", len(ring)), ring.astype("<f8").tobytes()]
    return b"".join(parts)
