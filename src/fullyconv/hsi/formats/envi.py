"""ENVI files: a text header (``.hdr``) beside raw numbers in BSQ, BIL or BIP order, which are mapped.

The header is read by rules of GDAL's, and more kindly where GDAL gives up: any case, ``{}``, commas at the end,
lists that start on the next line, Latin-1.
"""

from __future__ import annotations

import re
import tempfile
from collections import deque
from collections.abc import Mapping
from functools import partial
from math import isfinite
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from fullyconv.files import BadFile, whole_file
from fullyconv.hsi.formats.contents import Contents, Stored, check_plane, needs
from fullyconv.hsi.formats.mapped import row_blocks
from fullyconv.hsi.formats.rasters import georeference_of, quiet
from fullyconv.hsi.formats.units import nanometres
from fullyconv.hsi.labels import UNLABELLED_NAME
from fullyconv.hsi.scene import Georeference, Scene
from fullyconv.limits import LIMITS

Interleave = Literal["bsq", "bil", "bip"]
AXES: dict[Interleave, tuple[int, int, int]] = {"bsq": (2, 0, 1), "bil": (0, 2, 1), "bip": (0, 1, 2)}
"""For each interleave, which axis of H x W x bands is stored first, second and third."""
DATA = (".img", ".dat", ".bsq", ".bil", ".bip", ".raw", "")  # how the data beside a header may be called
TYPES = {1: "u1", 2: "i2", 3: "i4", 4: "f4", 5: "f8", 12: "u2", 13: "u4", 14: "i8", 15: "u8"}
NUMBERS_OF = {np.dtype(kind).str[1:]: number for number, kind in TYPES.items()}
COMPLEX = (6, 9)


def header_of(path: Path) -> Path:
    """Return the header of an ENVI file, named itself or by its data; raises ``BadFile`` if there is none."""
    found = find_header(path)
    if found is None:
        raise BadFile(path, "no ENVI header beside it", f"put {path.stem}.hdr there, or name another file")
    return found


def find_header(path: Path) -> Path | None:
    """Return the header of an ENVI file, named itself or by its data, if there is one."""
    if path.suffix.lower() == ".hdr":
        return path
    names = [path.with_name(stem + end) for stem in (path.stem, path.name) for end in (".hdr", ".HDR")]
    return next((name for name in names if name.is_file()), None)


def _data_of(header: Path) -> Path:
    """Find the data beside a header: the one file of its name, with an ending that data has."""
    stem = header.with_suffix("")
    endings = [end for lower in DATA for end in dict.fromkeys((lower, lower.upper()))]
    names = [stem.with_name(stem.name + end) for end in endings]
    found = [name for name in names if name.is_file()]
    found = list({name.stat().st_ino: name for name in found}.values())  # one file where case does not count
    if len(found) == 1:
        return found[0]
    if found:
        what = f"its data may be any of {', '.join(name.name for name in found)}"
        raise BadFile(header, what, "name the file of the data instead of the header")
    known = ", ".join(stem.name + end for end in DATA)
    raise BadFile(header, f"no data beside it ({known})", "put it there, or name the file of the data")


def read_header(path: Path) -> dict[str, str]:
    """Read the fields of an ENVI header.

    Returns:
        The text of each field under its name in small letters; lists without their braces.

    Raises:
        BadFile: If it is none, larger than the budget for text, or has a list without an end or a field of two values.

    """
    if path.stat().st_size > LIMITS.text_bytes:
        raise BadFile(path, f"{path.stat().st_size} bytes of header", f"shorten it, or {LIMITS.remedy('text_bytes')}")
    raw = path.read_bytes()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")  # ENVI writes names and descriptions in the system's old code page
    lines = deque(re.split(r"\r\n?|\n", text))  # splitlines would cut at Latin-1's 0x85 too
    if not lines.popleft().strip().upper().startswith("ENVI"):
        raise BadFile(path, "no ENVI header: it does not begin with 'ENVI'", "name the header of an ENVI file")
    fields: dict[str, str] = {}
    spelt: dict[str, str] = {}  # each name without spaces, as it was given first
    while lines:
        line = lines.popleft()
        key, equals, value = line.partition("=")
        key = " ".join(key.lower().replace("_", " ").split())  # GDAL takes data_type for data type too
        if not equals or not key or key.startswith(";"):
            continue
        value = _whole_value(path, key, value.strip(), lines)
        first = spelt.setdefault(key.replace(" ", ""), key)
        if _entry_texts(fields.get(first, value)) != _entry_texts(value):  # readers differ in which one they take
            what = f"{first} = {fields[first][:40]!r}, and again {key} = {value[:40]!r}"
            raise BadFile(path, what, "keep the line that is right")
        fields[key] = value
    return fields


def _whole_value(path: Path, key: str, value: str, lines: deque[str]) -> str:
    """Return a field's value without braces; the lines that it goes on for are taken from ``lines``."""
    if not value and lines and lines[0].lstrip().startswith("{"):
        value = lines.popleft().strip()
    parts = [value]
    while value.startswith("{") and "}" not in parts[-1]:
        # a list that begins before this one has ended is the next field's, which would be lost in this one
        if not lines or re.match(r"([^={}]*=)?\s*\{", lines[0]):
            what = f"{key} = {' '.join(parts).strip()[:40]!r}: its list has no end"
            raise BadFile(path, what, "write '}' after its last entry")
        parts.append(lines.popleft().strip())
    return _without_braces(" ".join(parts))


def _entry_texts(value: str) -> list[str]:
    return [entry.strip() for entry in value.split(",")]


def _without_braces(value: str) -> str:
    return value[1:].partition("}")[0].strip() if value.startswith("{") else value


def _entries(fields: Mapping[str, str], key: str) -> list[str]:
    """Return the entries of a list, without empty ones: ``{a, b, }`` holds two."""
    return [entry for entry in _entry_texts(fields.get(key, "")) if entry]


def _numbers(header: Path, fields: Mapping[str, str], key: str) -> list[float]:
    try:
        return [float(entry) for entry in _entries(fields, key)]
    except ValueError as error:
        raise BadFile(header, f"{key}: {error}", "give one number per band") from None


def _whole(header: Path, fields: Mapping[str, str], key: str, default: int | None = None) -> int:
    text = fields.get(key)
    if text is None and default is not None:
        return default
    if text is None or not re.fullmatch(r"[+]?\d{1,18}", text):
        what = f"no field {key!r}" if text is None else f"{key} = {text[:40]!r}"
        raise BadFile(header, what, f"write '{key} =' and a whole number in the header")
    return int(text)


def read_envi(path: Path) -> Contents:
    """Map the image of an ENVI file, named by its header or its data.

    Args:
        path: The header or the data.

    Returns:
        The image, H x W x bands, and what the header says of it.

    Raises:
        BadFile: For a header that does not describe the file beside it.

    """
    header = header_of(path)
    fields = read_header(header)
    data = _data_of(header) if path == header else path
    shape, kind, interleave, offset = _layout(header, fields)
    check_plane(header, "the image", shape)
    _check_size(data, shape, kind, offset)
    bands = shape[2]
    good = _numbers(header, fields, "bbl")
    if good and len(good) != bands:
        raise BadFile(header, f"bbl marks {len(good)} bands, the image has {bands}", "correct the header")
    try:
        wavelengths = nanometres(_numbers(header, fields, "wavelength"), fields.get("wavelength units", ""))
    except ValueError as error:
        raise BadFile(header, str(error), "give one positive number per band, or remove the wavelengths") from None
    return Contents(
        path,
        (Stored(path.stem, shape, partial(_map, data, shape, kind, interleave, offset)),),
        wavelengths,
        tuple(band for band, mark in enumerate(good) if not mark),
        _class_names(fields),
        georeference_of(data, "ENVI") if "map info" in fields else None,
        _ignored(header, fields),
    )


def _class_names(fields: Mapping[str, str]) -> tuple[str, ...]:
    """Return the names of the values 1, 2, …; the first name of a classification is that of 0, not labelled."""
    names = [name.strip() for name in fields.get("class names", "").rstrip(" ,").split(",")]
    names = names[:-1] if names[-1] == UNLABELLED_NAME else names  # last, where 0 is a class
    return tuple(name or f"class_{number}" for number, name in enumerate(names) if number)


def _layout(header: Path, fields: Mapping[str, str]) -> tuple[tuple[int, int, int], np.dtype, Interleave, int]:
    """Return H x W x bands, the type of the numbers, their interleave, and where they start."""
    if "library" in fields.get("file type", "").lower():
        raise BadFile(header, "a spectral library, no image", "name the scene's own header")
    shape = tuple(_whole(header, fields, key) for key in ("lines", "samples", "bands"))
    number = _whole(header, fields, "data type", 1)
    if number in COMPLEX:
        raise BadFile(header, f"data type {number}: complex numbers", "save their magnitudes")
    if number not in TYPES:
        raise BadFile(header, f"data type {number}", f"ENVI's types of real numbers are {', '.join(map(str, TYPES))}")
    interleave = fields.get("interleave", "bsq").lower()
    if interleave not in AXES:
        raise BadFile(header, f"interleave {interleave[:40]!r}", "write bsq, bil or bip")
    order = _whole(header, fields, "byte order", 0)  # GDAL's answer where the header gives none is the machine's
    if order not in (0, 1):
        raise BadFile(header, f"byte order {order}", "write 0 (least significant byte first) or 1")
    for key, unread in (("file compression", "compressed"), ("major frame offsets", "frames with bytes between them")):
        if any(entry != "0" for entry in _entries(fields, key)):
            raise BadFile(header, f"{key} = {fields[key][:40]}: {unread}", "save the image plainly")
    kind = np.dtype("<>"[order] + TYPES[number])
    offset = _whole(header, fields, "header offset", 0)
    return cast("tuple[int, int, int]", shape), kind, interleave, offset


def _check_size(data: Path, shape: tuple[int, int, int], kind: np.dtype, offset: int) -> None:
    """Raise ``BadFile`` for data shorter than its header says, which ends in a crash or zeros if it is mapped."""
    height, width, bands = shape
    needed, there = offset + height * width * bands * kind.itemsize, data.stat().st_size
    if there < needed:
        what = f"truncated: {there} bytes, but {height} x {width} x {bands} of {kind.name} from byte {offset} need"
        raise BadFile(data, f"{what} {needed}", "restore it, or correct lines, samples, bands or data type")


def _map(data: Path, shape: tuple[int, int, int], kind: np.dtype, interleave: Interleave, offset: int) -> np.ndarray:
    axes = AXES[interleave]
    stored = np.memmap(data, kind, "r", offset, tuple(shape[axis] for axis in axes))
    return stored.transpose(np.argsort(axes))


def _ignored(header: Path, fields: Mapping[str, str]) -> float | None:
    """Return the value that stands for no data; ENVI's field may hold one number, in braces or not."""
    given = _numbers(header, fields, "data ignore value")
    if len(given) > 1:
        raise BadFile(header, f"{len(given)} data ignore values", "give one")
    return given[0] if given and isfinite(given[0]) else None


def write_envi(path: Path, scene: Scene, *, interleave: Interleave = "bsq") -> None:
    """Write a scene's cube to ``path`` (the header) and a ``.img`` beside it."""
    fields: dict[str, Any] = {"file type": "ENVI Standard"}
    if scene.wavelengths:
        fields |= {"wavelength units": "Nanometers", "wavelength": list(scene.wavelengths)}
    if scene.bad_bands:
        fields["bbl"] = [int(band not in scene.bad_bands) for band in range(scene.cube.shape[2])]
    if scene.no_data is not None:
        fields["data ignore value"] = f"{scene.no_data:.17g}"
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
    height, width, bands = shape
    header = {
        "samples": width, "lines": height, "bands": bands, "header offset": 0, "data type": NUMBERS_OF[kind.str[1:]],
        "interleave": interleave, "byte order": 0, **fields,
    }  # fmt: skip
    lines = ["ENVI", *(f"{key} = {_written(value)}" for key, value in header.items())]
    with whole_file(path) as draft:
        draft.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _written(value: object) -> str:
    """Write a field; a name in a list cannot hold what ends an entry, the list or the line."""
    if not isinstance(value, list):
        return str(value)
    return "{" + ", ".join(re.sub(r"[{},\r\n]", " ", str(entry)) for entry in value) + "}"


def _storable(kind: np.dtype) -> np.dtype:
    """Return the nearest type that ENVI has: no bool, no 8-bit signed integer, no half precision."""
    missing = {"bool": "u1", "int8": "i2", "float16": "f4"}
    return np.dtype(missing.get(kind.name, kind)).newbyteorder("<")


def map_info(place: Georeference | None) -> dict[str, str]:
    """Return the header's fields of a georeference, in the words of GDAL, which knows ENVI's projections."""
    if place is None:
        return {}
    rasterio = needs("rasterio", to="write georeferenced files")
    with tempfile.TemporaryDirectory() as folder, quiet():
        data = Path(folder) / "one.img"
        with rasterio.open(
            data, "w", driver="ENVI", width=1, height=1, count=1, dtype="uint8", crs=place.crs,
            transform=rasterio.Affine(*place.transform),
        ):  # fmt: skip
            pass
        lines = data.with_suffix(".hdr").read_text().splitlines()
    pairs = [line.partition(" = ") for line in lines]
    return {key: value for key, _, value in pairs if key in ("map info", "coordinate system string")}
