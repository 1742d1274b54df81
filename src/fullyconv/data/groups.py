"""Pictures that belong together (of one drive, patient, slide or field), told by their names or folders."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from fullyconv.data.pairs import Pair

PLACES = re.compile(r"(?:[_\-. ]*(?:[xyrc]|row|col|tile|patch|crop)[_\-]?\d+)+$", re.IGNORECASE)  # of tiles in a slide
NUMBER = re.compile(r"(?:[_\-. ]+[a-z])?[_\-. ]*\d+[a-z]?$", re.IGNORECASE)  # of a frame or slice, or of an eye (01L)
SIDE = re.compile(r"(?<=\d)[_\-]?[a-z]$", re.IGNORECASE)  # 01L and 01R are of one patient
MOSTLY = 0.8  # of the pictures share a group with another where names do tell groups

GroupRule = str | int
"""A regular expression (its first group, else all it matches, is a picture's group), or how many folders up."""


def group_names(pairs: Sequence[Pair], rule: GroupRule) -> list[str]:
    """Return the group of each picture by a rule.

    Args:
        pairs: Pictures with their masks.
        rule: A regular expression that is searched in the stem, or a folder level: 1 is the folder that the picture
            lies in, 2 the one above it.

    Returns:
        A name for each pair, in their order.

    Raises:
        ValueError: For what is no regular expression, or a picture that it does not match; names the picture.

    >>> group_names([Pair(Path("d/0016E5_07959.png"), Path("m.png"))], r"^[^_]+")
    ['0016E5']
    """
    if isinstance(rule, int) or rule.isdecimal():
        return [_folder(pair.image, int(rule)) for pair in pairs]
    try:
        pattern = re.compile(rule)
    except re.error as error:
        raise ValueError(f"group={rule}: not a regular expression ({error})") from None
    return [_matched(pattern, pair.image) for pair in pairs]


def _folder(image: Path, level: int) -> str:
    if not 1 <= level <= len(image.parents):
        raise ValueError(f"group={level}: {image} has no folder {level} levels up: 1 is the one it lies in")
    return image.parents[level - 1].name


def _matched(pattern: re.Pattern[str], image: Path) -> str:
    found = pattern.search(image.stem)
    if found is None:
        raise ValueError(f"group={pattern.pattern}: {image.name} does not match: widen the expression")
    return str(found[1] if found.re.groups and found[1] is not None else found[0])


def guess_groups(stems: Sequence[str]) -> list[str] | None:
    """Guess from names which pictures belong together: ``0016E5_07959`` to ``0016E5``, ``s3_x0_y512`` to ``s3``.

    Args:
        stems: The names of the pictures.

    Returns:
        The group of each, by the finest of a few rules that puts at least four of five pictures together with
        another and leaves at least two groups; ``None`` if no rule does.

    >>> guess_groups(["p1_a1", "p1_a2", "p2_a1", "p2_a2"])
    ['p1', 'p1', 'p2', 'p2']
    >>> guess_groups(["0001", "0002", "0003", "0004"]) is None
    True
    """
    best: list[str] | None = None
    for rule in RULES:
        names = [rule(stem) or stem for stem in stems]
        sizes = Counter(names)
        together = sum(size for size in sizes.values() if size > 1)
        finer = best is None or len(sizes) > len(set(best))
        if len(sizes) > 1 and together >= MOSTLY * len(stems) and finer:
            best = names
    return best


def _first(stem: str) -> str:
    return re.split(r"[_\-. ]", stem, maxsplit=1)[0]


RULES: tuple[Callable[[str], str], ...] = (
    _first,
    lambda stem: stem.rpartition("_")[0],
    lambda stem: PLACES.sub("", stem),
    lambda stem: NUMBER.sub("", stem),
    lambda stem: SIDE.sub("", stem),
)
"""What may be left of a name that is common to a group."""


def in_order(groups: Sequence[str]) -> list[str]:
    """Return each group once, in an order that follows from its name alone (that of a hash).

    >>> sorted(in_order(["b", "a", "b"]))
    ['a', 'b']
    """
    return sorted(set(groups), key=lambda name: (hashlib.sha256(name.encode()).digest(), name))
