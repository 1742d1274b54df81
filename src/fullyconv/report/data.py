"""The page of a data set: what is in it, what is alike in it, how good predictions on it can get."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fullyconv.data.check import Report
from fullyconv.data.dataset import read_picture
from fullyconv.data.kinship import Kin, Kinship
from fullyconv.data.raster import COLOURS
from fullyconv.files import BadFile
from fullyconv.report.page import FILE_NAME, class_keys, picture, write_page
from fullyconv.scores.bounds import Bounds, advise

SHOWN = 12  # pairs of pictures of each kind
LONGEST_PX = 360


@dataclass(frozen=True)
class Pictured:
    """Two pictures that are alike, as the page shows them."""

    names: tuple[str, str]
    likeness: float
    views: tuple[str, str]


def write_data_report(
    out: Path, report: Report, kin: Mapping[str, Kinship], bounds: Mapping[str, Bounds], *, title: str = "data set"
) -> Path:
    """Write ``out/report.html`` of a data set.

    Args:
        out: The folder, which is made.
        report: What ``check_folder`` found.
        kin: What ``find_kin`` found.
        bounds: What ``sample_bounds`` counted, of the first masks (``""``) and of those of further heads, by name.
        title: The page's heading.

    Returns:
        The page's path.

    >>> import tempfile
    >>> from fullyconv.data.bounds import sample_bounds
    >>> from fullyconv.data.check import check_folder
    >>> from fullyconv.data.folder import open_folder
    >>> from fullyconv.data.synthetic import write_dataset
    >>> with tempfile.TemporaryDirectory() as place:
    ...     found = check_folder(open_folder(write_dataset(Path(place, "shapes"), train=1, val=1)))
    ...     write_data_report(Path(place), found, {}, {"": sample_bounds([], found.classes)}).name
    'report.html'
    """
    out.mkdir(parents=True, exist_ok=True)
    values = {
        "title": title,
        "recipe": "",
        "parts": [_part(report if not head else report.heads[head], counted, head) for head, counted in bounds.items()],
        "problems": [*report.problems, *report.warnings],
        "kin": [
            {
                "split": split,
                "lines": found.lines(split),
                "across": _pictured(found.alike),
                "within": _pictured(found.within),
            }
            for split, found in kin.items()
        ],
    }
    return write_page(out / FILE_NAME, "data.html", values)


def _part(report: Report, bounds: Bounds, head: str) -> dict[str, Any]:
    """Return what the page shows of one kind of masks."""
    keys = class_keys(report.classes)
    return {
        "head": head,
        "splits": report.splits,
        "classes": [(key, [own.shares[index] for own in report.splits.values()]) for index, key in enumerate(keys)],
        "strides": bounds.strides,
        "bounds": [(key, [max(both) for both in bounds.class_iu(index).values()]) for index, key in enumerate(keys)],
        "means": [bounds.mean_iu[stride] for stride in bounds.strides] if bounds.pictures else [],
        "advice": advise(bounds, report.classes.names) if bounds.pictures else "",
    }


def _pictured(kin: tuple[Kin, ...]) -> list[Pictured]:
    """Read the pictures of the most alike, and of others at even distances down to the least."""
    places = np.unique(np.linspace(0, len(kin) - 1, min(SHOWN, len(kin))).round().astype(int))
    found = []
    for place in places.tolist() if len(kin) else []:
        one, other, likeness = kin[place]
        try:
            views = [
                picture(np.ascontiguousarray(read_picture(pair)[..., :COLOURS]), longest=LONGEST_PX, kind="JPEG")
                for pair in (one, other)
            ]
        except BadFile:
            continue  # gone since it was compared
        found.append(Pictured((one.image.name, other.image.name), likeness, (views[0], views[1])))
    return found
