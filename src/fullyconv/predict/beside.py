"""What is written of a picture beside its mask and overlay: polygons, areas, a map where it lies, a legend."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import StringIO
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from fullyconv.data.place import TILE, Place, mask_values, read_place, write_class_tiff
from fullyconv.data.storing import write_store
from fullyconv.files import BadFile, is_store, whole_file, write_text
from fullyconv.outputs import Outputs
from fullyconv.predict.draft import Draft
from fullyconv.predict.prediction import Prediction
from fullyconv.predict.work import Task
from fullyconv.regions import Polygon, simplify, trace
from fullyconv.regions.documents import Coco, collection, feature, geojson, labelme, yolo, yolo_classes
from fullyconv.regions.geopackage import geopackage
from fullyconv.regions.joining import TooManyRegions, trace_rows
from fullyconv.types import ClassSet

TOOLS = ("coco", "yolo", "labelme", "gpkg")
MAP = "_classes.tif"  # of pictures that lie somewhere
STORE = "_classes.zarr"  # of pictures in Zarr stores
COCO, CLASSES, LABELS, AREAS = "coco.json", "data.yaml", "labels.txt", "areas.csv"
MOST_REGIONS = 300_000  # of one picture by rows in a table of areas: 250 MB of rows
COLUMNS = ("picture", "class", "region", "pixels", "share", "area", "unit", "left", "top", "right", "bottom")


@dataclass(frozen=True)
class Beside:
    """What is written of each picture beside its mask and overlay.

    Attributes:
        polygons: ``STEM.geojson``, the regions' outlines.
        tools: The same for other tools: ``coco`` (``coco.json`` of all pictures), ``yolo`` (``STEM.txt``, and
            ``data.yaml``), ``labelme`` (``STEM.json``, and ``labels.txt``), ``gpkg`` (``STEM.gpkg``, for maps).
        tolerance: Pixels by which outlines may move to have fewer corners.
        least: Pixels; smaller regions get no outline.
        areas: ``areas.csv``, the pixels and the area of each class and region.
        legend: The classes' names below the overlay.
        level: Which size of the pictures is labelled, 0 the full one.

    Raises:
        ValueError: For a tool that is none of those.
    """

    polygons: bool = False
    tools: tuple[str, ...] = ()
    tolerance: float = 0.0
    least: int = 1
    areas: bool = False
    legend: bool = False
    level: int = 0

    def __post_init__(self) -> None:
        if unknown := [tool for tool in self.tools if tool not in TOOLS]:
            raise ValueError(f"polygons are written for {', '.join(TOOLS)}, not for {unknown[0]!r}")

    def suffixes(self, task: Task) -> tuple[str, ...]:
        """Return those of the files that are written of one picture."""
        own = {".geojson": self.polygons, ".txt": "yolo" in self.tools, ".json": "labelme" in self.tools}
        own[".gpkg"] = "gpkg" in self.tools
        found = [suffix for suffix, wanted in own.items() if wanted]
        if is_store(task.image):
            return (*found, STORE)
        return (*found, MAP) if read_place(task.image, self.level) is not None else tuple(found)

    def at_once(self) -> tuple[str, ...]:
        """Return the options for what is made of all labels of a picture at once."""
        return tuple(f"--polygons-to {tool}" for tool in self.tools if tool != "gpkg")

    def once(self) -> tuple[str, ...]:
        """Return the names of the files that are written of all pictures together."""
        own = {
            COCO: "coco" in self.tools, CLASSES: "yolo" in self.tools, LABELS: "labelme" in self.tools,
            AREAS: self.areas,
        }  # fmt: skip
        return tuple(name for name, wanted in own.items() if wanted)


class Written:
    """Writes what is wanted beside, picture by picture, and in the end what is of all of them together.

    Args:
        beside: What is wanted.
        classes: What labels mean.
        outputs: The folder.
        tasks: All pictures.
    """

    def __init__(self, beside: Beside, classes: ClassSet, outputs: Outputs, tasks: Sequence[Task]) -> None:
        self.beside, self.classes, self._outputs = beside, classes, outputs
        self._images = {outputs.folder / task.target: task.image for task in tasks}
        self._coco = Coco(classes)
        self._rows: list[dict[str, Any]] = []

    def write(self, prediction: Prediction, target: Path) -> None:
        """Write what is wanted of one picture."""
        image, labels = self._images[target], prediction.labels
        beside, classes = self.beside, self.classes
        place = read_place(image, beside.level)
        if is_store(image):
            bands = [labels[top : top + TILE] for top in range(0, len(labels), TILE)]
            write_store(target.with_name(target.name + STORE), bands, labels.shape, classes, like=image)
        if place is not None:
            values = mask_values(classes)[labels]
            with whole_file(target.with_name(target.name + MAP)) as draft:
                write_class_tiff(draft, values, classes, place)
        if beside.polygons or beside.tools or beside.areas:
            self._write_polygons(trace(labels), labels, image, target, place)

    def write_large(self, draft: Draft, target: Path) -> None:
        """Write what is wanted of a picture that is too large to be held: its regions, as they are finished."""
        beside, classes, image = self.beside, self.classes, self._images[target]
        if is_store(image):
            bands = (draft.labels(top, min(top + TILE, draft.size[0])) for top in range(0, draft.size[0], TILE))
            write_store(target.with_name(target.name + STORE), bands, draft.size, classes, like=image)
        if not (beside.polygons or beside.areas or "gpkg" in beside.tools):
            return
        place, path = read_place(image, beside.level), Path(os.path.relpath(image, target.parent)).as_posix()
        areas = Areas(classes, place, draft.size[0])
        polygons = _measured(trace_rows(_counted(draft, areas)), areas if beside.areas else None)
        try:
            with self._taking(target, place, path) as takers:
                for each in polygons:
                    if takers and each.pixels >= beside.least:
                        kept = simplify(each, beside.tolerance)
                        for take in takers:
                            take(kept)
        except TooManyRegions as error:
            fix = "cut the picture into parts, or leave out --polygons and --areas"
            raise BadFile(image, str(error), fix) from None
        if beside.areas:
            self._rows += areas.rows(target.relative_to(self._outputs.folder).as_posix())

    @contextmanager
    def _taking(self, target: Path, place: Place | None, picture: str) -> Iterator[list[Callable[[Polygon], None]]]:
        """Open the files that polygons are written to one by one; yields what takes them."""
        beside, classes = self.beside, self.classes
        with ExitStack() as files:
            takers = []
            if beside.polygons:
                file = target.with_name(target.name + ".geojson")
                takers.append(files.enter_context(_features(file, classes, place, picture)))
            if "gpkg" in beside.tools:
                takers.append(files.enter_context(geopackage(_gpkg(target), classes, place)))
            yield takers

    def _write_polygons(
        self, every: list[Polygon], labels: np.ndarray, image: Path, target: Path, place: Place | None
    ) -> None:
        beside, classes = self.beside, self.classes
        name = target.relative_to(self._outputs.folder).as_posix()
        kept = [simplify(each, beside.tolerance) for each in every if each.pixels >= beside.least]
        height, width = labels.shape
        path = Path(os.path.relpath(image, target.parent)).as_posix()
        if beside.polygons:
            _write(target.with_name(target.name + ".geojson"), geojson(kept, classes, place, path))
        if "gpkg" in beside.tools:
            with geopackage(_gpkg(target), classes, place) as take:
                for each in kept:
                    take(each)
        if "yolo" in beside.tools:
            write_text(target.with_name(target.name + ".txt"), yolo(kept, (height, width)))
        if "labelme" in beside.tools:
            document = labelme(kept, classes, (height, width), path)
            _write(target.with_name(target.name + ".json"), document)
        if "coco" in beside.tools:
            self._coco.add(
                image.name if target.parent == self._outputs.folder else name + image.suffix, (height, width), kept
            )
        if beside.areas:
            self._rows += area_rows(name, every, labels, classes, place)

    def finish(self) -> None:
        """Write what is of all pictures together."""
        texts: dict[str, Callable[[Path], None]] = {
            COCO: lambda path: _write(path, self._coco.document()),
            CLASSES: lambda path: write_text(path, yaml.safe_dump(yolo_classes(self.classes), allow_unicode=True)),
            LABELS: lambda path: write_text(path, "".join(f"{name}\n" for name in self.classes.names)),
            AREAS: lambda path: write_text(path, _csv(self._rows)),
        }
        for name in self.beside.once():
            with self._outputs.writing(name):
                texts[name](self._outputs.folder / name)


def _write(path: Path, document: Any) -> None:
    """Write JSON on one line: what it holds are thousands of corners."""
    write_text(path, json.dumps(document, ensure_ascii=False, allow_nan=False) + "\n")


@contextmanager
def _features(path: Path, classes: ClassSet, place: Place | None, picture: str) -> Iterator[Callable[[Polygon], None]]:
    """Write a GeoJSON FeatureCollection, feature by feature."""
    with whole_file(path) as draft, draft.open("w", encoding="utf-8") as file:
        between = [json.dumps(collection(classes, place, picture), ensure_ascii=False)[:-1] + ', "features": [']

        def take(polygon: Polygon) -> None:
            described = json.dumps(feature(polygon, classes, place), ensure_ascii=False, allow_nan=False)
            file.write((between.pop() if between else ", ") + described)

        yield take
        file.write((between.pop() if between else "") + "]}\n")


def _gpkg(target: Path) -> Path:
    return target.with_name(target.name + ".gpkg")


def _counted(draft: Draft, areas: Areas) -> Iterator[np.ndarray]:
    """Return a large picture's labels by rows, and count them."""
    for band in draft.bands():
        areas.add(band)
        yield band


def _measured(polygons: Iterator[Polygon], areas: Areas | None) -> Iterator[Polygon]:
    for each in polygons:
        if areas is not None:
            areas.add_region(each)
            if areas.regions > MOST_REGIONS:
                raise TooManyRegions(f"has over {MOST_REGIONS} regions, more than a table of areas is made of")
        yield each


def area_rows(
    picture: str, polygons: Iterable[Polygon], labels: np.ndarray, classes: ClassSet, place: Place | None
) -> Iterator[dict[str, Any]]:
    """List the pixels and areas of each class of a picture, then of each region.

    Args:
        picture: Its name.
        polygons: All regions, as ``trace`` found them.
        labels: H x W.
        classes: What they mean.
        place: Where the picture lies: areas are square metres then, else pixels.

    Yields:
        A row for each class that occurs (region 0), followed by its regions, numbered from 1.
    """
    areas = Areas(classes, place, len(labels))
    areas.add(labels)
    for each in polygons:
        areas.add_region(each)
    return areas.rows(picture)


class Areas:
    """The pixels and areas of a picture's classes and regions; the picture may come by rows.

    Args:
        classes: What its labels mean.
        place: Where it lies: areas are square metres then, else pixels.
        height: Its rows.
    """

    def __init__(self, classes: ClassSet, place: Place | None, height: int) -> None:
        self._classes, self._unit, self._row = classes, "px" if place is None else "m2", 0
        self._each_row = np.ones(height) if place is None else place.row_areas(height)
        self._uniform = bool((self._each_row == self._each_row[:1]).all())
        self._pixels, self._areas = np.zeros(len(classes), np.int64), np.zeros(len(classes))
        self._regions: list[tuple[int, int, int, int, float, tuple[float, ...]]] = []

    def add(self, labels: np.ndarray) -> None:
        """Count the next rows, h x W; what is negative belongs to no class."""
        counts = np.array([np.bincount(row[row >= 0], minlength=len(self._classes)) for row in labels])
        self._pixels += counts.sum(0)
        self._areas += self._each_row[self._row : self._row + len(labels)] @ counts
        self._row += len(labels)

    def add_region(self, polygon: Polygon) -> None:
        """Measure a region."""
        uniform = polygon.pixels * float(self._each_row[0])
        area = uniform if self._uniform else _area(polygon, self._each_row)
        column, row = polygon.rings[0][-1].tolist()  # of the first pixel
        self._regions.append((polygon.label, row, column, polygon.pixels, area, polygon.box))

    @property
    def regions(self) -> int:
        """How many there are."""
        return len(self._regions)

    def rows(self, picture: str) -> Iterator[dict[str, Any]]:
        """List each class that occurs (region 0), followed by its regions in the order of their first pixels."""
        total = max(1, int(self._pixels.sum()))
        regions = {label: list(own) for label, own in groupby(sorted(self._regions), key=lambda each: each[0])}
        for label, name in enumerate(self._classes.names):
            if not self._pixels[label]:
                continue
            common = {"picture": picture, "class": name, "unit": self._unit}
            pixels, area = int(self._pixels[label]), float(self._areas[label])
            yield common | {"region": 0, "pixels": pixels, "share": pixels / total, "area": area}
            for number, (_, _, _, pixels, area, box) in enumerate(regions.get(label, ()), 1):
                sides = dict(zip(("left", "top", "right", "bottom"), box, strict=True))
                yield common | {"region": number, "pixels": pixels, "share": pixels / total, "area": area} | sides


def _area(polygon: Polygon, each_row: np.ndarray) -> float:
    """Sum the areas of a polygon's pixels, whose rows differ: by its vertical edges, as Green's theorem says."""
    below = np.concatenate([[0.0], np.cumsum(each_row)])  # of a column of pixels, down to each edge between rows
    total = 0.0
    for ring in polygon.rings:
        following = np.roll(ring, -1, 0)
        total += float((ring[:, 0] * (below[following[:, 1]] - below[ring[:, 1]])).sum())
    return abs(total)


def _csv(rows: Sequence[dict[str, Any]]) -> str:
    buffer = StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        {key: f"{value:.10g}" if isinstance(value, float) else value for key, value in row.items()} for row in rows
    )
    return buffer.getvalue()
