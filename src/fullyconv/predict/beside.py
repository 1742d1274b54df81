"""What is written of a picture beside its mask and overlay: polygons, areas, a map where it lies, a legend."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from fullyconv.data.place import Place, missing, read_place, write_class_tiff
from fullyconv.files import BadFile, whole_file, write_text
from fullyconv.outputs import Outputs
from fullyconv.predict.prediction import Prediction
from fullyconv.predict.work import Task
from fullyconv.regions import Polygon, simplify, trace
from fullyconv.regions.documents import Coco, geojson, labelme, yolo, yolo_classes
from fullyconv.types import VOID, ClassSet

TOOLS = ("coco", "yolo", "labelme")
MAP = "_classes.tif"  # of pictures that lie somewhere
COCO, CLASSES, LABELS, AREAS = "coco.json", "data.yaml", "labels.txt", "areas.csv"
COLUMNS = ("picture", "class", "region", "pixels", "share", "area", "unit", "left", "top", "right", "bottom")


@dataclass(frozen=True)
class Beside:
    """What is written of each picture beside its mask and overlay.

    Attributes:
        polygons: ``STEM.geojson``, the regions' outlines.
        tools: The same for annotation tools: ``coco`` (``coco.json`` of all pictures), ``yolo`` (``STEM.txt``, and
            ``data.yaml``), ``labelme`` (``STEM.json``, and ``labels.txt``).
        tolerance: Pixels by which outlines may move to have fewer corners.
        least: Pixels; smaller regions get no outline.
        areas: ``areas.csv``, the pixels and the area of each class and region.
        legend: The classes' names below the overlay.

    Raises:
        ValueError: For a tool that is none of those.
    """

    polygons: bool = False
    tools: tuple[str, ...] = ()
    tolerance: float = 0.0
    least: int = 1
    areas: bool = False
    legend: bool = False

    def __post_init__(self) -> None:
        if unknown := [tool for tool in self.tools if tool not in TOOLS]:
            raise ValueError(f"polygons are written for {', '.join(TOOLS)}, not for {unknown[0]!r}")

    def suffixes(self, task: Task) -> tuple[str, ...]:
        """Return those of the files that are written of one picture."""
        own = {".geojson": self.polygons, ".txt": "yolo" in self.tools, ".json": "labelme" in self.tools}
        found = [suffix for suffix, wanted in own.items() if wanted]
        return (*found, MAP) if read_place(task.image) is not None else tuple(found)

    def asked(self, *, probabilities: bool = False) -> tuple[str, ...]:
        """Return the options for what is made of all labels of a picture at once."""
        own = {
            "--probabilities": probabilities, "--polygons": self.polygons, "--polygons-to": bool(self.tools),
            "--areas": self.areas, "--legend": self.legend,
        }  # fmt: skip
        return tuple(option for option, wanted in own.items() if wanted)

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
        self._beside, self._classes, self._outputs = beside, classes, outputs
        self._images = {outputs.folder / task.target: task.image for task in tasks}
        self._coco = Coco(classes)
        self._rows: list[dict[str, Any]] = []

    def write(self, prediction: Prediction, target: Path) -> None:
        """Write what is wanted of one picture."""
        image = self._images[target]
        place = read_place(image)
        labels = prediction.labels if place is None else _with_nothing(prediction.labels, image, place)
        beside, classes = self._beside, self._classes
        if place is not None:
            table = np.array([*classes.values, classes.ignore_index])
            values = table.astype(np.uint8 if table.max() < 256 else np.uint16)[labels]
            with whole_file(target.with_name(target.name + MAP)) as draft:
                write_class_tiff(draft, values, classes, place)
        if beside.polygons or beside.tools or beside.areas:
            self._write_polygons(trace(labels), labels, image, target, place)

    def _write_polygons(
        self, every: list[Polygon], labels: np.ndarray, image: Path, target: Path, place: Place | None
    ) -> None:
        beside, classes = self._beside, self._classes
        name = target.relative_to(self._outputs.folder).as_posix()
        kept = [simplify(each, beside.tolerance) for each in every if each.pixels >= beside.least]
        height, width = labels.shape
        path = Path(os.path.relpath(image, target.parent)).as_posix()
        if beside.polygons:
            _write(target.with_name(target.name + ".geojson"), geojson(kept, classes, place, path))
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
            CLASSES: lambda path: write_text(path, yaml.safe_dump(yolo_classes(self._classes), allow_unicode=True)),
            LABELS: lambda path: write_text(path, "".join(f"{name}\n" for name in self._classes.names)),
            AREAS: lambda path: write_text(path, _csv(self._rows)),
        }
        for name in self._beside.once():
            with self._outputs.writing(name):
                texts[name](self._outputs.folder / name)


def _write(path: Path, document: Any) -> None:
    """Write JSON on one line: what it holds are thousands of corners."""
    write_text(path, json.dumps(document, ensure_ascii=False, allow_nan=False) + "\n")


def _with_nothing(labels: np.ndarray, image: Path, place: Place) -> np.ndarray:
    """Return labels that are void where the picture holds nothing."""
    empty = missing(image, place)
    if empty is None or not empty.any():
        return labels
    if empty.shape != labels.shape:
        raise BadFile(image, f"its no-data pixels are {empty.shape}, its picture {labels.shape}", "save it anew")
    return np.where(empty, VOID, labels.astype(np.int32))


def area_rows(
    picture: str, polygons: Sequence[Polygon], labels: np.ndarray, classes: ClassSet, place: Place | None
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
    each_row = np.ones(len(labels)) if place is None else place.row_areas(len(labels))
    unit = "px" if place is None else "m2"
    total = max(1, int((labels >= 0).sum()))
    uniform = bool((each_row == each_row[0]).all())
    for label, name in enumerate(classes.names):
        mask = labels == label
        pixels = int(mask.sum())
        if not pixels:
            continue
        common = {"picture": picture, "class": name, "unit": unit}
        area = float((mask.sum(1) * each_row).sum())
        yield common | {"region": 0, "pixels": pixels, "share": pixels / total, "area": area}
        regions = [each for each in polygons if each.label == label]
        for number, each in enumerate(regions, 1):
            left, top, right, bottom = each.box
            found = each.pixels * each_row[0] if uniform else _area(each, each_row)
            yield common | {
                "region": number, "pixels": each.pixels, "share": each.pixels / total, "area": float(found),
                "left": left, "top": top, "right": right, "bottom": bottom,
            }  # fmt: skip


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
