"""GeoTIFF files (rasterio); uncompressed ones are mapped."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from fullyconv.files import BadFile
from fullyconv.hsi.formats.contents import NUMBERS, Contents, Stored, check_bytes, nanometres, needs, unreadable
from fullyconv.hsi.formats.mapped import row_blocks
from fullyconv.hsi.scene import Georeference, Scene

CLASS_NAMES = "class_names"  # a tag: JSON, the names of the values 1, 2, …


@contextmanager
def quiet_rasterio() -> Iterator[None]:
    """Read and write scenes without a georeference in silence."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def georeference_of(path: Path) -> Georeference | None:
    """Read where a raster lies; none if it does not say, or nothing here can tell."""
    try:
        import rasterio
    except ImportError:
        return None
    try:
        with quiet_rasterio(), rasterio.open(path) as raster:
            return _georeference(raster)
    except rasterio.errors.RasterioError:
        return None


def _georeference(raster: Any) -> Georeference | None:
    if raster.crs is None or raster.transform.is_identity:
        return None
    a, b, c, d, e, f = raster.transform[:6]
    return Georeference(raster.crs.to_wkt(), (a, b, c, d, e, f))


def read_geotiff(path: Path) -> Contents:
    """List the one image of a GeoTIFF file, H x W x bands; raises ``BadFile``."""
    rasterio = needs("rasterio", to="read GeoTIFF files")
    try:
        with quiet_rasterio(), rasterio.open(path, driver="GTiff") as raster:
            kinds = set(raster.dtypes)
            if len(kinds) != 1 or np.dtype(kinds.pop()).kind not in NUMBERS:
                raise BadFile(path, f"bands of types {', '.join(raster.dtypes)}", "save real numbers of one type")
            shape = (raster.height, raster.width, raster.count)
            tags = [(raster.tags(band), raster.tags(band, ns="IMAGERY")) for band in raster.indexes]
            wavelengths = [_wavelength(*found) for found in tags]
            names = json.loads(raster.tags().get(CLASS_NAMES, "[]"))
            place = _georeference(raster)
    except (rasterio.errors.RasterioError, ValueError) as error:
        if isinstance(error, BadFile):
            raise
        raise unreadable(path, error) from None
    return Contents(
        path,
        (Stored(path.stem, shape, lambda: _pixels(path)),),
        tuple(value for value in wavelengths if value is not None),
        tuple(band for band, (own, _) in enumerate(tags) if own.get("bad_band") == "1"),
        tuple(map(str, names)),
        place,
    )


def _wavelength(own: Mapping[str, str], imagery: Mapping[str, str]) -> float | None:
    """Read a band's wavelength from the tags that GDAL writes for ENVI's and for newer files."""
    known = {key.lower(): value for key, value in own.items()}
    if "wavelength" in known:
        return nanometres([float(known["wavelength"])], known.get("wavelength_units", ""))[0]
    if "CENTRAL_WAVELENGTH_UM" in imagery:
        return nanometres([float(imagery["CENTRAL_WAVELENGTH_UM"])], "um")[0]
    return None


def _pixels(path: Path) -> np.ndarray:
    """Return H x W x bands, mapped where they lie in the file in one piece."""
    with quiet_rasterio(), needs("rasterio", to="read GeoTIFF files").open(path, driver="GTiff") as raster:
        mapped = _mapped(path, raster)
        if mapped is not None:
            return mapped
        check_bytes(path, path.stem, (raster.count, *raster.shape), np.dtype(raster.dtypes[0]).itemsize)
        cube: np.ndarray = raster.read().transpose(1, 2, 0)  # B x H x W -> H x W x B
    return cube


def _mapped(path: Path, raster: Any) -> np.ndarray | None:
    """Map an uncompressed image whose strips follow one another; none for others."""
    height, width, bands = raster.height, raster.width, raster.count
    rows, columns = raster.block_shapes[0]
    if raster.compression is not None or columns != width:
        return None
    by_pixel = raster.interleaving is not None and raster.interleaving.value == "PIXEL"
    planes = 1 if by_pixel else bands
    with path.open("rb") as file:
        order = "<" if file.read(2) == b"II" else ">"
    kind = np.dtype(raster.dtypes[0]).newbyteorder(order)
    row_bytes = width * kind.itemsize * bands // planes
    first = position = _strip_start(raster, 0, 1)
    for plane in range(planes):
        for strip in range(-(-height // rows)):
            if position is None or _strip_start(raster, strip, plane + 1) != position:
                return None
            position += row_bytes * min(rows, height - strip * rows)
    mapped = np.memmap(path, kind, "r", first or 0, (height, width, bands) if by_pixel else (bands, height, width))
    return mapped if by_pixel else mapped.transpose(1, 2, 0)


def _strip_start(raster: Any, strip: int, band: int) -> int | None:
    start = raster.get_tag_item(f"BLOCK_OFFSET_0_{strip}", "TIFF", bidx=band)
    return None if start is None else int(start)


def write_geotiff(path: Path, scene: Scene) -> None:
    """Write a scene's cube with its georeference; wavelengths and bad bands become tags of the bands."""
    cube = scene.cube
    with open_geotiff(path, cube, scene.georeference) as raster:
        for rows in row_blocks(cube):
            window = ((rows.start, rows.stop), (0, cube.shape[1]))
            raster.write(np.ascontiguousarray(cube[rows].transpose(2, 0, 1), raster.dtypes[0]), window=window)
        for band in range(cube.shape[2]):
            tags: dict[str, str] = {}
            if scene.wavelengths:
                tags = {"wavelength": repr(scene.wavelengths[band]), "wavelength_units": "Nanometers"}
            if band in scene.bad_bands:
                tags["bad_band"] = "1"
            raster.update_tags(band + 1, **tags)


def write_class_map(
    path: Path, values: np.ndarray, table: Mapping[int, tuple[str, tuple[int, int, int]]], place: Georeference | None
) -> None:
    """Write H x W class numbers, compressed, with colours; ``table`` gives each number's name and colour."""
    with open_geotiff(path, values[..., None], place, compress="deflate") as raster:
        raster.write(values, 1)
        raster.update_tags(**{CLASS_NAMES: json.dumps([table[key][0] for key in sorted(table) if key])})
        if values.dtype == np.uint8:
            raster.write_colormap(1, {key: (*colour, 255) for key, (_, colour) in table.items()})


@contextmanager
def open_geotiff(
    path: Path, cube: np.ndarray, place: Georeference | None, *, compress: str | None = None
) -> Iterator[Any]:
    """Open a GeoTIFF file of the size and type of ``cube`` for writing."""
    rasterio = needs("rasterio", to="write GeoTIFF files")
    where = {} if place is None else {"crs": place.crs, "transform": rasterio.Affine(*place.transform)}
    height, width, bands = cube.shape
    kind = {"bool": "uint8", "float16": "float32"}.get(cube.dtype.name, cube.dtype.name)
    with (
        quiet_rasterio(),
        rasterio.open(
            path, "w", driver="GTiff", height=height, width=width, count=bands, dtype=kind, interleave="pixel",
            compress=compress, bigtiff="if_safer", **where,
        ) as raster,
    ):  # fmt: skip
        yield raster
