"""Images and masks whose names do not pair: what would make them pair."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fullyconv.files import BadFile

TRIED = 5  # images whose nearest mask is looked for, to guess a rule


@dataclass(frozen=True)
class Rule:
    """A way to call images like their masks: ``change`` gives the mask's stem, ``fix`` says what to do."""

    change: Callable[[str], str | None]
    what: str
    fix: str


def misnamed_pairs(pictures: Mapping[str, Path], masks: Mapping[str, Path]) -> BadFile | None:
    """Find out why images and masks do not pair, from their stems.

    Args:
        pictures: Files of images by their stems.
        masks: Files of masks by their stems.

    Returns:
        A problem that names an image and its nearest mask and what would pair them and how many more, or
        ``None`` if no rule pairs what is left. Where nothing pairs, the nearest names even without a rule.
    """
    left = sorted(pictures.keys() - masks.keys())
    right = masks.keys() - pictures.keys()
    if not left or not right:
        return None
    best, found = None, 0
    for rule in _rules(left, right):
        count = sum(rule.change(stem) in right for stem in left)
        if count > found:
            best, found = rule, count
    if best is not None and 2 * found >= len(left):  # a rule explains at least half of what is left
        image = next(stem for stem in left if best.change(stem) in right)
        mask = best.change(image) or ""
        what = f"{found} of {len(pictures)} images and their masks {best.what}: {pictures[image].name} and "
        return BadFile(masks[mask], f"{what}{masks[mask].name}", best.fix)
    if pictures.keys() & masks.keys():
        return None
    image, mask = max(((stem, _nearest(stem, right)) for stem in left[:TRIED]), key=lambda pair: _shared(*pair))
    what = f"no mask has the stem of an image: the nearest are {pictures[image].name} and {masks[mask].name}"
    return BadFile(masks[mask].parent, what, f"call masks as their images, here {image}{masks[mask].suffix}")


def side_by_side(files: Sequence[Path]) -> str:
    """Say what to do with images and masks that lie in one folder, empty if no rule tells which are masks.

    >>> side_by_side([Path("a.jpg"), Path("a_mask.png")]).partition(": ")[2]
    "move images into images/, masks without '_mask' into masks/: stems pair them"
    """
    stems: dict[str, Path] = {}
    found: dict[str, list[tuple[Path, Path]]] = {}  # by what is before or behind the stem of a mask
    for file in files:
        if file.stem in stems:
            found.setdefault("", []).append((stems[file.stem], file))
        stems.setdefault(file.stem, file)
    for stem, file in stems.items():
        for cut in range(1, len(stem)):
            for image, affix in ((stem[:cut], stem[cut:]), (stem[cut:], stem[:cut])):
                if image in stems and any(map(str.isalpha, affix)):  # 1 and 11 are two pictures
                    found.setdefault(affix, []).append((stems[image], file))
    affix, pairs = max(found.items(), key=lambda each: len(each[1]), default=("", []))
    if 4 * len(pairs) < len(files) or not pairs:
        return ""
    without = f" without {affix!r}" if affix else ""
    what = f"{pairs[0][0].name} and {pairs[0][1].name} lie side by side"
    return f"{what}: move images into images/, masks{without} into masks/: stems pair them"


def _rules(left: list[str], right: Collection[str]) -> list[Rule]:
    """Guess rules: Unicode's two ways to write accents, upper and lower case, another ending or beginning."""
    composed = {unicodedata.normalize("NFC", stem): stem for stem in right}
    folded = {unicodedata.normalize("NFC", stem).casefold(): stem for stem in right}
    rules = [
        Rule(
            lambda stem: composed.get(unicodedata.normalize("NFC", stem)),
            "look the same, but write accents in two ways (Unicode NFC and NFD)",
            "rename one kind, for example with 'convmv -f utf8 -t utf8 --nfc --notest -r FOLDER'",
        ),
        Rule(
            lambda stem: folded.get(unicodedata.normalize("NFC", stem).casefold()),
            "differ in upper and lower case",
            "rename one kind: stems pair letter by letter",
        ),
    ]
    for stem in left[:TRIED]:
        mask = _nearest(stem, right)
        start = _common(stem, mask)
        end = _common(stem[start:][::-1], mask[start:][::-1])
        ours, theirs = stem[start : len(stem) - end], mask[start : len(mask) - end]
        if not start + end:
            continue  # nothing in common: two names, not two spellings of one
        if not end:
            rules.append(_affix_rule(ours, theirs, at_end=True))
        elif not start:
            rules.append(_affix_rule(ours, theirs, at_end=False))
    return rules


def _affix_rule(ours: str, theirs: str, *, at_end: bool) -> Rule:
    """Make the rule that images end (or begin) with ``ours`` where masks have ``theirs``."""

    def change(stem: str) -> str | None:
        if at_end:
            return stem[: len(stem) - len(ours)] + theirs if stem.endswith(ours) else None
        return theirs + stem[len(ours) :] if stem.startswith(ours) else None

    place = "end" if at_end else "begin"
    if not ours:
        return Rule(change, f"differ by {theirs!r}", f"rename the masks without {theirs!r}: stems pair them")
    if not theirs:
        return Rule(change, f"differ by {ours!r}", f"rename the images without {ours!r}: stems pair them")
    what = f"{place} with {ours!r} and {theirs!r}"
    return Rule(change, what, f"rename the masks to {place} with {ours!r} too: stems pair them")


def _nearest(stem: str, others: Collection[str]) -> str:
    return max(sorted(others), key=lambda other: _shared(stem, other))


def _shared(one: str, other: str) -> int:
    """Count the letters that two names share at their beginning and at their end."""
    start = _common(one, other)
    return start + _common(one[start:][::-1], other[start:][::-1])


def _common(one: str, other: str) -> int:
    """Count the letters at which two words begin alike."""
    shortest = min(len(one), len(other))
    return next((index for index in range(shortest) if one[index] != other[index]), shortest)
