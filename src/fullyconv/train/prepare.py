"""A data set made ready for a training: checked, divided, described so that a change of it shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from fullyconv.data.check import Progress, Report, check_folder
from fullyconv.data.folder import open_folder, training_splits
from fullyconv.data.groups import EACH, regroup
from fullyconv.data.pairs import Folder, Pair
from fullyconv.data.published import open_for
from fullyconv.train.recipe import Recipe
from fullyconv.types import ClassSet


class BadData(ValueError):
    """A data set that training refuses; ``report`` says why, in the words of ``fullyconv data check``."""

    def __init__(self, report: Report) -> None:
        super().__init__("\n".join(str(problem) for problem in report.problems))
        self.report = report


@dataclass(frozen=True)
class Prepared:
    """A checked data set: what to train on, what to validate on."""

    report: Report
    train: list[Pair]
    val: list[Pair]
    heads: Mapping[str, list[Pair]] = field(default_factory=dict)  # to validate further tasks on

    @property
    def head_classes(self) -> dict[str, ClassSet]:
        """What the labels of further tasks mean, by their names."""
        return {name: head.classes for name, head in self.report.heads.items()}

    @property
    def tasks(self) -> dict[str, int]:
        """The number of classes of each further task, by its name."""
        return {name: len(classes) for name, classes in self.head_classes.items()}


def prepare(
    recipe: Recipe, data: Path | Folder, *, skip_problems: bool = False, progress: Progress | None = None
) -> Prepared:
    """Check a data set, given by its path or already opened, and choose its splits.

    Raises ``BadData`` if anything is wrong with it; with ``skip_problems`` the pairs at fault are left
    out instead.
    """
    folder = open_for(recipe.network, data) if isinstance(data, Path) else data
    folder = folder or open_folder(cast("Path", data), recipe.mask_suffix)
    # What is never trained or validated on need not be in order.
    folder.keep(("train", "val", "all"))
    if recipe.split == "group" or recipe.fold is not None:
        regroup(folder, recipe.group if recipe.split == "group" else EACH, hold_out=recipe.hold_out, fold=recipe.fold)
    report = check_folder(folder, recipe.classes, pages=recipe.pages, instances=recipe.instances, progress=progress)
    if report.problems and not skip_problems:
        raise BadData(report)
    folder.splits = {
        name: [pair for pair in pairs if pair.image not in report.bad_pairs] for name, pairs in folder.splits.items()
    }
    train, val = training_splits(folder)
    heads = {name: [pair.of(name) for pair in val] for name in report.heads}
    return Prepared(report, train, [pair.first for pair in val], heads)


def data_print(prepared: Prepared) -> dict[str, Any]:
    """Describe a data set so that a change of it shows: its classes, and the content of every pair by its name."""
    report = prepared.report
    found = {
        **_said_of(report.classes),
        "training pairs": {_name(pair, report): report.digests[pair.image] for pair in prepared.train},
        "validation pairs": {_name(pair, report): report.digests[pair.image] for pair in prepared.val},
    }
    for name, head in report.heads.items():
        found[f"head {name}"] = _said_of(head.classes)
        both = [*prepared.train, *prepared.val]
        found[f"masks of head {name}"] = {_name(pair, report): head.digests[pair.image] for pair in both}
    return found


def _said_of(classes: ClassSet) -> dict[str, Any]:
    known = zip(classes.names, classes.values, classes.colours, strict=True)
    return {
        "classes": {name: [value, list(colour)] for name, value, colour in known},
        "void": [
            classes.ignore_index,
            "instances" if classes.instances else classes.colour_masks,
            [list(colour) for colour in classes.ignore_colours],
            *classes.also_ignored,
        ],
    }


def _name(pair: Pair, report: Report) -> str:
    root = report.folder.root
    return pair.image.relative_to(root).as_posix() if pair.image.is_relative_to(root) else str(pair.image)
