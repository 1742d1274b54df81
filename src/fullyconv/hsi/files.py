"""The files of one scene: which they are, what to take of them, and what is wrong with them."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fullyconv.data.nothing import find_lone
from fullyconv.files import BadFile, FileWarning
from fullyconv.hsi.formats.by_suffix import read_contents, read_label_contents
from fullyconv.hsi.formats.contents import Contents, Stored, listed
from fullyconv.hsi.formats.layout import find_cube, find_labels
from fullyconv.hsi.formats.mapped import FINITE, band_list, infinite_bands, infinity_in, row_blocks
from fullyconv.hsi.labels import PURE, Zero, are_abundances, class_set, read_labels
from fullyconv.hsi.scene import Scene, absent
from fullyconv.types import ClassSet

LOOKED_AT = 1 << 20  # pixels of a band that are searched for a number that may stand for nothing
DECLARE = (
    "if it means that, say so (ENVI: data ignore value = {0:.9g}; GeoTIFF: gdal_edit.py -a_nodata {0:.9g}; MATLAB and "
    "NumPy: a variable no_data beside the cube), or write NaN in its place"
)
CHECKED_BYTES = 512 << 20  # of larger cubes only what is read is searched for infinity


@dataclass(frozen=True)
class SceneReport:
    """What a scene's files say, and everything that is wrong with them.

    Attributes:
        scene: The scene.
        low: The least of the finite values.
        high: The greatest of them.
        constant: Bands of a single value.
        pixels: Labelled pixels of each class; none without labels.
        missing: Pixels without data in some band that is not bad.
        unread: Labelled pixels among them, which neither train nor test.
        others: What else the file holds, none of it used.
        problems: What is wrong, in the words of ``SceneFiles.open``.
        warnings: What is worth knowing.

    """

    scene: Scene
    low: float
    high: float
    constant: list[int]
    pixels: np.ndarray
    missing: int
    unread: int
    others: str
    problems: list[BadFile]
    warnings: list[BadFile]


@dataclass(frozen=True)
class SceneFiles:
    """The file of a scene, that of its labels, and what to take of them.

    Attributes:
        cube: A MATLAB, ENVI, GeoTIFF or NumPy file with one array of H x W x bands.
        labels: The file of the label map, a picture (PNG) too; without one, the map in the cube's own file, which
            may have none.
        cube_key: The name of the cube, where the file has several arrays of three dimensions.
        label_key: The name of the map, where several have the cube's height and width.
        threshold: Abundances, H x W x classes of fractions, label the pixels whose largest part is at least this.
        zero: What 0 means in the map: ``unlabelled``, as in the data sets of the field, or ``class``, as in maps of
            targets (1) and background (0).

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> np.savez(folder / "scene.npz", cube=np.arange(12).reshape(2, 2, 3), labels=[[0, 1], [2, 2]])
    >>> scene = SceneFiles(folder / "scene.npz").open()
    >>> scene.cube.shape, scene.labels.tolist(), scene.classes.names
    ((2, 2, 3), [[-1, 0], [1, 1]], ('class_1', 'class_2'))

    """

    cube: Path | str
    labels: Path | str | None = None
    cube_key: str | None = None
    label_key: str | None = None
    threshold: float = PURE
    zero: Zero = "unlabelled"

    def open(self) -> Scene:
        """Read the scene with its labels.

        Returns:
            The scene: its cube mapped where the format allows, 0 in the map ``VOID``, k class index k - 1.

        Raises:
            BadFile: For what cannot be used; cubes over 512 MiB are searched for infinity only where they are read.

        """
        scene = self.read()
        for problem in self.problems(scene, infinity=scene.cube.nbytes <= CHECKED_BYTES):
            raise problem
        for odd in self.warnings(scene):
            warnings.warn(FileWarning(odd.path, f"{odd.what}: {odd.fix}"), stacklevel=2)
        return scene

    def open_cube(self) -> Scene:
        """Read the scene without labels; what labels its file holds does not matter. Raises ``BadFile``."""
        contents = read_contents(Path(self.cube))
        scene = _unlabelled(contents, find_cube(contents, self.cube_key))
        for problem in self.problems(scene, infinity=False):
            raise problem
        return scene

    def open_labels(self) -> tuple[np.ndarray, ClassSet]:
        """Read the label map by itself, from ``labels`` or, without that, from ``cube``.

        Returns:
            H x W int16 labels and their classes.

        Raises:
            BadFile: For several maps, none, or one without a labelled pixel.

        """
        path = Path(self.cube if self.labels is None else self.labels)
        contents = read_label_contents(path)
        if self.label_key is None:
            maps = [array for array in contents.arrays if array.plane]
            maps = [array for array in maps if min(array.plane) > 1] or maps  # not what is listed per band or class
        else:
            maps = [contents.named(self.label_key)]
        if len(maps) != 1:
            found = listed(maps) if maps else contents.listed()
            raise BadFile(path, f"{len(maps)} label maps: {found}", "name the label map (label key)")
        labels = read_labels(contents.read(maps[0]), path, threshold=self.threshold, zero=self.zero)
        if (labels < 0).all():
            raise _no_labels(path)
        return labels, class_set(int(labels.max()) + 1, contents.class_names, zero=self.zero)

    def read(self) -> Scene:
        """Read the scene as ``open`` does, without looking at its values; raises ``BadFile``."""
        return self._read()[0]

    def _read(self) -> tuple[Scene, Contents]:
        contents = read_contents(Path(self.cube))
        stored = find_cube(contents, self.cube_key)
        return self._labelled(contents, stored, _unlabelled(contents, stored)), contents

    def _labelled(self, contents: Contents, cube: Stored, scene: Scene) -> Scene:
        """Add the labels to a scene, if there are any."""
        own = self.labels is None
        apart = self.labels is not None and Path(self.labels) != Path(self.cube)
        source = read_label_contents(Path(self.labels)) if apart and self.labels is not None else contents
        found = find_labels(source, self.label_key, cube, optional=own)
        if found is None:
            return scene
        if found.shape[:2] != cube.shape[:2]:
            what = f"shape mismatch: the labels {found} do not cover the cube {cube}"
            raise BadFile(source.path, what, "labels and cube must be of one height and width")
        values = source.read(found)
        if own and self.label_key is None and not found.plane and not are_abundances(values):
            return scene  # a second cube
        zero = self.zero if found.plane else "unlabelled"  # abundances have no number to speak of
        indices = read_labels(values, source.path, threshold=self.threshold, zero=zero)
        layers = found.shape[2] if len(found.shape) == 3 else 1
        names = source.class_names or contents.class_names
        classes = class_set(max(1, int(indices.max()) + 1, layers), names, zero=zero)
        return replace(scene, labels=indices, classes=classes)

    def problems(self, scene: Scene, *, infinity: bool = True) -> list[BadFile]:
        """List all that makes a scene of these files unusable.

        Args:
            scene: What ``read`` gave.
            infinity: Whether to search the bands that are not marked bad for infinity, which reads them all.

        """
        cube, bands = Path(self.cube), scene.cube.shape[2]
        found = []
        if scene.wavelengths and len(scene.wavelengths) != bands:
            what = f"wrong band count: {bands} bands, but {len(scene.wavelengths)} wavelengths"
            found.append(BadFile(cube, what, "correct the wavelengths, or remove them"))
        outside = [band for band in scene.bad_bands if not 0 <= band < bands]
        if outside:
            found.append(BadFile(cube, f"bad bands {outside} of {bands} bands", f"bands are 0 to {bands - 1}"))
        if scene.measured is not None and scene.measured.shape != scene.cube.shape[:2]:
            what = f"its mask of measured pixels is {scene.measured.shape}, the scene {scene.cube.shape[:2]}"
            found.append(BadFile(cube, what, "correct or remove the mask"))
        found += _label_problems(scene, Path(self.labels or self.cube), self.zero)
        broken = [band for band in infinite_bands(scene.cube) if band not in scene.bad_bands] if infinity else []
        if broken:
            found.append(BadFile(cube, infinity_in(broken), FINITE))
        return found

    def warnings(self, scene: Scene) -> list[BadFile]:
        """Say that a number may stand for nothing, by some rows of a band in the middle."""
        usable = [band for band in range(scene.cube.shape[2]) if band not in scene.bad_bands]
        if not usable:
            return []
        step = max(1, scene.cube.shape[0] * scene.cube.shape[1] // LOOKED_AT)
        band = usable[len(usable) // 2]
        # Copies: to read a band of a mapped file takes the memory of all bands, until it is released.
        plane = np.concatenate(
            [np.array(scene.cube[rows][-rows.start % step :: step, :, band]) for rows in row_blocks(scene.cube)]
        )
        known = ~absent(plane, scene.no_data)
        if scene.measured is not None:
            known &= scene.measured[::step]
        lone = find_lone(plane[known])
        return [] if lone is None else [BadFile(self.cube, lone.words, DECLARE.format(lone.number))]

    def check(self) -> SceneReport:
        """Read the scene piece by piece and list what is wrong with it, in the words of ``open``.

        Raises:
            BadFile: For files that cannot be read at all.

        """
        scene, contents = self._read()
        problems = self.problems(scene, infinity=False)
        values = _measure(scene)
        usable = [band for band in range(scene.cube.shape[2]) if band not in scene.bad_bands]
        cube = Path(self.cube)
        for bands, what, fix in (
            (values.infinite, "infinity in {}", FINITE),
            (values.low > values.high, "no data anywhere in {}", "mark it as bad (ENVI: bbl), or leave it out"),
            (
                values.low == values.high,
                "{} is the same everywhere",
                "mark it as bad (ENVI: bbl); training leaves it out",
            ),
        ):
            surprising = [band for band in usable if bands[band]]
            if surprising:
                problems.append(BadFile(cube, what.format(band_list(surprising)), fix))
        pixels = np.zeros(0, np.int64) if scene.labels is None else class_pixels(scene)
        unread = 0 if scene.labels is None else int(np.count_nonzero(values.missing & (scene.labels >= 0)))
        if scene.labels is not None and unread == pixels.sum() > 0:
            problems.append(BadFile(cube, "no labelled pixel has data in every band", "mark bands as bad (ENVI: bbl)"))
        constant = np.flatnonzero(values.low == values.high).tolist()
        unused = ", ".join([*(str(a) for a in contents.arrays if len(a.shape) < 3), *contents.others])
        low, high = float(values.low.min()), float(values.high.max())
        missing = int(np.count_nonzero(values.missing))
        odd = self.warnings(scene)
        return SceneReport(scene, low, high, constant, pixels, missing, unread, unused, problems, odd)


def _unlabelled(contents: Contents, cube: Stored) -> Scene:
    return Scene(
        contents.read(cube),
        wavelengths=contents.wavelengths,
        bad_bands=contents.bad_bands,
        georeference=contents.georeference,
        name=contents.path.stem,
        no_data=contents.no_data,
        measured=contents.read_measured(),
    )


def _label_problems(scene: Scene, path: Path, zero: Zero) -> list[BadFile]:
    """List what makes a scene's labels unusable."""
    if scene.labels is None or scene.classes is None:
        return []
    counts = class_pixels(scene)
    if not counts.any():
        return [_no_labels(path)]
    if len(counts) == 1:
        what = f"a single class: every label is {scene.classes.values[0]}, so there is nothing to tell it from"
        fix = "label pixels of another class too"
        if zero == "unlabelled":
            fix += ", or, where 0 is a class of its own (the background of targets), say so: --set zero=class"
        return [BadFile(path, what, fix)]
    return [
        BadFile(path, f"class {number} ({name!r}) without pixels", "label some, or number the classes without gaps")
        for number, name, count in zip(scene.classes.values, scene.classes.names, counts, strict=True)
        if not count
    ]


def _no_labels(path: Path) -> BadFile:
    return BadFile(path, "no labelled pixel", "0 means not labelled: label pixels 1, 2, …")


def class_pixels(scene: Scene) -> np.ndarray:
    """Count the labelled pixels of each class, C int64; raises ``ValueError`` without labels."""
    if scene.labels is None or scene.classes is None:
        raise ValueError(f"scene {scene.name!r} has no labels: name its label map")
    return np.bincount(scene.labels[scene.labels >= 0], minlength=len(scene.classes))


@dataclass(frozen=True)
class _Values:
    """What one pass over a cube finds: per band the least and greatest finite value, and where infinity is."""

    low: np.ndarray
    high: np.ndarray
    infinite: np.ndarray
    missing: np.ndarray  # H x W


def _measure(scene: Scene) -> _Values:
    cube, bands = scene.cube, scene.cube.shape[2]
    low, high, infinite = np.full(bands, np.inf), np.full(bands, -np.inf), np.zeros(bands, bool)
    missing = np.zeros(cube.shape[:2], bool)
    for rows in row_blocks(cube):
        block = cube[rows].reshape(-1, bands)
        if not scene.may_miss:
            low, high = np.minimum(low, block.min(axis=0)), np.maximum(high, block.max(axis=0))
            continue
        piece = scene[rows]
        missing[rows] = piece.missing()
        known = ~absent(block, scene.no_data)
        if scene.measured is not None:
            known &= scene.measured[rows].reshape(-1, 1)
        infinite |= (known & np.isinf(block)).any(axis=0)
        known &= np.isfinite(block)
        low = np.minimum(low, np.where(known, block, np.inf).min(axis=0))
        high = np.maximum(high, np.where(known, block, -np.inf).max(axis=0))
    return _Values(low, high, infinite, missing)
