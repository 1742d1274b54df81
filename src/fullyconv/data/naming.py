"""Images and masks whose names do not pair: what would make them pair."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fullyconv.data.layout import MASKS, Found
from fullyconv.files import BadFile

TRIED = 5  # images whose nearest mask is looked for, to guess a rule
MOST_RULES = 8  # guesses that are counted: further ones are differences between two pictures' numbers
MORE = ("l", "m", "lbl", "ids", "labelids", "labeltrainids", "trainids", "bw")  # of masks' names, beside folders' words
JPEG = (".jpg", ".jpeg")


def composed(word: str) -> str:
    """Write accents in one of Unicode's two ways: archives made on macOS have the other."""
    return unicodedata.normalize("NFC", word)


def folded(word: str) -> str:
    """Write a name so that neither accents nor upper and lower case tell it from another spelling."""
    return composed(word).casefold()


@dataclass(frozen=True)
class Rule:
    """A way to call images like their masks: ``change`` gives the mask's stem, ``fix`` says what to do."""

    change: Callable[[str], str | None]
    what: str
    fix: str
    ours: str = ""
    theirs: str = ""


SAME = Rule(lambda stem: stem, "are the same", "")


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
    for rule in [*_spellings(right), *guess_rules(left, right)]:
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
    fix = f"call masks as their images, here {image}{masks[mask].suffix}"
    if mask.startswith(image):
        fix += f", or choose mask_suffix={mask.removeprefix(image)}"
    return BadFile(masks[mask].parent, what, fix)


@dataclass(frozen=True)
class Affix:
    """What tells masks from the images they lie among.

    ``text`` is at the end of their stems (or at the beginning); if it is empty, images are the JPEG files of two of one
    name. ``said`` tells the user.
    """

    text: str
    at_end: bool
    said: str
    images: frozenset[tuple[Path, str]]

    def cut(self, found: Found) -> str | None:
        """Return the stem of a mask's image, ``None`` for what is no mask."""
        folder, stem = found.path.parent, found.stem
        if not self.text:
            return stem if found.path.suffix.lower() not in JPEG and (folder, stem) in self.images else None
        inside = stem.endswith(self.text) if self.at_end else stem.startswith(self.text)
        image = stem.removesuffix(self.text) if self.at_end else stem.removeprefix(self.text)
        return image if inside and (folder, image) in self.images else None


def mask_affix(files: Sequence[Found]) -> Affix | None:
    """Find out which of files that lie among each other are masks, by what their stems have and the images' have not.

    It is known words (``_mask``, ``gt_``, ``_L``) that at least half of the files pair by, or PNG beside JPEG.

    >>> files = [Found(Path(name), "", "", "", Path(name).stem) for name in ("a.jpg", "a_mask.png")]
    >>> mask_affix(files).text
    '_mask'
    """
    stems = {(found.path.parent, found.stem) for found in files}
    count: Counter[tuple[str, bool]] = Counter()
    for folder, stem in stems:
        for cut in range(1, len(stem)):
            count[stem[cut:], True] += (folder, stem[:cut]) in stems
            count[stem[:cut], False] += (folder, stem[cut:]) in stems
    known = {affix: number for affix, number in count.items() if number and _says_mask(affix[0])}
    (text, at_end), pairs = max(known.items(), key=lambda each: each[1], default=(("", True), 0))
    images, twice = frozenset(stems), _twice(files)
    if not pairs and len(twice) >= len(files) // 4 and twice:
        said = "images and masks lie in one folder: JPEG files are the images, others of their names the masks"
        return Affix("", True, said, twice)
    if 4 * pairs < len(files) or not pairs:
        return None
    where = "end" if at_end else "begin"
    return Affix(text, at_end, f"images and masks lie in one folder: masks {where} with {text!r}", images)


def _twice(files: Sequence[Found]) -> frozenset[tuple[Path, str]]:
    """Return folder and stem of what is there as JPEG and as something else."""
    kinds: dict[tuple[Path, str], set[bool]] = {}
    for found in files:
        kinds.setdefault((found.path.parent, found.stem), set()).add(found.path.suffix.lower() in JPEG)
    return frozenset(place for place, seen in kinds.items() if len(seen) > 1)


def _says_mask(affix: str) -> bool:
    plain = re.sub(r"[\W_]+", "", affix.casefold())
    return bool(re.fullmatch(f"(?:{'|'.join((*MASKS, *MORE))})+", plain))


def guess_rules(left: Sequence[str], right: Collection[str]) -> list[Rule]:
    """Guess which endings or beginnings images and masks differ by, from some images and the masks most like them.

    >>> [rule.change("p7") for rule in guess_rules(["p1", "p2"], ["p1_gt", "p2_gt"])][0]
    'p7_gt'
    """
    count: Counter[tuple[str, str, bool]] = Counter()
    for stem in left[:: -(-len(left) // TRIED)]:
        for at_end in (True, False):
            count.update((*affixes, at_end) for affixes in _differences(stem, right, at_end=at_end))
    # A digit alone tells two pictures apart, not a mask from an image: 1 and 11.
    said = [each for each in count.most_common() if not (each[0][0] + each[0][1]).isdigit()][:MOST_RULES]
    return [_affix_rule(ours, theirs, at_end=at_end) for (ours, theirs, at_end), _ in said]


def _differences(stem: str, others: Collection[str], *, at_end: bool) -> set[tuple[str, str]]:
    """Return what is left of a name and of those most like it when what they share is taken away."""
    turn = 1 if at_end else -1
    name, lengths = stem[::turn], {other: _common(stem[::turn], other[::turn]) for other in others}
    most = max(lengths.values(), default=0)
    nearest = [other for other, length in lengths.items() if length == most > 0]
    return {(name[most:][::turn], other[::turn][most:][::turn]) for other in nearest}


def _spellings(right: Collection[str]) -> list[Rule]:
    """Make the rules of Unicode's two ways to write accents, and of upper and lower case."""
    accents, cases = {composed(stem): stem for stem in right}, {folded(stem): stem for stem in right}
    return [
        Rule(
            lambda stem: accents.get(composed(stem)),
            "look the same, but write accents in two ways (Unicode NFC and NFD)",
            "rename one kind, for example with 'convmv -f utf8 -t utf8 --nfc --notest -r FOLDER'",
        ),
        Rule(
            lambda stem: cases.get(folded(stem)),
            "differ in upper and lower case",
            "rename one kind: stems pair letter by letter",
        ),
    ]


def _affix_rule(ours: str, theirs: str, *, at_end: bool) -> Rule:
    """Make the rule that images end (or begin) with ``ours`` where masks have ``theirs``."""

    def change(stem: str) -> str | None:
        if at_end:
            return stem[: len(stem) - len(ours)] + theirs if stem.endswith(ours) else None
        return theirs + stem[len(ours) :] if stem.startswith(ours) else None

    place = "end" if at_end else "begin"
    if not ours:
        fix = f"rename the masks without {theirs!r}: stems pair them"
        return Rule(change, f"differ by {theirs!r}", fix, ours, theirs)
    if not theirs:
        fix = f"rename the images without {ours!r}: stems pair them"
        return Rule(change, f"differ by {ours!r}", fix, ours, theirs)
    what = f"{place} with {ours!r} and {theirs!r}"
    return Rule(change, what, f"rename the masks to {place} with {ours!r} too: stems pair them", ours, theirs)


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
