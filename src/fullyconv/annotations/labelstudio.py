"""Label Studio's JSON exports: polygons, boxes and ellipses in hundredths of the picture's size, and brush strokes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, model_validator

from fullyconv.annotations.documents import Part, at_place, read_document
from fullyconv.annotations.runs import brush_pixels
from fullyconv.annotations.shapes import Annotations, Bitmap, Drawing, Outline, Region, Shape, Size, ellipse, turn
from fullyconv.files import counted

LABELS = ("polygonlabels", "rectanglelabels", "ellipselabels", "brushlabels", "labels")


class _Value(Part):
    points: list[tuple[float, float]] | None = None
    x: float = 0
    y: float = 0
    width: float = 0
    height: float = 0
    radiusX: float = 0  # noqa: N815, Label Studio's own names
    radiusY: float = 0  # noqa: N815
    rotation: float = 0
    rle: list[int] | None = None
    polygonlabels: tuple[str, ...] = ()
    rectanglelabels: tuple[str, ...] = ()
    ellipselabels: tuple[str, ...] = ()
    brushlabels: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()


class _Result(Part):
    type: str = ""
    value: _Value = Field(default_factory=_Value)
    original_width: int = 0
    original_height: int = 0


class _Annotation(Part):
    result: tuple[_Result, ...] = ()
    was_cancelled: bool = False


class _Task(Part):
    data: dict[str, Any]
    annotations: tuple[_Annotation, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _from_flat(cls, row: Any) -> Any:
        """Bring a row of the export JSON-MIN, in which shapes stand beside the data, to the form of a task."""
        if not isinstance(row, dict) or "data" in row or "annotation_id" not in row:
            return row
        shapes = [each for value in row.values() if isinstance(value, list) for each in value if isinstance(each, dict)]
        keys = ("original_width", "original_height")
        result = [{"value": shape} | {key: shape[key] for key in keys if key in shape} for shape in shapes]
        return {"data": row, "annotations": [{"result": result}]}


def is_labelstudio(document: object) -> bool:
    """Return whether a JSON document is a list of Label Studio's tasks."""
    first = document[0] if isinstance(document, list) and document else None
    return isinstance(first, dict) and ({"data", "annotations"} <= first.keys() or "annotation_id" in first)


def read_labelstudio(paths: Sequence[Path]) -> Annotations:
    """Read exported tasks; of several annotations of a task the last counts. Classes are in the order of their names.

    A task that was skipped, or that nobody has annotated yet, says nothing of its picture: it is left out.

    Raises:
        BadFile: For a document that is broken.
    """
    left_out: Counter[str] = Counter()
    tasks = [(path, place, task) for path in paths for place, task in enumerate(read_document(path, list[_Task]))]
    whole = [each for each in tasks if not all(annotation.was_cancelled for annotation in each[2].annotations)]
    drawings = tuple(_drawing(path, number, task, left_out) for path, number, task in whole)
    names = sorted({region.label for drawing in drawings for region in drawing.regions})
    undone = len(tasks) - len(whole)
    note = f"left out: {counted(undone, 'task')} skipped, or annotated by nobody" if undone else ""
    return Annotations("Label Studio", tuple(names), drawings, {}, dict(left_out), note)


def _drawing(path: Path, number: int, task: _Task, left_out: Counter[str]) -> Drawing:
    name = next((value for key in ("image", "img", *task.data) if isinstance(value := task.data.get(key), str)), "")
    whole = [each for each in task.annotations if not each.was_cancelled]
    regions, size = [], None
    for result in whole[-1].result:
        label = next((words[0] for key in LABELS if (words := getattr(result.value, key))), "")
        if not label:  # choices, ratings, and the bare shapes that stand beside the labelled ones
            continue
        size = (result.original_height, result.original_width)
        with at_place(path, f"task {number}"):
            shape = _shape(result, size)
        if shape is None:
            left_out[f"shapes of type {result.type}"] += 1
        else:
            regions.append(Region(label, shape))
    return Drawing(name, path, tuple(regions), size=size)


def _shape(result: _Result, size: Size) -> Shape | None:
    value, (height, width) = result.value, size
    if height < 1 or width < 1:
        raise ValueError("a shape without the size of its picture")
    if value.rle is not None:
        return Bitmap(partial(brush_pixels, value.rle, height, width), (0, 0, height, width), of=size)
    scale = np.array([width, height]) / 100
    if value.points is not None:
        return Outline([np.array(value.points, np.float64).reshape(-1, 2) * scale])
    x, y = (scale * (value.x, value.y)).tolist()
    if value.radiusX and value.radiusY:
        return ellipse((x, y), (width * value.radiusX / 100, height * value.radiusY / 100), value.rotation)
    if value.width and value.height:
        corners = (scale * [(0, 0), (value.width, 0), (value.width, value.height), (0, value.height)]) + (x, y)
        return turn(corners, (x, y), value.rotation)  # a box turns around its upper left corner
    return None
