"""A page of many predictions at a glance: the overlays beside each other, with the classes' colours."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from fullyconv.files import counted
from fullyconv.outputs import Outputs
from fullyconv.predict.work import Outcome
from fullyconv.report.page import class_keys, write_page
from fullyconv.types import ClassSet

SHEET = "index.html"


def write_sheet(outputs: Outputs, outcomes: Sequence[Outcome], classes: ClassSet) -> Path:
    """Write ``index.html`` beside the predictions; it shows their overlays, which it does not hold.

    Args:
        outputs: The folder of the predictions.
        outcomes: What became of each picture.
        classes: Whose colours the overlays have.

    Returns:
        The page's path.

    Raises:
        BadFile: Where a page that is not ours has that name.
    """
    labelled = [(outcome.task.target.as_posix(), outcome.labels) for outcome in outcomes if outcome.labels is not None]
    pictures = [
        {"name": name, "overlay": quote(f"{name}_overlay.jpg"), "mask": quote(f"{name}.png"), "shape": _shape(mask)}
        for name, mask in labelled
    ]
    skipped = [
        (outcome.problem.path, f"{outcome.problem.what}: {outcome.problem.fix}")
        for outcome in outcomes
        if outcome.problem
    ]
    values = {
        "title": f"{counted(len(pictures), 'prediction')}",
        "keys": class_keys(classes),
        "pictures": pictures,
        "skipped": skipped,
        "recipe": "",
    }
    with outputs.writing(SHEET):
        return write_page(outputs.folder / SHEET, "sheet.html", values)


def _shape(mask: Path) -> str:
    """Return width / height of a picture: of an overlay with a legend the page shows the part above it alone."""
    with mask.open("rb") as file:
        width, height = struct.unpack(">16x2I", file.read(24))
    return f"{width} / {height}"
