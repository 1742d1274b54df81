"""``classes.yaml``: the classes of a data set, their colours, and what to ignore."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fullyconv.data.images import RawMask
from fullyconv.files import BadFile, whole_file
from fullyconv.types import ClassSet, palette_colour

FILE_NAME = "classes.yaml"
MOST_COLOURS = 256  # more distinct colours than this are a photograph, not a colour-coded mask

Byte = Annotated[int, Field(ge=0, le=255)]
Colour = tuple[Byte, Byte, Byte]

HEADER = """\
# The classes of this data set: edit names and colours freely.
#   masks: index   the numbers in the mask files are classes ('value', default: position in this list)
#   masks: colour  the masks are RGB pictures; 'colour' says which class a pixel is
#   ignore         the mask value of pixels that are neither trained nor scored
"""


class _Class(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str
    colour: Colour | None = None
    value: Annotated[int, Field(ge=0, le=65_535)] | None = None


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")
    classes: list[_Class | str]
    ignore: Annotated[int, Field(ge=0, le=65_535)] = 255
    masks: str = Field(default="index", pattern="^(index|colour)$")
    ignore_colours: list[Colour] = []


def read_classes(path: Path) -> ClassSet:
    """Read a ``classes.yaml``; raises ``BadFile`` saying which entry is wrong."""
    try:
        entries = _File.model_validate(yaml.safe_load(path.read_text()) or {})
        classes = [_Class(name=entry) if isinstance(entry, str) else entry for entry in entries.classes]
        return ClassSet(
            names=tuple(entry.name for entry in classes),
            colours=tuple(entry.colour or palette_colour(index) for index, entry in enumerate(classes)),
            ignore_index=entries.ignore,
            values=tuple(index if entry.value is None else entry.value for index, entry in enumerate(classes)),
            colour_masks=entries.masks == "colour",
            ignore_colours=tuple(entries.ignore_colours),
        )
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise BadFile(
            path, f"{where}: {first['msg']}", "see the comment at its top, or delete it to start anew"
        ) from None
    except (yaml.YAMLError, ValueError, OSError) as error:
        raise BadFile(path, f"not usable ({error})", "correct it, or delete it to have it inferred anew") from None


def write_classes(classes: ClassSet, path: Path) -> None:
    """Write a ``classes.yaml`` that reads back to the same classes."""
    entries = [
        {"name": name, "value": value, "colour": list(colour)}
        for name, value, colour in zip(classes.names, classes.values, classes.colours, strict=True)
    ]
    document: dict[str, object] = {
        "masks": "colour" if classes.colour_masks else "index",
        "ignore": classes.ignore_index,
        "classes": entries,
    }
    if classes.ignore_colours:
        document["ignore_colours"] = [list(colour) for colour in classes.ignore_colours]
    text = HEADER + yaml.safe_dump(document, sort_keys=False, default_flow_style=None)
    with whole_file(path) as draft:
        draft.write_text(text)


class ClassGuess:
    """Collects what masks hold, one at a time, and infers the classes from it."""

    def __init__(self) -> None:
        self._values: set[int] = set()
        self._colours: set[int] = set()
        self._palette: np.ndarray | None = None
        self._deepest = 8

    def see(self, raw: RawMask) -> None:
        """Take note of one mask's values or colours."""
        if raw.values.ndim == 3:
            codes = raw.values.astype(np.int32) @ np.array([65_536, 256, 1], np.int32)
            if len(self._colours) <= MOST_COLOURS:
                self._colours.update(np.unique(codes).tolist())
            return
        self._values.update(np.unique(raw.values).tolist())
        if self._palette is None and raw.palette is not None:
            self._palette = raw.palette
        if raw.values.size and raw.values.max() > 255:
            self._deepest = 16

    def classes(self) -> ClassSet:
        """Infer: one class per index up to the largest (255, or 65535 in 16-bit masks, is ignored), or per colour.

        Raises ``ValueError`` when no class can be told from the masks.
        """
        if self._colours and not self._values:
            return self._from_colours()
        ignore = 65_535 if self._deepest == 16 and 65_535 in self._values else 255
        values = self._values - {ignore}
        if self._values == {0, ignore}:  # drawn for the eye: 255 is the object, not void
            return ClassSet(names=("background", "object"), values=(0, 255), ignore_index=254)
        if not values:
            raise ValueError("the masks hold no label at all")
        count = max(values) + 1
        if count > ignore:  # 255 is an ordinary label here
            ignore = 65_535
        return ClassSet(
            names=tuple(f"class_{index}" for index in range(count)),
            colours=self._palette_colours(count),
            ignore_index=ignore,
        )

    def _palette_colours(self, count: int) -> tuple[tuple[int, int, int], ...]:
        if self._palette is None or len(self._palette) < count:
            return ()
        return tuple((int(r), int(g), int(b)) for r, g, b in self._palette[:count])

    def _from_colours(self) -> ClassSet:
        if len(self._colours) > MOST_COLOURS:
            raise ValueError(
                f"the masks are RGB with more than {MOST_COLOURS} colours: photographs, or masks saved as JPEG; "
                "save masks as PNG"
            )
        colours = tuple((code >> 16, code >> 8 & 255, code & 255) for code in sorted(self._colours))
        names = tuple(f"colour_{r:02x}{g:02x}{b:02x}" for r, g, b in colours)
        return ClassSet(names=names, colours=colours, colour_masks=True)


def guess_classes(masks: Iterable[RawMask]) -> ClassSet:
    """Infer the classes from all masks of a data set."""
    guess = ClassGuess()
    for raw in masks:
        guess.see(raw)
    return guess.classes()
