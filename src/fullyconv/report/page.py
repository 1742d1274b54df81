"""The pages' common parts: templates, tables of classes, keys of colours, pictures within the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from PIL import Image

from fullyconv.draw import UNSCORED, Colour
from fullyconv.evaluation import Evaluation
from fullyconv.files import whole_file
from fullyconv.scores.metrics import shown
from fullyconv.train.folder import HEADS, REPORT
from fullyconv.types import ClassSet

FILE_NAME = REPORT


@dataclass(frozen=True)
class Key:
    """What a colour stands for in the pictures of a page."""

    colour: Colour
    meaning: str


@dataclass(frozen=True)
class ClassRow:
    """A class in the table of scores: its share of the labelled pixels and its scores, 0..1 (NaN: none)."""

    key: Key
    share: float
    accuracy: float
    f1: float
    iu: float


def head_place(folder: Path, head: str = "") -> Path:
    """Choose where the page and the figures of a head lie, those of the first in the folder itself.

    Args:
        folder: Of a run or a report.
        head: The head's name, empty of the first.

    Returns:
        The folder; it is not made here.

    >>> head_place(Path("run"), "geometry").as_posix()
    'run/heads/geometry'
    """
    return folder / HEADS / head if head else folder


def class_rows(evaluation: Evaluation) -> list[ClassRow]:
    """Return the scores of every class, in the order of the classes."""
    scores, counts = evaluation.scores, evaluation.counts
    shares = counts.sum(1) / max(1, counts.sum())
    figures = (scores.per_class_accuracy, scores.per_class_f1, scores.per_class_iu)
    return [
        ClassRow(key, float(share), *values)
        for key, share, *values in zip(class_keys(evaluation.classes), shares, *figures, strict=True)
    ]


def class_keys(classes: ClassSet, *, void: str | None = None) -> list[Key]:
    """Return what the colours of painted labels stand for; ``void`` names the colour of what is not a class."""
    keys = [Key(colour, name) for colour, name in zip(classes.colours, classes.names, strict=True)]
    return keys if void is None else [*keys, Key(UNSCORED, void)]


def picture(pixels: np.ndarray, *, longest: int, kind: Literal["JPEG", "PNG"]) -> str:
    """Return H x W x 3 uint8 pixels as a ``data:`` address, shrunk so that no side is over ``longest`` pixels.

    PNG pictures keep their colours exactly, so they are shrunk without mixing neighbours.
    """
    shown = Image.fromarray(pixels)
    exact = kind == "PNG"
    shown.thumbnail((longest, longest), Image.Resampling.NEAREST if exact else Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    shown.save(buffer, kind, **({} if exact else {"quality": 88}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def write_page(path: Path, template: str, values: Mapping[str, Any], *, package: str = __package__) -> Path:
    """Fill a template and write it as one file.

    Whatever the values hold appears as it is: names of classes and files are escaped by the templates' engine.
    Templates of another ``package`` (in its folder ``templates``) may extend ``page.html``, which lies here.
    """
    loaders = [PackageLoader(name) for name in dict.fromkeys((package, __package__))]
    environment = Environment(loader=ChoiceLoader(loaders), autoescape=True, undefined=StrictUndefined)
    environment.filters |= {"score": shown, "css": _css}
    page = environment.get_template(template).render(values)
    with whole_file(path) as draft:
        draft.write_text(page, encoding="utf-8", errors="backslashreplace")  # file names need not be valid Unicode
    return path


def _css(colour: Colour) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)
