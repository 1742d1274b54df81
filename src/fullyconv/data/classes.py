"""``classes.yaml``: the classes of a data set, their colours, and what to ignore."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from fullyconv.data.masks import RawMask, colour_codes
from fullyconv.data.palettes import FIX as PALETTE_FIX
from fullyconv.data.palettes import Palettes, painted
from fullyconv.data.raster import Refused
from fullyconv.data.things import THINGS, Things
from fullyconv.documents import format_yaml, read_yaml
from fullyconv.files import BadFile, whole_file
from fullyconv.types import MOST_CLASSES, MOST_VALUE, PLAIN_NAME, ClassSet, check_head, palette_colour

FILE_NAME = "classes.yaml"
FEW, SPARSE, MOST_SPREAD = 32, 4, 16  # up to 16 numbers, fewer than a quarter of those up to the largest, 32 or more
MOST_COLOURS = 256  # more distinct colours than this are a photograph, not a colour-coded mask

NOTHING = ("", "~", "null")  # how YAML writes "no value": the file is read as words, so that names stay as written
FIX = "correct it, or delete it to have it inferred anew"

Byte = Annotated[int, Field(ge=0, le=255)]
Colour = tuple[Byte, Byte, Byte]
Value = Annotated[int, Field(ge=0, le=MOST_VALUE)]

ELSEWHERE = {
    "color": "colour", "palette": "colour", "rgb": "colour", "id": "value", "index": "value", "label": "value",
    "names": "classes", "labels": "classes", "categories": "classes", "ignore_index": "ignore",
    "ignore_label": "ignore", "ignore_value": "ignore", "void": "ignore", "modalities": "channels",
    "channel_names": "channels", "ignore_colors": "ignore_colours", "tasks": "heads", "targets": "heads",
}  # fmt: skip
"""What other tools call our keys."""

WANTED = {
    "list_type": "write a list, [one, two]", "model_type": "write a mapping, {key: value}",
    "string_type": "write a word", "int_parsing": "write a whole number",
    "tuple_type": "write three numbers, [red, green, blue]",
}  # fmt: skip
"""What is said of values of a wrong kind, by pydantic's names of the mistakes."""

HEADER = """\
# The classes of this data set: edit names and colours freely.
#   masks: index   the numbers in the mask files are classes ('value', default: position in this list)
#   masks: colour  the masks are RGB pictures; 'colour' says which class a pixel is
#   masks: instances  each thing has a number (or colour) of its own: 0 is the first class, all else the second
#   ignore         the mask value of pixels that are neither trained nor scored; several: [0, 255]
#   channels       folders beside the images' that hold further channels of the same names, say [depth, nir]
#   heads          further masks of each picture, in folders of these names, each with classes of its own
"""


def _listed(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


class _Class(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: Annotated[str, Field(min_length=1)]
    colour: Colour | None = None
    value: Value | None = None


def _class(entry: Any) -> Any:
    """Bring an entry of the list to a mapping; keys without a value are as if they were not there."""
    if isinstance(entry, str):
        return {"name": entry}
    if isinstance(entry, dict):
        return {key: value for key, value in entry.items() if key == "name" or value not in NOTHING}
    return entry


FolderName = Annotated[str, Field(pattern=f"^{PLAIN_NAME.pattern}$")]


class _Masks(BaseModel):
    model_config = ConfigDict(extra="forbid")
    ignore: Annotated[list[Value], BeforeValidator(_listed), Field(min_length=1)] = [255]
    masks: str = Field(default="index", pattern="^(index|colour|instances)$")
    ignore_colours: list[Colour] = []


class _Head(_Masks):
    classes: list[Annotated[_Class, BeforeValidator(_class)]] = []
    folder: FolderName | None = None
    suffix: Annotated[str, Field(pattern=r"^[^/\\]+$")] | None = None


def _heads(entry: Any) -> Any:
    """Bring a list of names to a mapping, heads of which nothing is said to ones that say nothing, lists to classes."""
    if isinstance(entry, dict):
        return {
            name: {} if said in NOTHING else {"classes": said} if isinstance(said, list) else said
            for name, said in entry.items()
        }
    if entry in NOTHING:
        raise ValueError("it names no masks")
    names = [entry] if isinstance(entry, str) else entry
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("write the names of folders, or a mapping of them to their classes")
    if twice := [name for place, name in enumerate(names) if name in names[:place]]:
        raise ValueError(f"{twice[0]!r} is said twice")
    return {name: {} for name in names}


class _File(_Masks):
    classes: list[Annotated[_Class, BeforeValidator(_class)]]
    channels: list[FolderName] = []
    heads: Annotated[dict[str, _Head], BeforeValidator(_heads)] = {}


@dataclass(frozen=True)
class StatedHead:
    """What a ``classes.yaml`` says of the masks of a further task.

    Attributes:
        folder: The name of the folder that holds them, beside the first masks'; empty where ``suffix`` says it.
        suffix: What their names have after the images', in the first masks' folder or the images'.
        classes: What they hold; ``None``: to be inferred.
    """

    folder: str
    suffix: str
    classes: ClassSet | None


def read_classes(path: Path) -> ClassSet:
    """Read a ``classes.yaml``.

    Names are what is written: ``no``, ``1e3`` and ``2020-01-01`` are names like any other.

    Raises:
        BadFile: Saying which entry is wrong.

    """
    return _class_set(_read(path), path)


def _class_set(entries: _File | _Head, path: Path, of: str = "") -> ClassSet:
    classes, things = entries.classes, entries.masks == "instances"
    ignored = THINGS.ignored if things and "ignore" not in entries.model_fields_set else entries.ignore
    try:
        return ClassSet(
            names=tuple(entry.name for entry in classes),
            colours=tuple(entry.colour or palette_colour(index) for index, entry in enumerate(classes)),
            ignore_index=ignored[0],
            values=tuple(index if entry.value is None else entry.value for index, entry in enumerate(classes)),
            colour_masks=entries.masks == "colour",
            ignore_colours=tuple(entries.ignore_colours),
            also_ignored=tuple(ignored[1:]),
            instances=things,
        )
    except ValueError as error:
        raise BadFile(path, f"not usable ({of}{error})", FIX) from None


def stated_channels(root: Path) -> tuple[str, ...]:
    """Return the folders whose pictures are further channels, as the ``classes.yaml`` in a folder or above it says."""
    place = stating(root)
    return () if place is None else tuple(_read(place).channels)


def stated_heads(root: Path) -> dict[str, StatedHead]:
    """Return what the ``classes.yaml`` in a folder or above it says of further masks, by the names of their heads.

    Raises:
        BadFile: For a name that no head can have, and masks that would be found in the same place as others.
    """
    place = stating(root)
    if place is None:
        return {}
    entries, found = _read(place), dict[str, StatedHead]()
    alike = dict[str, str]()  # names, by their spelling without case
    used = dict.fromkeys(entries.channels, "under 'channels'")
    for name, entry in entries.heads.items():
        try:
            check_head(name)
        except ValueError as error:
            raise BadFile(place, f"heads: {error}", "call it otherwise, and say its folder: 'folder: …'") from None
        if (other := alike.setdefault(name.casefold(), name)) != name:
            what = f"heads: {other!r} and {name!r} are one name on file systems that ignore case"
            raise BadFile(place, what, "call one of them otherwise, and say its folder: 'folder: …'")
        if entry.folder and entry.suffix:
            raise BadFile(place, f"heads.{name}: both a folder and a suffix", "say where its masks are by one of both")
        where = entry.suffix or entry.folder or name
        if where in used:
            what = f"heads.{name}: {where!r} stands {used[where]} already"
            raise BadFile(place, what, "name a folder or a suffix of its own")
        used[where] = f"for heads.{name}"
        classes = _class_set(entry, place, f"heads.{name}: ") if "classes" in entry.model_fields_set else None
        found[name] = StatedHead("" if entry.suffix else where, entry.suffix or "", classes)
    return found


def stating(root: Path) -> Path | None:
    """Return the ``classes.yaml`` in a folder or above it, if there is one."""
    return next((path for path in (root / FILE_NAME, root.parent / FILE_NAME) if path.is_file()), None)


def _read(path: Path) -> _File:
    document = read_yaml(path, words=True, fix=FIX)
    try:
        return _File.model_validate(document or {})
    except ValidationError as error:
        raise BadFile(path, _first_mistake(error), f"see the comment at its top, or {FIX}") from None


def _first_mistake(error: ValidationError) -> str:
    unknown_first = sorted(error.errors(), key=lambda each: each["type"] != "extra_forbidden")
    first = unknown_first[0]  # a key of another tool is why ours is missing
    where = ".".join(map(str, first["loc"])) or "as a whole"
    if first["type"] == "extra_forbidden":
        ours = ELSEWHERE.get(str(first["loc"][-1]))
        return f"unknown key {where!r}" + (f": here it is called {ours!r}" if ours else "")
    if first["type"] == "missing":
        return f"no {where!r} in it"
    if first["input"] in NOTHING:
        return f"{where}: nothing is said of it (leave the key out where there is nothing to say)"
    wanted = WANTED.get(first["type"], first["msg"].removeprefix("Value error, "))
    if first["type"] == "string_pattern_mismatch" and where.endswith((".folder", ".suffix")):
        wanted = "a name without / or .. (folders lie beside the masks' or the images')"
    return f"{where}: {wanted}, not {str(first['input'])[:60]!r}"


def write_classes(classes: ClassSet, path: Path, heads: Mapping[str, ClassSet] | None = None) -> None:
    """Write a ``classes.yaml`` that reads back to the same classes, of further ``heads`` too (in folders so called)."""
    document = _document(classes)
    if heads:
        document["heads"] = {name: _document(own) for name, own in heads.items()}
    with whole_file(path) as draft:
        draft.write_text(HEADER + format_yaml(document), "utf-8")


def _document(classes: ClassSet) -> dict[str, object]:
    entries = [
        {"name": name, "value": value, "colour": list(colour)}
        for name, value, colour in zip(classes.names, classes.values, classes.colours, strict=True)
    ]
    document: dict[str, object] = {
        "masks": "colour" if classes.colour_masks else "instances" if classes.instances else "index",
        "ignore": list(classes.ignored) if classes.also_ignored else classes.ignore_index,
        "classes": entries,
    }
    if classes.ignore_colours:
        document["ignore_colours"] = [list(colour) for colour in classes.ignore_colours]
    return document


class ClassGuess:
    """Collects what masks hold, one at a time, and infers the classes from it.

    >>> guess = ClassGuess()
    >>> guess.see(RawMask(np.array([[0, 2, 255]])))
    >>> guess.classes().names, guess.classes().ignore_index
    (('class_0', 'class_1', 'class_2'), 255)
    """

    def __init__(self) -> None:
        self._values: set[int] = set()
        self._colours: set[int] = set()
        self._palette: np.ndarray | None = None
        self._palettes = Palettes()
        self._deepest = 8
        self._things = Things()

    def see(self, raw: RawMask) -> None:
        """Take note of one mask's values or colours."""
        if raw.values.ndim == 3:
            if len(self._colours) <= MOST_COLOURS:
                self._colours.update(np.unique(colour_codes(raw.values)).tolist())
                self._things.see(raw)
            return
        values = np.unique(raw.values if raw.missing is None else raw.values[~raw.missing]).tolist()
        if any(not 0 <= value <= MOST_VALUE for value in values):
            return  # a mask that no classes.yaml can describe: named when the pair is read
        self._values.update(values)
        self._things.see(raw)
        if raw.palette is not None:
            self._palette = raw.palette if self._palette is None else self._palette
            self._palettes.see(painted(raw))
        if values and values[-1] > 255:
            self._deepest = 16

    def classes(self) -> ClassSet:
        """Infer: one class per index up to the largest (255, or 65535 in 16-bit masks, is ignored), or per colour.

        Where few numbers occur, far apart (0, 127, 255), they alone are classes; 255 is one if they are evenly spread.

        Raises ``ValueError`` when no class can be told from the masks.
        """
        self._things.refuse()
        if self._colours and not self._values:
            return self._from_colours()
        if self._palettes.disagreeing:
            raise Refused(f"the masks' palettes disagree, {self._palettes.disagreeing[0]}", PALETTE_FIX)
        ignore = 65_535 if self._deepest == 16 and 65_535 in self._values else 255
        values = self._values - {ignore}
        if self._values == {0, ignore}:  # drawn for the eye: 255 is the object, not void
            return ClassSet(names=("background", "object"), values=(0, 255), ignore_index=254)
        if not values:
            raise ValueError("the masks hold no label at all")
        count = max(values) + 1
        if count > MOST_CLASSES:  # numbers of things rather than of kinds of things
            raise ValueError(f"the masks hold {len(values)} numbers up to {count - 1}")
        if count > max(SPARSE * len(values), FEW) and len(values) <= MOST_SPREAD:
            return self._apart(values, ignore)
        if count > ignore:  # 255 is an ordinary label here
            ignore = 65_535
        return ClassSet(
            names=tuple(f"class_{index}" for index in range(count)),
            colours=self._palette_colours(count),
            ignore_index=ignore,
        )

    def _apart(self, values: set[int], ignore: int) -> ClassSet:
        """Infer classes of numbers far apart, which were chosen to be told apart by eye."""
        steps = np.diff(sorted(self._values))
        if ignore == 255 and ignore in self._values and len(steps) > 1 and np.ptp(steps) <= 1:
            values, ignore = self._values, next(free for free in range(254, 0, -1) if free not in self._values)
        found = tuple(sorted(values))
        colours = self._palette_colours(found[-1] + 1)
        return ClassSet(
            names=tuple(f"class_{value}" for value in found),
            colours=tuple(colours[value] for value in found) if colours else (),
            ignore_index=ignore if ignore not in found else 65_535,
            values=found,
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
