"""GeoTIFF files (rasterio); uncompressed ones are mapped. Several pages of one size are the bands of one scene."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fullyconv.files import BadFile, parse_json
from fullyconv.hsi.formats.contents import NUMBERS, Contents, Stored, check_bytes, check_plane, needs
from fullyconv.hsi.formats.mapped import row_blocks
from fullyconv.hsi.formats.rasters import georeference, opened, quiet
from fullyconv.hsi.formats.units import nanometres
from fullyconv.hsi.labels import UNLABELLED_NAME
from fullyconv.hsi.scene import Georeference, Scene

CLASS_NAMES = "class_names"  # a tag: JSON, the names of the values 1, 2, …
MASK = ".msk"  # what GDAL appends to the name of a file for a mask beside it


def read_geotiff(path: Path) -> Contents:
    """List the one image of a GeoTIFF file, H x W x bands.

    The numbers are the stored ones, as rasterio reads them: no scale, no inversion of min-is-white. An alpha band of
    nothing and all (0 and 255) is a mask and no spectral band: it is marked bad.

    Raises:
        BadFile: For what is no TIFF file, for complex numbers, and for pages of several sizes.

    """
    rasterio = needs("rasterio", to="read GeoTIFF files")
    with opened(path, "GTiff") as raster:
        pages = len(raster.subdatasets)
        if pages > 1:
            return _read_pages(path, pages)
        shape = (raster.height, raster.width, raster.count)
        check_plane(path, "the image", shape)
        _check_kind(path, raster)
        tags = [(raster.tags(band), raster.tags(band, ns="IMAGERY")) for band in raster.indexes]
        wavelengths = [_wavelength(path, *found) for found in tags]
        alpha = _alpha(raster, rasterio.enums.ColorInterp.alpha)
        bad = {band for band, (own, _) in enumerate(tags) if own.get("bad_band") == "1"} | alpha
        return Contents(
            path,
            (Stored(path.stem, shape, partial(_pixels, path)),),
            tuple(value for value in wavelengths if value is not None),
            tuple(sorted(bad)),
            _names(path, raster.tags().get(CLASS_NAMES, "[]")),
            georeference(raster),
            None if raster.nodata is None else float(raster.nodata),
            _mask_reader(path, raster, rasterio.enums.MaskFlags, alpha),
        )


def _check_kind(path: Path, raster: Any) -> None:
    kinds = set(raster.dtypes)
    if len(kinds) != 1 or np.dtype(next(iter(kinds))).kind not in NUMBERS:
        raise BadFile(path, f"bands of types {', '.join(sorted(kinds))}", "save real numbers of one type")


def _names(path: Path, text: str) -> tuple[str, ...]:
    try:
        names = parse_json(text)
    except ValueError:
        names = None
    if not isinstance(names, list):
        raise BadFile(path, f"its tag {CLASS_NAMES} is no JSON list of names", "correct or remove the tag")
    return tuple(map(str, names))


def _read_pages(path: Path, pages: int) -> Contents:
    """List a stack of pages, one band each; the pictures of a pyramid or of several scenes are no stack."""
    found: set[tuple[tuple[int, int, int], str]] = set()
    for page in range(1, pages + 1):
        with opened(path, "GTiff", page=page) as raster:
            found.add(((raster.height, raster.width, raster.count), raster.dtypes[0]))
            _check_kind(path, raster)
            no_data = raster.nodata
    (height, width, bands), kind = next(iter(found))
    if len(found) > 1 or bands > 1:
        sizes = "; ".join(sorted(f"{shape[0]} x {shape[1]} x {shape[2]} {name}" for shape, name in found))
        raise BadFile(path, f"{pages} images ({sizes})", "save the scene's bands as one image, or as pages of one size")
    check_plane(path, "the stack", (height, width, pages))

    def read() -> np.ndarray:
        check_bytes(path, path.stem, (height, width, pages), np.dtype(kind).itemsize)
        cube = np.empty((height, width, pages), kind)
        for page in range(pages):
            with opened(path, "GTiff", page=page + 1) as raster:
                cube[..., page] = raster.read(1)
        return cube

    return Contents(
        path, (Stored(path.stem, (height, width, pages), read),), no_data=None if no_data is None else float(no_data)
    )


def _wavelength(path: Path, own: Mapping[str, str], imagery: Mapping[str, str]) -> float | None:
    """Read a band's wavelength from the tags that GDAL writes for ENVI's and for newer files."""
    known = {key.lower(): value for key, value in own.items()}
    text, unit = known.get("wavelength"), known.get("wavelength_units", "")
    if text is None:
        text, unit = imagery.get("CENTRAL_WAVELENGTH_UM"), "um"
    if text is None:
        return None
    try:
        found = nanometres([float(text)], unit)
    except ValueError as error:
        raise BadFile(path, f"a band's wavelength: {error}", "correct or remove the tag") from None
    return found[0] if found else None


def _alpha(raster: Any, interpretation: Any) -> set[int]:
    """Return the band that is a mask: GDAL also calls the fourth band of bytes alpha where nobody said so."""
    if raster.colorinterp[-1] != interpretation or raster.count == 1:
        return set()
    found = np.unique(raster.read(raster.count))
    return {raster.count - 1} if set(found.tolist()) <= {0, np.iinfo(raster.dtypes[-1]).max} else set()


def _mask_reader(path: Path, raster: Any, flags: Any, alpha: set[int]) -> partial[np.ndarray] | None:
    """Return what reads a file's own mask (inside it, as an alpha band, or beside it), if there is one."""
    given = raster.mask_flag_enums[0]
    if flags.per_dataset in given and (flags.alpha not in given or alpha):
        return partial(_read_mask, path, raster.shape)
    beside = path.with_name(path.name + MASK)
    return partial(_read_mask_beside, beside, raster.shape) if beside.is_file() else None


def _read_mask(path: Path, shape: tuple[int, int]) -> np.ndarray:
    check_bytes(path, "its mask", shape, 1)
    with opened(path, "GTiff") as raster:
        mask: np.ndarray = raster.read_masks(1) > 0
    return mask


def _read_mask_beside(path: Path, shape: tuple[int, int]) -> np.ndarray:
    with opened(path, "GTiff") as raster:
        if raster.shape != shape:
            what = f"a mask of {raster.height} x {raster.width} beside an image of {shape[0]} x {shape[1]}"
            raise BadFile(path, what, "remove it, or restore it")
        check_bytes(path, "the mask", shape, 1)
        mask: np.ndarray = raster.read(1) > 0
    return mask


def _pixels(path: Path) -> np.ndarray:
    """Return H x W x bands, mapped where they lie in the file in one piece."""
    with opened(path, "GTiff") as raster:
        mapped = _mapped(path, raster)
        if mapped is not None:
            return mapped
        check_bytes(path, path.stem, (raster.count, *raster.shape), np.dtype(raster.dtypes[0]).itemsize)
        cube: np.ndarray = raster.read().transpose(1, 2, 0)  # B x H x W -> H x W x B
    return cube


def _mapped(path: Path, raster: Any) -> np.ndarray | None:
    """Map an uncompressed image whose strips follow one another; none for others.

    What the tags promise is checked against GDAL's own reading of the first and the last row: bits of another
    order, subsampled colours or half floats would be mapped as garbage otherwise.
    """
    height, width, bands = raster.height, raster.width, raster.count
    rows, columns = raster.block_shapes[0]
    if raster.compression is not None or columns != width or "NBITS" in raster.tags(1, ns="IMAGE_STRUCTURE"):
        return None
    by_pixel = raster.interleaving is not None and raster.interleaving.value == "PIXEL"
    planes = 1 if by_pixel else bands
    with path.open("rb") as file:
        order = "<" if file.read(2) == b"II" else ">"
    kind = np.dtype(raster.dtypes[0]).newbyteorder(order)
    row_bytes = width * kind.itemsize * bands // planes
    first = position = _strip(raster, "OFFSET", 0, 1)
    for plane in range(planes):
        for strip in range(-(-height // rows)):
            size = row_bytes * min(rows, height - strip * rows)
            there = _strip(raster, "OFFSET", strip, plane + 1), _strip(raster, "SIZE", strip, plane + 1)
            if position is None or there != (position, size):
                return None
            position += size
    if first is None or position is None or position > path.stat().st_size:
        return None
    stored = np.memmap(path, kind, "r", first, (height, width, bands) if by_pixel else (bands, height, width))
    mapped = stored if by_pixel else stored.transpose(1, 2, 0)
    for row in (0, height - 1):
        read = raster.read(window=((row, row + 1), (0, width)))[:, 0].T
        if not np.array_equal(mapped[row], read, equal_nan=kind.kind == "f"):
            return None
    return mapped


def _strip(raster: Any, what: str, strip: int, band: int) -> int | None:
    found = raster.get_tag_item(f"BLOCK_{what}_0_{strip}", "TIFF", bidx=band)
    return None if found is None else int(found)


def write_geotiff(path: Path, scene: Scene) -> None:
    """Write a scene's cube with its georeference; wavelengths and bad bands become tags of the bands."""
    cube = scene.cube
    with writable(path, cube, scene.georeference) as raster:
        if scene.no_data is not None:
            raster.nodata = scene.no_data
        for rows in row_blocks(cube):
            window = ((rows.start, rows.stop), (0, cube.shape[1]))
            raster.write(np.ascontiguousarray(cube[rows].transpose(2, 0, 1), raster.dtypes[0]), window=window)
        if scene.measured is not None:
            raster.write_mask(scene.measured)
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
    with writable(path, values[..., None], place, compress="deflate") as raster:
        raster.write(values, 1)
        raster.update_tags(**{CLASS_NAMES: json.dumps(_named(table))})
        if values.dtype == np.uint8:
            raster.write_colormap(1, {key: (*colour, 255) for key, (_, colour) in table.items()})


def _named(table: Mapping[int, tuple[str, tuple[int, int, int]]]) -> list[str]:
    """Return the names of the values 1, 2, … of classes; what stands for no label after them is none."""
    names = [table[key][0] for key in sorted(table) if key]
    return names[:-1] if 0 in table and names and table[max(table)][0] == UNLABELLED_NAME else names


@contextmanager
def writable(path: Path, cube: np.ndarray, place: Georeference | None, *, compress: str | None = None) -> Iterator[Any]:
    """Open a GeoTIFF file of the size and type of ``cube`` for writing."""
    rasterio = needs("rasterio", to="write GeoTIFF files")
    where = {} if place is None else {"crs": place.crs, "transform": rasterio.Affine(*place.transform)}
    height, width, bands = cube.shape
    kind = {"bool": "uint8", "float16": "float32"}.get(cube.dtype.name, cube.dtype.name)
    with (
        quiet(),
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK="YES"),  # a mask in a file beside it would not be whole with it
        rasterio.open(
            path, "w", driver="GTiff", height=height, width=width, count=bands, dtype=kind, interleave="pixel",
            photometric="minisblack", compress=compress, bigtiff="if_safer", **where,
        ) as raster,
    ):  # fmt: skip
        yield raster
