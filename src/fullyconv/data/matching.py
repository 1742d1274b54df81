"""A data set's own classes, and what they are in a model that is scored on it."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from fullyconv.data.classes import FILE_NAME, read_classes
from fullyconv.data.dataset import read_stored
from fullyconv.data.masks import RawMask
from fullyconv.data.pairs import Folder, OtherMask, Pair
from fullyconv.data.tables import read_table
from fullyconv.files import BadFile
from fullyconv.types import ClassSet

MOST_NAMED = 12  # classes that one line lists
UNNAMED = re.compile(r"class_\d+|colour_[0-9a-f]{6}")  # what classes are called that nobody has named


def stated_classes(folder: Folder) -> ClassSet | None:
    """Return the classes that a data set states, ``None`` if it leaves them to be inferred.

    They are those of its ``classes.yaml``, here or one folder up; without one, the official ones of a published set,
    or those of another tool's table (``fullyconv.data.tables``). Of the masks of a further task they are those that
    stand under its ``heads``.

    Raises:
        BadFile: For a ``classes.yaml`` or a table that is not usable.
    """
    if folder.task:
        return folder.stated
    for place in _stated_in(folder):
        if place.is_file():
            return read_classes(place)
    return folder.classes or read_table(folder.root, lambda: _first_mask(folder))


def _stated_in(folder: Folder) -> tuple[Path, Path]:
    return folder.root / FILE_NAME, folder.root.parent / FILE_NAME


def files_read(folder: Folder) -> list[Path]:
    """List the pictures and masks of a data set, and where its classes may stand: no output replaces them."""
    pairs = [pair for found in folder.splits.values() for pair in found]
    further = [target.mask for pair in pairs for target in pair.further]
    return [*_stated_in(folder), *(file for pair in pairs for file in (pair.image, pair.mask, *pair.beside)), *further]


def _first_mask(folder: Folder) -> RawMask:
    return read_stored(next(pair for pairs in folder.splits.values() for pair in pairs))


def match_classes(folder: Folder, model: ClassSet) -> str:
    """Let the masks of a data set be read by its own classes, as the model's classes of the same names.

    Where nobody has named the classes of the data set, masks are read by the model's classes. Where nobody has
    named the model's, or the data set is a published one, as many classes are the model's in their order.

    Args:
        folder: The data set; its pairs are changed.
        model: The classes of the model to be scored on it.

    Returns:
        What the user should know of it, empty if names and order are the same.

    Raises:
        BadFile: Where the names differ.
    """
    own = stated_classes(folder)
    if own is None:
        return ""
    if set(own.names) == set(model.names):
        _read_as(folder, _reordered(own, model.names), [model.names.index(name) for name in own.names])
        return (
            "" if own.names == model.names else f"{folder.root} has the model's classes in another order: names decide"
        )
    if _unnamed(own) and not _unnamed(model) and own.colour_masks == model.colour_masks:
        return ""
    if len(own) != len(model) or not (_unnamed(model) or own == folder.classes):
        what = f"its classes ({listed(own.names, model.names)}) are not the model's ({listed(model.names, own.names)})"
        raise BadFile(
            folder.root, what, f"name the same classes alike in {FILE_NAME}, or take a model of these classes"
        )
    _read_as(folder, own, range(len(own)))
    return f"the model's classes are named otherwise than those of {folder.root}: their order decides"


def match_heads(folder: Folder, heads: Mapping[str, ClassSet]) -> list[str]:
    """Let the masks of further tasks be read as a model's classes, each as ``match_classes`` does.

    Args:
        folder: The data set; its pairs are changed.
        heads: The classes of the model's further heads.

    Returns:
        What the user should know of it: heads without masks here, names and orders that differ.

    Raises:
        BadFile: Where the names of a head's classes differ.
    """
    lacking = (name for name in heads if name not in folder.heads)
    notes = [f"{folder.root} has no masks of the head {name!r}, which is not scored" for name in lacking]
    for name in (name for name in heads if name in folder.heads):
        own = folder.head(name)
        notes.append(match_classes(own, heads[name]))
        known = {(split, pair.image): pair for split, pairs in own.splits.items() for pair in pairs}
        for split, pairs in folder.splits.items():
            read = [known.get((split, pair.image)) for pair in pairs]
            folder.splits[split] = [
                pair if found is None else _with_mask(pair, name, found, heads[name])
                for pair, found in zip(pairs, read, strict=True)
            ]
    return [note for note in notes if note]


def _with_mask(pair: Pair, head: str, found: Pair, classes: ClassSet) -> Pair:
    mask = OtherMask(head, found.mask, found.storage, found.classes or classes)
    return replace(pair, further=tuple(mask if each.head == head else each for each in pair.further))


def listed(names: Sequence[str], others: Collection[str] = ()) -> str:
    """List the names of classes in one line, those that are not among ``others`` first.

    >>> listed(("road", "sky", "car"), ("sky", "road"))
    'car, road, sky'
    """
    first = sorted(names, key=lambda name: name in others) if others else list(names)
    more = f" and {len(first) - MOST_NAMED} more" if len(first) > MOST_NAMED else ""
    return ", ".join(first[:MOST_NAMED]) + more


def _unnamed(classes: ClassSet) -> bool:
    return all(UNNAMED.fullmatch(name) for name in classes.names)


def _reordered(classes: ClassSet, names: Sequence[str]) -> ClassSet:
    """Bring classes into the order of ``names``, each with its own mask value and colour."""
    order = [classes.names.index(name) for name in names]
    return replace(
        classes,
        names=tuple(names),
        colours=tuple(classes.colours[index] for index in order),
        values=tuple(classes.values[index] for index in order),
    )


def _read_as(folder: Folder, classes: ClassSet, places: Sequence[int]) -> None:
    """Let pairs be read by ``classes``; ``places[c]`` is where the data set's class ``c`` is in them."""

    def changed(pair: Pair) -> Pair:
        table = tuple(places[label] if 0 <= label < len(places) else label for label in pair.storage.labels)
        return replace(pair, classes=classes, storage=replace(pair.storage, labels=table))

    folder.splits = {split: [changed(pair) for pair in pairs] for split, pairs in folder.splits.items()}
