"""Data sets in any form that is read, written as the plain one: images, masks of class numbers, names."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from fullyconv.annotations.coco import read_coco
from fullyconv.annotations.cvat import read_cvat
from fullyconv.annotations.documents import FIX, read_text
from fullyconv.annotations.geojson import read_geojson
from fullyconv.annotations.kinds import sort_documents
from fullyconv.annotations.labelme import read_labelme
from fullyconv.annotations.labelstudio import read_labelstudio
from fullyconv.annotations.pictures import UNPACKED, Pictures
from fullyconv.annotations.shapes import Annotations, Drawing, Patch, Shape, Size
from fullyconv.annotations.supervisely import read_supervisely
from fullyconv.annotations.yolo import is_yolo, line_files, read_yolo
from fullyconv.data.channels import read_channels
from fullyconv.data.check import find_classes
from fullyconv.data.classes import FILE_NAME, write_classes
from fullyconv.data.dataset import read_labels
from fullyconv.data.folder import open_folder
from fullyconv.data.images import read_raster, rgb
from fullyconv.data.layout import SPLIT_NAMES, Found
from fullyconv.data.own import write_tiff
from fullyconv.data.pairs import Folder, Pair
from fullyconv.data.raster import Raster
from fullyconv.data.tables import UNSCORED
from fullyconv.draw import palette_image, save_picture
from fullyconv.files import BadFile, counted, whole_folder
from fullyconv.outputs import Outputs
from fullyconv.types import LONGEST_NAME, VOID, ClassSet, Levels

BACKGROUND = ("background", "_background_", "__background__")  # what is not drawn is called, too
ANNOTATED = "COCO, LabelMe, Label Studio or Supervisely (JSON), GeoJSON, CVAT (XML), YOLO (text)"
Progress = Callable[[str, int, int], None]


@dataclass
class Conversion:
    """What was written: pictures by split, classes, and what could not be used."""

    kind: str
    splits: Counter[str] = field(default_factory=Counter)
    classes: ClassSet = field(default_factory=lambda: ClassSet(("background",)))
    regions: int = 0
    problems: list[BadFile] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class Refused(ValueError):
    """A data set of which some pictures cannot be drawn; ``problems`` says which and why."""

    def __init__(self, problems: Sequence[BadFile]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


@dataclass(frozen=True)
class Options:
    """How annotations are drawn.

    ``boxes``: things that are boxes only are drawn as rectangles. ``rest``: what pixels outside all shapes are, class
    ``background`` or not scored (``ignore``). ``skip_problems``: leave out pictures that cannot be drawn.
    """

    boxes: bool = False
    rest: str = "background"
    skip_problems: bool = False


def convert(source: Path, out: Path, options: Options = Options(), *, progress: Progress | None = None) -> Conversion:
    """Write a data set as ``images/``, ``masks/`` (in split folders, where it has splits) and ``classes.yaml``.

    Images are copied as they are; only those with an EXIF rotation are written anew, upright. The folder appears whole
    or not at all.

    Args:
        source: A folder of pictures with annotations, or of pictures and masks in a form that ``open_folder`` reads.
        out: A folder that does not exist, or is empty.
        options: How annotations are drawn.
        progress: Told of every picture.

    Raises:
        BadFile: For a source that is of no form we know, a broken document, and an ``out`` with something in it.
        Refused: If some pictures cannot be drawn.
    """
    if not source.is_dir():
        raise BadFile(source, "no such folder", "name the folder of a data set")
    _check_place(source, out)
    pictures = Pictures(source)
    annotations = read_annotations(pictures, boxes=options.boxes)
    with whole_folder(out) as draft:
        writer = _Writer(source, draft, options, progress or (lambda *_: None))
        return writer.draw(annotations, pictures) if annotations else writer.copy(open_folder(source))


def _check_place(source: Path, out: Path) -> None:
    if out.resolve().is_relative_to(source.resolve()):
        raise BadFile(out, f"lies inside {source}, which is read", "choose an --out beside it")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BadFile(out, "is there already and not empty", "choose another --out, or move it away")


def read_annotations(pictures: Pictures, *, boxes: bool = False) -> Annotations | None:
    """Read what a folder holds of outlines; ``None`` if there are none.

    Args:
        pictures: Those of the folder.
        boxes: Draw things that are boxes only.

    Raises:
        BadFile: For a broken document, and for documents of several kinds; but GeoJSON beside others, which ``predict``
            writes with each of them, is passed over.
    """
    source = pictures.root
    kinds, broken = sort_documents(source)
    features = kinds.pop("GeoJSON", [])
    if kinds and broken:  # they may be of the same kind, and what they draw would be missing
        raise broken[0]
    found = _read_kind(source, kinds, boxes=boxes) if kinds else _read_lines(pictures, boxes=boxes)
    if features and found is not None:
        note = f"{len(features)} GeoJSON documents are passed over, for there is {found.kind}, too"
        return replace(found, note=f"{note}: move away what is not meant")
    if found is None and broken and all(each.role != "mask" for each in pictures.found):
        raise broken[0]
    return read_geojson(features, pictures) if features else found


def _read_lines(pictures: Pictures, *, boxes: bool) -> Annotations | None:
    lines = line_files(pictures.root, [found.path for found in pictures.found if found.role != "mask"])
    any_yolo = any(path is not None and is_yolo(read_text(path)) for path in lines.values())
    return read_yolo(pictures.root, lines, boxes=boxes) if any_yolo else None


def _read_kind(source: Path, kinds: dict[str, list[Path]], *, boxes: bool) -> Annotations:
    if len(kinds) > 1:
        found = ", ".join(f"{kind} ({paths[0].name})" for kind, paths in kinds.items())
        raise BadFile(source, f"annotations of several kinds: {found}", "move all but one away")
    if "COCO" in kinds:
        return read_coco(kinds["COCO"], boxes=boxes)
    if "LabelMe" in kinds:
        return read_labelme(kinds["LabelMe"])
    if "Label Studio" in kinds:
        return read_labelstudio(kinds["Label Studio"])
    if "Supervisely" in kinds:
        return read_supervisely(source, kinds["Supervisely"])
    return read_cvat(kinds["CVAT"])


def class_set(annotations: Annotations, *, rest: str) -> tuple[ClassSet, dict[str, int]]:
    """Number the classes of annotations: what is not drawn is class 0, the background, unless it is not scored.

    Returns:
        The classes, and the label of each name.

    >>> classes, labels = class_set(Annotations("LabelMe", ("cell", "__ignore__"), (), {}, {}), rest="background")
    >>> classes.names, labels
    (('background', 'cell'), {'__ignore__': -1, 'background': 0, 'cell': 1})
    """
    ground = [name for name in annotations.names if name.casefold() in BACKGROUND][:1]
    ground = ground or ([BACKGROUND[0]] if rest == BACKGROUND[0] else [])
    ignored = {name: VOID for name in annotations.names if name.casefold() in UNSCORED}
    names = (*ground, *(name for name in annotations.names if name not in ground and name not in ignored))
    if not names:
        raise ValueError("no class is drawn")
    classes = ClassSet(names, ignore_index=255 if len(names) < 255 else 65_535)
    given = tuple(annotations.colours.get(name, classes.colours[place]) for place, name in enumerate(names))
    coloured = ClassSet(names, given, classes.ignore_index)
    return coloured, ignored | {name: place for place, name in enumerate(names)}


def _first_of_long_names(annotations: Annotations) -> Path | None:
    """Return the document that names a class too long, else the first of all."""
    drawn = ((region.label, each.document) for each in annotations.drawings for region in each.regions)
    first = next((each.document for each in annotations.drawings), None)
    return next((document for name, document in drawn if len(name) > LONGEST_NAME), first)


class _Writer:
    """Fills the draft of a plain folder."""

    def __init__(self, source: Path, draft: Path, options: Options, progress: Progress) -> None:
        self._source, self._draft, self._options, self._progress = source, draft, options, progress
        self._outputs = Outputs(draft, by="data convert")

    def draw(self, annotations: Annotations, pictures: Pictures) -> Conversion:
        """Write every picture that has a drawing, with its mask."""
        self.done = Conversion(annotations.kind)
        try:
            classes, labels = class_set(annotations, rest=self._options.rest)
        except ValueError as error:
            raise BadFile(_first_of_long_names(annotations) or self._source, str(error), FIX) from None
        self.done.classes = classes
        placed = self._placed(annotations, pictures)
        for number, (drawing, found, target) in enumerate(placed, start=1):
            self._progress("drawing", number, len(placed))
            with self._noting():
                self._draw(drawing, found, target, labels)
        if undrawn := len(pictures.found) - len({found.path for _, found, _ in placed}):
            self.done.notes.append(f"left out: {counted(undrawn, 'picture')} that no document names")
        self.done.notes += [annotations.note] if annotations.note else []
        for what, count in annotations.left_out.items():
            more = ": --boxes draws them as rectangles" if what == "boxes" else ""
            self.done.notes.append(f"{count} {what}, which are no areas, are left out{more}")
        if annotations.left_out and not (self.done.regions or self.done.problems):  # masks would be empty
            raise BadFile(self._source, f"nothing is drawn: {self.done.notes[-1]}", "draw outlines")
        return self._finish(classes)

    def copy(self, folder: Folder) -> Conversion:
        """Write every pair of a data set of images and masks."""
        self.done = Conversion("masks")
        classes, _ = find_classes(folder, progress=self._progress)
        plain = ClassSet(classes.names, classes.colours, 255 if len(classes) < 255 else 65_535)
        self.done.classes, self.done.notes = plain, [folder.note] if folder.note else []
        if folder.heads:
            self.done.notes.append(f"left out: the masks of the further heads {', '.join(folder.heads)}")
        self.done.problems += folder.problems
        placed = list(_targets(folder))
        for number, (pair, target) in enumerate(placed, start=1):
            self._progress("copying", number, len(placed))
            with self._noting():
                labels = read_labels(pair, classes)
                levels = Levels(((0.0, 255.0),), beside=folder.beside) if folder.beside else None
                raster = read_channels(pair.image, levels)
                self._write(pair.image, raster, labels, target, together=bool(folder.beside))
        return self._finish(plain)

    @contextmanager
    def _noting(self) -> Iterator[None]:
        try:
            yield
        except BadFile as bad:
            self.done.problems.append(bad)

    def _placed(self, annotations: Annotations, pictures: Pictures) -> list[tuple[Drawing, Found, Path]]:
        """Find the picture of each drawing, and where both are to be written."""
        found: list[tuple[Drawing, Found, str]] = []
        drawn: dict[Path, Path] = {}
        for drawing in annotations.drawings:
            with self._noting():
                split = SPLIT_NAMES.get(drawing.split.lower(), "")
                picture = self._picture(drawing, pictures, split)
                if picture.path in drawn:
                    what = f"draws {picture.path.name}, as {drawn[picture.path].name} does"
                    raise BadFile(drawing.document, what, "move one of the two away")
                drawn[picture.path] = drawing.document
                found.append((drawing, picture, split or picture.split))
        rest = "train" if any(split for _, _, split in found) else ""
        counted = Counter((split or rest, picture.stem) for _, picture, split in found)
        placed = []
        for drawing, picture, split in found:
            where = picture.where if counted[split or rest, picture.stem] > 1 else ""
            placed.append((drawing, picture, Path(split or rest, "images", where, picture.path.name)))
        return placed

    def _picture(self, drawing: Drawing, pictures: Pictures, split: str) -> Found:
        """Find the picture of a drawing; one that is not there may be in its document."""
        try:
            return pictures.find(drawing.name, drawing.document, split)
        except BadFile:
            if drawing.embedded is None:
                raise
        return pictures.unpack(drawing, self._draft / UNPACKED)

    def _draw(self, drawing: Drawing, found: Found, target: Path, labels: dict[str, int]) -> None:
        raster = read_raster(found.path)
        upright: Size = (raster.values.shape[0], raster.values.shape[1])
        stored = upright[::-1] if raster.turned >= 5 else upright
        size = drawing.size or upright
        if size not in (upright, stored):
            what = f"{found.path.name} is {upright[1]} x {upright[0]}, and it was drawn on {size[1]} x {size[0]}"
            raise BadFile(drawing.document, what, "take the picture that was annotated")
        drawn = np.full(size, labels.get(self.done.classes.names[0], 0), np.int16)
        if self._options.rest == "ignore":
            drawn[:] = VOID
        for region in drawing.regions:
            patch = _patch(region.shape, region.label, drawing, size)
            height, width = patch.inside.shape
            drawn[patch.top :, patch.left :][:height, :width][patch.inside] = labels[region.label]
        if size != upright:  # annotated as stored, on its side
            drawn = Raster(drawn[..., None], "grey", turn=raster.turned).upright().values[..., 0]
        self._write(found.path, raster, drawn, target)
        self.done.regions += len(drawing.regions)

    def _write(self, source: Path, raster: Raster, labels: np.ndarray, target: Path, *, together: bool = False) -> None:
        """Write a picture and its mask; ``together`` the channels of several files, of which a copy would be one."""
        height, width = raster.values.shape[:2]
        if (height, width) != labels.shape:
            what = f"is {width} x {height}, its mask {labels.shape[1]} x {labels.shape[0]}"
            raise BadFile(source, what, "save both at one size")
        if together or raster.turned != 1:
            target = target.with_suffix(".tif" if together else ".png")
        mask = Path(*("masks" if part == "images" else part for part in target.parts)).with_suffix(".png")
        image = self._draft / target
        image.parent.mkdir(parents=True, exist_ok=True)
        (self._draft / mask).parent.mkdir(parents=True, exist_ok=True)
        if image.exists() or (self._draft / mask).exists():
            raise BadFile(source, f"another picture is called {target.stem}, too", "rename one")
        with self._outputs.writing(target.as_posix(), mask.as_posix()):
            if together:
                write_tiff(raster.values, image)
            elif raster.turned == 1:
                shutil.copyfile(source, image)
            else:
                save_picture(rgb(raster, source), image)
            save_picture(palette_image(labels, self.done.classes), self._draft / mask)
        self.done.splits[target.parts[0] if target.parts[0] != "images" else "all"] += 1

    def _finish(self, classes: ClassSet) -> Conversion:
        if self.done.problems and not self._options.skip_problems:
            raise Refused(self.done.problems)
        if not self.done.splits:
            raise BadFile(self._source, "nothing to write: no picture is drawn on", f"annotations are {ANNOTATED}")
        shutil.rmtree(self._draft / UNPACKED, ignore_errors=True)
        with self._outputs.writing(FILE_NAME):
            write_classes(classes, self._draft / FILE_NAME)
        return self.done


def _patch(shape: Shape, label: str, drawing: Drawing, size: Size) -> Patch:
    try:
        patch = shape.patch(size)
        if patch is None:
            raise ValueError("it lies outside the picture")
        return patch
    except ValueError as error:
        what = f"a shape of {label!r} on {drawing.name[:80]!r}: {error}"
        raise BadFile(drawing.document, what, "correct it in the tool that drew it") from None


def _targets(folder: Folder) -> Iterator[tuple[Pair, Path]]:
    """Yield each pair, once, with the place of its image; lists that repeat others are left out."""
    seen: set[Path] = set()
    for split in ("train", "val", "test", *folder.splits):
        for pair in folder.splits.get(split, ()):
            if pair.image not in seen:
                seen.add(pair.image)
                inside = "" if split == "all" else split
                name = pair.name if pair.title else pair.image.stem
                yield pair, Path(inside, "images", name + pair.image.suffix)
