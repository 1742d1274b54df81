"""Scenes from files and back: any format in, one form out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from fullyconv.data.images import SUFFIXES, read_raw_mask
from fullyconv.files import BadFile, whole_file
from fullyconv.hsi.formats.contents import Contents, Stored, find_cube, find_labels, listed
from fullyconv.hsi.formats.envi import DATA, UNLABELLED_NAME, read_envi, write_classification, write_envi
from fullyconv.hsi.formats.geotiff import read_geotiff, write_class_map, write_geotiff
from fullyconv.hsi.formats.mapped import FINITE, not_finite, unusable_bands
from fullyconv.hsi.formats.matlab import read_matlab, write_matlab
from fullyconv.hsi.formats.numpy_files import read_npy, read_npz, write_npy, write_npz
from fullyconv.hsi.labels import PURE, are_abundances, class_set, read_labels
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
CHECKED_BYTES = 512 << 20  # of larger cubes only what is read is searched for NaN
CUBE, LABELS = "cube", "labels"  # the arrays in files that hold several


def open_scene(
    cube: Path | str,
    labels: Path | str | None = None,
    *,
    cube_key: str | None = None,
    label_key: str | None = None,
    threshold: float = PURE,
) -> Scene:
    """Read a scene from MATLAB, ENVI, GeoTIFF or NumPy files; label maps may be pictures (PNG) too.

    Without ``cube_key`` the cube is the one array of three dimensions, H x W x bands; without
    ``label_key`` the labels are the one map of the cube's height and width, in the file ``labels`` or else
    in the cube's own, where there may be none. A label map holds whole numbers: 0 is not labelled (``VOID``),
    k is class index k - 1. Abundances, H x W x classes of fractions, label the pixels whose largest part is at
    least ``threshold``. Raises ``BadFile`` for what cannot be used; cubes over 512 MiB are searched for NaN
    only where they are read.
    """
    cube, labels = Path(cube), None if labels is None else Path(labels)
    scene = read_scene(cube, labels, cube_key=cube_key, label_key=label_key, threshold=threshold)
    for problem in scene_problems(scene, cube, labels, finite=scene.cube.nbytes <= CHECKED_BYTES):
        raise problem
    return scene


def read_scene(
    cube: Path,
    labels: Path | None,
    *,
    cube_key: str | None = None,
    label_key: str | None = None,
    threshold: float = PURE,
) -> Scene:
    """Read a scene as ``open_scene`` does, without looking at its values."""
    contents = read_contents(cube)
    stored = find_cube(contents, cube_key)
    scene = _unlabelled(contents, stored)
    source = contents if labels in (None, cube) else _label_contents(labels)
    found = find_labels(source, label_key, stored, optional=labels is None)
    if found is None:
        return scene
    if found.shape[:2] != stored.shape[:2]:
        what = f"shape mismatch: the labels {found} do not cover the cube {stored}"
        raise BadFile(source.path, what, "labels and cube must be of one height and width")
    values = source.read(found)
    if labels is None and label_key is None and not found.plane and not are_abundances(values):
        return scene  # a second cube
    indices = read_labels(values, source.path, threshold=threshold)
    count = max(1, int(indices.max()) + 1, found.shape[2] if len(found.shape) == 3 else 1)
    classes = class_set(count, source.class_names or contents.class_names)
    return replace(scene, labels=indices, classes=classes)


def open_cube(path: Path, *, key: str | None = None) -> Scene:
    """Read a scene without labels, as ``open_scene`` does; what labels its file holds does not matter."""
    contents = read_contents(path)
    scene = _unlabelled(contents, find_cube(contents, key))
    for problem in scene_problems(scene, path, None, finite=False):
        raise problem
    return scene


def _unlabelled(contents: Contents, cube: Stored) -> Scene:
    return Scene(
        contents.read(cube),
        wavelengths=contents.wavelengths,
        bad_bands=contents.bad_bands,
        georeference=contents.georeference,
        name=contents.path.stem,
    )


def open_labels(path: Path | str, *, key: str | None = None) -> tuple[np.ndarray, ClassSet]:
    """Read a label map by itself: H x W int16 labels and their classes; raises ``BadFile``."""
    path = Path(path)
    contents = _label_contents(path)
    maps = [contents.named(key)] if key is not None else [array for array in contents.arrays if array.plane]
    if len(maps) != 1:
        what = f"{len(maps)} label maps: {listed(maps or contents.arrays)}"
        raise BadFile(path, what, "name the label map (label key)")
    labels = read_labels(contents.read(maps[0]), path)
    if (labels < 0).all():
        raise no_labels(path)
    return labels, class_set(int(labels.max()) + 1, contents.class_names)


def read_contents(path: Path) -> Contents:
    """List what a scene's file holds; raises ``BadFile``."""
    if path.suffix.lower() not in READERS:
        raise BadFile(path, "not a scene's file", f"scenes are {FORMATS} files")
    if not path.is_file():
        raise BadFile(path, "no such file", "check the path")
    return READERS[path.suffix.lower()](path)


def is_scene(path: Path) -> bool:
    """Return by its name whether a file is a scene's; an ENVI scene is its header."""
    return path.suffix.lower() in READERS and path.suffix.lower() not in DATA and not path.name.startswith(".")


def _label_contents(path: Path) -> Contents:
    if path.suffix.lower() in READERS or path.suffix.lower() not in SUFFIXES:
        return read_contents(path)
    values = read_raw_mask(path).values
    if values.ndim != 2:
        raise BadFile(path, "a colour picture as label map", "save the class numbers as 8 or 16 bit index PNG")
    return Contents(path, (Stored(path.stem, values.shape, lambda: values),))


def scene_problems(scene: Scene, cube: Path, labels: Path | None, *, finite: bool = True) -> list[BadFile]:
    """List all that makes a scene unusable; ``finite``: search the bands that are not marked bad for NaN."""
    problems = []
    bands = scene.cube.shape[2]
    if scene.wavelengths and len(scene.wavelengths) != bands:
        what = f"wrong band count: {bands} bands, but {len(scene.wavelengths)} wavelengths"
        problems.append(BadFile(cube, what, "correct the wavelengths, or remove them"))
    outside = [band for band in scene.bad_bands if not 0 <= band < bands]
    if outside:
        problems.append(BadFile(cube, f"bad bands {outside} of {bands} bands", f"bands are 0 to {bands - 1}"))
    problems += label_problems(scene, labels or cube)
    broken = [band for band in unusable_bands(scene.cube) if band not in scene.bad_bands] if finite else []
    if broken:
        problems.append(BadFile(cube, not_finite(broken), FINITE))
    return problems


def label_problems(scene: Scene, path: Path) -> list[BadFile]:
    """List what makes a scene's labels unusable."""
    if scene.labels is None or scene.classes is None:
        return []
    counts = class_pixels(scene)
    if not counts.any():
        return [no_labels(path)]
    return [
        BadFile(path, f"class {number} ({name!r}) without pixels", "label some, or number the classes without gaps")
        for number, name, count in zip(scene.classes.values, scene.classes.names, counts, strict=True)
        if not count
    ]


def no_labels(path: Path) -> BadFile:
    """Say that a label map is empty."""
    return BadFile(path, "no labelled pixel", "0 means not labelled: label pixels 1, 2, …")


def class_pixels(scene: Scene) -> np.ndarray:
    """Count the labelled pixels of each class, C int64."""
    if scene.labels is None or scene.classes is None:
        raise ValueError(f"scene {scene.name!r} has no labels: name its label map")
    return np.bincount(scene.labels[scene.labels >= 0], minlength=len(scene.classes))


def label_values(labels: np.ndarray, classes: ClassSet) -> np.ndarray:
    """Return the numbers that stand for labels in files, H x W of the smallest unsigned type."""
    values = np.array([*classes.values, classes.ignore_index])
    numbers: np.ndarray = values.astype(np.min_scalar_type(int(values.max())))[labels]  # VOID is the last
    return numbers


def save_scene(scene: Scene, path: Path | str) -> Path | None:
    """Write a scene in the format that the file's suffix names; gives the path of its labels.

    ``.mat`` and ``.npz`` hold all there is to a scene. The other formats hold one array: labels
    go into a file ``STEM_labels`` of the same format. ENVI and GeoTIFF keep wavelengths, bad bands and
    georeference, ``.npy`` nothing but numbers. Each file appears whole or not at all.
    """
    path = Path(path)
    kind = path.suffix.lower()
    if kind not in (".mat", ".npz", *WRITERS):
        raise BadFile(path, "not a scene's file", f"scenes are {FORMATS} files")
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
