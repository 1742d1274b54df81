"""Which reader reads a file, and which writer writes one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from fullyconv.data.images import SUFFIXES
from fullyconv.data.masks import read_raw_mask
from fullyconv.files import BadFile, whole_file
from fullyconv.hsi.formats.contents import Contents, Stored, guarded
from fullyconv.hsi.formats.envi import DATA, find_header, read_envi, write_classification, write_envi
from fullyconv.hsi.formats.geotiff import read_geotiff, write_class_map, write_geotiff
from fullyconv.hsi.formats.matlab import read_matlab, write_matlab
from fullyconv.hsi.formats.numpy_files import read_npy, read_npz, write_npy, write_npz
from fullyconv.hsi.labels import UNLABELLED_NAME
from fullyconv.hsi.scene import Georeference, Scene
from fullyconv.types import ClassSet

READERS: dict[str, Callable[[Path], Contents]] = {
    ".mat": read_matlab,
    ".hdr": read_envi,
    **{suffix: read_envi for suffix in DATA if suffix},
    ".tif": read_geotiff,
    ".tiff": read_geotiff,
    ".npy": read_npy,
    ".npz": read_npz,
}
FORMATS = "MATLAB (.mat), ENVI (.hdr), GeoTIFF (.tif), .npy or .npz"
CUBE, LABELS = "cube", "labels"  # the arrays in files that hold several


def read_contents(path: Path) -> Contents:
    """List what a scene's file holds; a file of any ending with an ENVI header beside it is ENVI's data.

    Raises:
        BadFile: For a missing file, another format, or contents that cannot be read.

    """
    reader = READERS.get(path.suffix.lower())
    if reader is None and path.is_file() and find_header(path) is not None:
        reader = read_envi
    if reader is None:
        raise BadFile(path, "not a scene's file", f"scenes are {FORMATS} files")
    if not path.is_file():
        raise BadFile(path, "no such file", "check the path")
    return guarded(path, partial(reader, path))


def is_scene(path: Path) -> bool:
    """Return by its name whether a file is a scene's; an ENVI scene is its header."""
    return path.suffix.lower() in READERS and path.suffix.lower() not in DATA and not path.name.startswith(".")


def read_label_contents(path: Path) -> Contents:
    """List what a file of labels holds: a scene's file, or a picture whose pixels are class numbers."""
    if path.suffix.lower() in READERS or path.suffix.lower() not in SUFFIXES:
        return read_contents(path)
    values = read_raw_mask(path).values
    if values.ndim != 2:
        raise BadFile(path, "a colour picture as label map", "save the class numbers as 8 or 16 bit index PNG")
    return Contents(path, (Stored(path.stem, values.shape, lambda: values),))


def label_values(labels: np.ndarray, classes: ClassSet) -> np.ndarray:
    """Return the numbers that stand for labels in files.

    Args:
        labels: H x W class indices; ``VOID`` (-1) where there is none.
        classes: Their values, and the one of ``VOID``: 0 unless 0 is a class.

    Returns:
        H x W of the smallest unsigned type that holds them.

    >>> label_values(np.array([[0, 1, -1]]), ClassSet(("a", "b"), ignore_index=0, values=(1, 2))).tolist()
    [[1, 2, 0]]

    """
    values = np.array([*classes.values, classes.ignore_index])
    numbers: np.ndarray = values.astype(np.min_scalar_type(int(values.max())))[labels]  # VOID is the last
    return numbers


def scene_files(path: Path) -> list[Path]:
    """List the files that ``save_scene`` may write for a path: an ENVI header has its data beside it."""
    kind = path.suffix.lower()
    beside = path.with_name(f"{path.stem}_labels{path.suffix}")
    files = [path] if kind in (".mat", ".npz") else [path, beside]
    return [*files, *(file.with_suffix(".img") for file in files if kind == ".hdr")]


def save_scene(scene: Scene, path: Path | str) -> Path | None:
    """Write a scene in the format that the file's suffix names.

    ``.mat`` and ``.npz`` hold all there is to a scene. The other formats hold one array: labels go into a file
    ``STEM_labels`` of the same format. ENVI and GeoTIFF keep wavelengths, bad bands, georeference and the value
    of no data, GeoTIFF the mask too; ``.npy`` nothing but numbers. Each file appears whole or not at all.

    Returns:
        The path of the labels, if there are any.

    Raises:
        BadFile: For another suffix, and for a scene whose missing pixels the format cannot mark.

    """
    path = Path(path)
    kind = path.suffix.lower()
    if kind not in (".mat", ".npz", *WRITERS):
        raise BadFile(path, "not a scene's file", f"scenes are {FORMATS} files")
    if (kind == ".npy" and scene.no_data is not None) or (kind in (".npy", ".hdr") and scene.measured is not None):
        raise BadFile(path, "the format cannot say which pixels have no data", "save the scene as .tif, .npz or .mat")
    path.parent.mkdir(parents=True, exist_ok=True)
    labelled = scene.labels is not None and scene.classes is not None
    labels = label_values(scene.labels, scene.classes) if labelled else None  # type: ignore[arg-type]
    if kind in (".mat", ".npz"):
        arrays = {CUBE: scene.cube} | ({} if labels is None else {LABELS: labels})
        with whole_file(path) as draft:
            (write_matlab if kind == ".mat" else write_npz)(draft, arrays, scene)
        return None if labels is None else path
    WRITERS[kind](path, scene)
    if labels is None:
        return None
    beside = path.with_name(f"{path.stem}_labels{path.suffix}")
    if kind == ".npy":
        write_npy(beside, labels)
    else:
        write_class_numbers(beside, labels, scene.classes, scene.georeference)  # type: ignore[arg-type]
    return beside


def write_class_numbers(path: Path, values: np.ndarray, classes: ClassSet, place: Georeference | None) -> None:
    """Write an H x W map of class numbers, with names and colours, as ENVI (``.hdr``) or GeoTIFF."""
    table = dict(zip(classes.values, zip(classes.names, classes.colours, strict=True), strict=True))
    table.setdefault(classes.ignore_index, (UNLABELLED_NAME, (0, 0, 0)))
    if path.suffix.lower() == ".hdr":
        write_classification(path, values, table, place)
    else:
        with whole_file(path) as draft:
            write_class_map(draft, values, table, place)


def _write_geotiff(path: Path, scene: Scene) -> None:
    with whole_file(path) as draft:
        write_geotiff(draft, scene)


WRITERS: dict[str, Callable[[Path, Scene], None]] = {
    ".hdr": write_envi,
    ".tif": _write_geotiff,
    ".tiff": _write_geotiff,
    ".npy": lambda path, scene: write_npy(path, scene.cube),
}
"""How the formats of one array are written."""
