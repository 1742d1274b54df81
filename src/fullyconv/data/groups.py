"""Pictures that belong together (of one drive, patient, slide or field), told by their names or folders."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from fullyconv.data.folder import HELD_OUT
from fullyconv.data.pairs import Folder, Pair
from fullyconv.data.placed import MOSTLY, strip_places
from fullyconv.files import BadFile, counted

NUMBER = re.compile(r"(?:[_\-. ]+[a-z])?[_\-. ]*\d+[a-z]?$", re.IGNORECASE)  # of a frame or slice, or of an eye (01L)
SIDE = re.compile(r"(?<=\d)[_\-]?[a-z]$", re.IGNORECASE)  # 01L and 01R are of one patient
EACH = r"\A.*\Z"
"""The rule by which every picture is a group of its own."""

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

    Tiles belong to what they were cut from, never to their row of tiles.

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
    whole = strip_places(stems)
    if _mostly_together(whole):
        return whole if len(set(whole)) > 1 else None
    for rule in RULES:
        names = [rule(stem) or stem for stem in whole]
        finer = best is None or len(set(names)) > len(set(best))
        if len(set(names)) > 1 and _mostly_together(names) and finer:
            best = names
    return best


def _mostly_together(names: Sequence[str]) -> bool:
    """Return whether most pictures share their group with another."""
    return bool(names) and sum(size for size in Counter(names).values() if size > 1) >= MOSTLY * len(names)


def _first(stem: str) -> str:
    return re.split(r"[_\-. ]", stem, maxsplit=1)[0]


RULES: tuple[Callable[[str], str], ...] = (
    _first,
    lambda stem: stem.rpartition("_")[0],
    lambda stem: NUMBER.sub("", stem),
    lambda stem: SIDE.sub("", stem),
)
"""What may be left of a name that is common to a group."""


def regroup(
    folder: Folder, rule: GroupRule | None, *, hold_out: str | None = None, fold: tuple[int, int] | None = None
) -> None:
    """Divide what there is to train and validate on anew, so that no group is in both; ``test`` stays as it is.

    Args:
        folder: The data set: its ``train`` and ``val`` (or ``all``) are changed, its note says how.
        rule: What a picture belongs to; ``None`` guesses it from the names, ``EACH`` is a group for every picture.
        hold_out: The group to validate on; without it whole groups of about ``HELD_OUT`` of the pictures.
        fold: (k, K): validate on the k-th of K parts of about as many pictures.

    Raises:
        BadFile: If there are no groups, no such group, or fewer than parts.
    """
    known = {pair.image: pair for split in ("train", "val", "all") for pair in folder.splits.get(split, [])}
    pairs = list(known.values())
    groups = _find(folder, pairs, rule)
    count = len(set(groups))
    if count < (wanted := fold[1] if fold else 2):
        what = counted(count, "picture") if rule == EACH else f"{counted(count, 'group')} of pictures"
        what += f" ({', '.join(sorted(set(groups))[:3])}{', …' if count > 3 else ''}), and {wanted} are needed"
        fix = f"ask for at most {count} parts" if fold and count > 1 else ""
        other = "" if rule == EACH else "name another rule with --set group=…"
        raise BadFile(folder.root, what, ", or ".join(filter(None, (fix, other))) or "add pictures")
    if hold_out is not None and hold_out not in groups:
        known_groups = ", ".join(sorted(set(groups))[:12])
        raise BadFile(folder.root, f"no group {hold_out!r}", f"choose one of {known_groups}")
    held = {hold_out} if hold_out is not None else _held_out(groups, fold)
    others = {split: found for split, found in folder.splits.items() if split not in ("train", "val", "all")}
    parts: dict[str, list[Pair]] = {"train": [], "val": []}
    for pair, group in zip(pairs, groups, strict=True):
        parts["val" if group in held else "train"].append(pair)
    folder.splits = parts | others
    part = f"part {fold[0]} of {fold[1]}, " if fold else ""
    named = "" if rule == EACH else f" of {len(held)} of {count} groups ({', '.join(sorted(held)[:6])})"
    folder.say(f"{part}{counted(len(parts['val']), 'picture')}{named} held out, {len(parts['train'])} left to train on")


def _find(folder: Folder, pairs: Sequence[Pair], rule: GroupRule | None) -> list[str]:
    if rule is not None:
        return group_names(pairs, rule)
    found = guess_groups([pair.name for pair in pairs])
    if found is None:
        what = "the names of its pictures suggest no groups"
        raise BadFile(folder.root, what, "say what they belong to: --set group='^[^_]+' (a regular expression)")
    return found


def _held_out(groups: Sequence[str], fold: tuple[int, int] | None) -> set[str]:
    """Choose whole groups by a hash of their names; of K parts each group goes to the smallest so far."""
    sizes = Counter(groups)
    if fold is not None:
        parts: list[set[str]] = [set() for _ in range(fold[1])]
        filled = [0] * fold[1]
        for group in sorted(in_order(groups), key=lambda name: -sizes[name]):
            place = filled.index(min(filled))
            parts[place].add(group)
            filled[place] += sizes[group]
        return parts[fold[0] - 1]
    held: set[str] = set()
    for group in in_order(groups)[:-1]:  # one is left to train on
        if sum(sizes[name] for name in held) >= HELD_OUT * len(groups):
            break
        held.add(group)
    return held


def in_order(groups: Sequence[str]) -> list[str]:
    """Return each group once, in an order that follows from its name alone (that of a hash).

    >>> sorted(in_order(["b", "a", "b"]))
    ['a', 'b']
    """
    return sorted(set(groups), key=lambda name: (hashlib.sha256(name.encode()).digest(), name))
