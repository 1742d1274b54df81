"""ENVI files: a text header (``.hdr``) beside raw numbers in BSQ, BIL or BIP order, which are mapped."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fullyconv.files import BadFile, whole_file
from fullyconv.hsi.formats.contents import Contents, Stored, nanometres, needs, unreadable
from fullyconv.hsi.formats.geotiff import georeference_of, quiet_rasterio
from fullyconv.hsi.formats.mapped import row_blocks
from fullyconv.hsi.scene import Georeference, Scene

Interleave = Literal["bsq", "bil", "bip"]
AXES: dict[Interleave, tuple[int, int, int]] = {"bsq": (2, 0, 1), "bil": (0, 2, 1), "bip": (0, 1, 2)}
DATA = (".img", ".dat", ".bsq", ".bil", ".bip", ".raw", "")  # where no header says, spectral looks for these
UNLABELLED_NAME = "Unclassified"


def header_of(path: Path) -> Path:
    """Return the header of an ENVI file, named itself or by its data; raises ``BadFile`` if there is none."""
    if path.suffix.lower() == ".hdr":
        return path
    for header in (path.with_suffix(".hdr"), path.with_name(path.name + ".hdr")):
        if header.is_file():
            return header
    raise BadFile(path, "no ENVI header beside it", f"put {path.stem}.hdr there, or name another file")


def read_envi(path: Path) -> Contents:
    """Map the image of an ENVI file; raises ``BadFile``."""
    header = header_of(path)
    envi = needs("spectral.io.envi", to="read ENVI files")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # header keys in capitals
            image = envi.open(str(header.resolve()), None if path == header else str(path.resolve()))
        cube = image.open_memmap(interleave="bip")
    except Exception as error:  # spectral raises many kinds
        raise unreadable(path, error) from None
    fields: Mapping[str, Any] = image.metadata
    try:
        wavelengths = [float(value) for value in fields.get("wavelength", ())]
        good = [float(value) for value in fields.get("bbl", ())]
    except ValueError as error:
        raise BadFile(header, f"wavelength or bbl: {error}", "give one number per band") from None
    if good and len(good) != cube.shape[2]:
        raise BadFile(header, f"bbl marks {len(good)} bands, the image has {cube.shape[2]}", "correct the header")
    data = Path(image.filename)
    return Contents(
        path,
        (Stored(path.stem, cube.shape, lambda: cube),),
        nanometres(wavelengths, str(fields.get("wavelength units", ""))),
        tuple(band for band, mark in enumerate(good) if not mark),
        _class_names(fields),
        georeference_of(data) if "map info" in fields else None,
    )


def _class_names(fields: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the values 1, 2, …; the first name of a classification is that of 0."""
    names = fields.get("class names", ())
    return tuple(names[1:]) if not isinstance(names, str) else ()


def write_envi(path: Path, scene: Scene, *, interleave: Interleave = "bsq") -> None:
    """Write a scene's cube to ``path`` (the header) and a ``.img`` beside it."""
    fields: dict[str, Any] = {"file type": "ENVI Standard"}
    if scene.wavelengths:
        fields |= {"wavelength units": "Nanometers", "wavelength": list(scene.wavelengths)}
    if scene.bad_bands:
        fields["bbl"] = [int(band not in scene.bad_bands) for band in range(scene.cube.shape[2])]
    write_raw(path, scene.cube, {**fields, **map_info(scene.georeference)}, interleave=interleave)


def write_classification(
    path: Path, values: np.ndarray, table: Mapping[int, tuple[str, tuple[int, int, int]]], place: Georeference | None
) -> None:
    """Write H x W class numbers as an ENVI Classification; ``table`` gives each number's name and colour."""
    rows = [table.get(value, (f"value {value}", (0, 0, 0))) for value in range(max(table) + 1)]
    fields: dict[str, Any] = {
        "file type": "ENVI Classification",
        "classes": len(rows),
        "class names": [name for name, _ in rows],
        "class lookup": [part for _, colour in rows for part in colour],
    }
    write_raw(path, values[..., None], {**fields, **map_info(place)}, interleave="bsq")


def write_raw(path: Path, cube: np.ndarray, fields: Mapping[str, Any], *, interleave: Interleave) -> None:
    """Write H x W x B numbers block by block, then the header that makes them an image."""
    kind = _storable(cube.dtype)
    height, width, bands = cube.shape
    with whole_file(path.with_suffix(".img")) as draft, draft.open("wb") as file:
        for rows in row_blocks(cube):
            block = np.ascontiguousarray(cube[rows].transpose(AXES[interleave]), kind)
            if interleave != "bsq":
                file.write(block.data)
                continue
            for band in range(bands):
                file.seek((band * height + rows.start) * width * kind.itemsize)
                file.write(block[band].data)
    write_header(path, cube.shape, kind, fields, interleave=interleave)


def write_header(
    path: Path, shape: tuple[int, ...], kind: np.dtype, fields: Mapping[str, Any], *, interleave: Interleave
) -> None:
    """Write the header of raw little-endian numbers, whole or not at all."""
    envi = needs("spectral.io.envi", to="write ENVI files")
    height, width, bands = shape
    header = {
        "samples": width, "lines": height, "bands": bands, "header offset": 0,
        "data type": envi.dtype_to_envi[kind.char], "interleave": interleave, "byte order": 0, **fields,
    }  # fmt: skip
    with whole_file(path) as draft:
        envi.write_envi_header(str(draft), header)


def _storable(kind: np.dtype) -> np.dtype:
    """Return the nearest type that ENVI has: no bool, no 8-bit signed integer, no half precision."""
    missing = {"bool": "u1", "int8": "i2", "float16": "f4"}
    return np.dtype(missing.get(kind.name, kind)).newbyteorder("<")


def map_info(place: Georeference | None) -> dict[str, str]:
    """Return the header's fields of a georeference, in the words of GDAL, which knows ENVI's projections."""
    if place is None:
        return {}
    rasterio = needs("rasterio", to="write georeferenced files")
    with tempfile.TemporaryDirectory() as folder, quiet_rasterio():
        data = Path(folder) / "one.img"
        with rasterio.open(
            data, "w", driver="ENVI", width=1, height=1, count=1, dtype="uint8", crs=place.crs,
            transform=rasterio.Affine(*place.transform),
        ):  # fmt: skip
            pass
        lines = data.with_suffix(".hdr").read_text().splitlines()
    pairs = [line.partition(" = ") for line in lines]
    return {key: value for key, _, value in pairs if key in ("map info", "coordinate system string")}
