"""Which image belongs to which mask, in the forms in which people keep them: by folders' names, stems and affixes."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fullyconv.data.arrays import SUFFIXES as ARRAYS
from fullyconv.data.channels import first_channels
from fullyconv.data.layout import VISUAL, Found, look
from fullyconv.data.naming import SAME, Rule, composed, folded, guess_rules, mask_affix, misnamed_pairs
from fullyconv.data.pairs import Folder, Listing, Pair, Places, fill_splits, lonely
from fullyconv.files import BadFile, counted

SPLIT_ORDER = ("train", "val", "test")
Key = tuple[str, ...]
Scope = Callable[[Found], Key]
SCOPES: tuple[Scope, ...] = (
    lambda found: (found.split, found.where),
    lambda found: (found.split,),
    lambda found: (found.where,),
    lambda found: (),
)
"""What image and mask have in common beside their names, the strictest first: masks may lie deeper than images,
and images may be divided into splits where masks are not."""


@dataclass(frozen=True)
class Match:
    """How images find masks: what they share beside their names, and how an image's stem becomes a mask's."""

    scope: Scope
    rule: Rule
    pairs: Mapping[int, int]  # an image's place to a mask's
    spare: frozenset[int] = frozenset()  # masks that are further renderings


def find_pairs(
    root: Path,
    lists: Mapping[str, Listing],
    mask_suffix: str | None = None,
    *,
    left_out: Callable[[Path], bool] = lambda _: False,
) -> Folder:
    """Pair what lies in a folder.

    Args:
        root: The folder.
        lists: The names of each split; without lists, splits are what the folders' names say, else all is ``all``.
        mask_suffix: What the masks' stems have after the images', instead of what is found by counting.
        left_out: Tells files that are neither images nor masks to pair: further channels, masks of further heads.

    Returns:
        Pairs, problems with what is left over, and in the note what was decided; no pair and no problem if the folder
        does not hold images and masks.

    Raises:
        BadFile: If no mask ends with ``mask_suffix``.
    """
    files = [found for found in look(root) if not left_out(found.path)]
    found = _find(root, files, lists, mask_suffix)
    if any(found.splits.values()):
        return found
    arrays = [each for each in look(root, ARRAYS) if each.role != "image" and not left_out(each.path)]
    with_arrays = _find(root, [*files, *arrays], lists, mask_suffix) if arrays else found
    return with_arrays if any(with_arrays.splits.values()) else found


def _find(root: Path, files: list[Found], lists: Mapping[str, Listing], mask_suffix: str | None) -> Folder:
    folder = Folder(root)
    images, masks, said = _divide(root, files, mask_suffix)
    folder.say(said)
    images, folder.beside = first_channels(images, masks)
    if folder.beside:
        folder.say(f"each picture's channels are files of their own, _0000 to {folder.beside[-1]}")
    images, masks = _once(folder, images), _once(folder, masks)
    if not images or not masks:
        return folder
    match = _match(images, masks)
    if match.pairs and match.rule is not SAME:
        first, mask = next(iter(match.pairs.items()))
        folder.say(
            f"{len(match.pairs)} images and their masks {match.rule.what}: {images[first].path.name} and "
            f"{masks[mask].path.name}"
        )
    match = _without_renderings(folder, images, masks, match)
    if lists and not any(found.split for found in images):
        _list(folder, images, masks, match, lists)
    else:
        _sort(folder, images, masks, match)
        _leftover(folder, images, masks, match)
    return folder


def _divide(root: Path, files: list[Found], suffix: str | None) -> tuple[list[Found], list[Found], str]:
    """Tell images from masks: by their folders, else by what the masks' names have and the images' have not."""
    masks = [found for found in files if found.role == "mask"]
    others = [found for found in files if found.role != "mask"]
    if suffix is not None:
        ending = [found for found in masks or files if _ends(found.stem, suffix)]
        if not ending:
            raise BadFile(root, f"no mask ends with mask_suffix={suffix!r}", "correct it, or leave it out")
        chosen = set(ending)
        images = [found for found in others if found not in chosen]
        return _images(images), [_cut(found, found.stem[: -len(suffix)]) for found in ending], ""
    if masks:
        return _images(others), masks, ""
    affix = mask_affix(others)
    if affix is None:
        return _images(others), [], ""
    masks = [_cut(found, cut) for found in others if (cut := affix.cut(found)) is not None]
    taken = {mask.path for mask in masks}
    return [found for found in others if found.path not in taken], masks, affix.said


def _images(files: list[Found]) -> list[Found]:
    """Leave out what lies beside folders that are called as images are: previews, other data."""
    return [found for found in files if found.role == "image"] or files


def _cut(found: Found, stem: str) -> Found:
    return replace(found, stem=stem)


def _ends(stem: str, suffix: str) -> bool:
    return stem.casefold().endswith(suffix.casefold()) and len(stem) > len(suffix)


def _once(folder: Folder, files: list[Found]) -> list[Found]:
    """Keep the first of files that would be paired by the same name."""
    known: dict[tuple[str, str, str], Found] = {}
    for found in files:
        key = found.split, found.where, found.stem
        if key in known:
            what = f"has the stem of {known[key].path.name}"
            folder.problems.append(BadFile(found.path, what, "rename one: stems pair images with masks"))
        known.setdefault(key, found)
    return list(known.values())


def _match(images: Sequence[Found], masks: Sequence[Found]) -> Match:
    """Find the scope and the rule: the first that pairs anything by equal stems, else the one that pairs most."""
    for scope in SCOPES:
        pairs = _pair(images, masks, scope, SAME)
        if pairs:
            return Match(scope, SAME, pairs)
    stems = sorted({found.stem for found in images}), sorted({found.stem for found in masks})
    best = Match(SCOPES[0], SAME, {})
    for scope in SCOPES:
        found = [Match(scope, rule, _pair(images, masks, scope, rule)) for rule in guess_rules(*stems)]
        best = max([best, *found], key=_worth)
        if len(best.pairs) == len(images):
            break
    enough = 2 * len(best.pairs) >= min(len(images), len(masks))
    return best if enough else Match(SCOPES[0], SAME, {})


def _worth(match: Match) -> tuple[int, int]:
    """Rate by the count of pairs; of as many, renderings for the eye come last, training numbers first."""
    theirs = match.rule.theirs
    return len(match.pairs), -1 if VISUAL.search(theirs) else int("trainids" in theirs.casefold())


def _pair(images: Sequence[Found], masks: Sequence[Found], scope: Scope, rule: Rule) -> dict[int, int]:
    """Pair by one scope and rule, in the spelling that pairs most; none where a name is not one file's alone."""
    return max((_spelt(images, masks, scope, rule, spell) for spell in (composed, folded)), key=len)


def _spelt(
    images: Sequence[Found], masks: Sequence[Found], scope: Scope, rule: Rule, spell: Callable[[str], str]
) -> dict[int, int]:
    places = {(*map(spell, scope(mask)), spell(mask.stem)): place for place, mask in enumerate(masks)}
    wanted = {}
    for place, image in enumerate(images):
        stem = rule.change(image.stem)
        if stem is not None:
            wanted[place] = (*map(spell, scope(image)), spell(stem))
    unique = len(places) == len(masks) and len(set(wanted.values())) == len(wanted)
    return {place: places[key] for place, key in wanted.items() if key in places} if unique else {}


def _without_renderings(folder: Folder, images: list[Found], masks: list[Found], match: Match) -> Match:
    """Leave out masks that are further renderings of paired images, such as ``_color`` beside ``_labelIds``."""
    bases = {images[place].stem.removesuffix(match.rule.ours) for place in match.pairs}
    paired, spare = set(match.pairs.values()), defaultdict(list)
    for place, mask in enumerate(masks):
        for cut in range(1, len(mask.stem)) if place not in paired else ():
            if mask.stem[:cut] in bases and not mask.stem[cut - 1 : cut + 1].isalnum():
                spare[mask.stem[cut:]].append(place)
                break
    left_out = {ending: places for ending, places in spare.items() if 2 * len(places) >= max(4, len(match.pairs))}
    if left_out:
        said = " and ".join(f"{len(places)} that end with {ending!r}" for ending, places in sorted(left_out.items()))
        folder.say(f"left out beside the masks: {said}; mask_suffix chooses")
    return replace(match, spare=frozenset(place for places in left_out.values() for place in places))


def _places(images: list[Found], masks: list[Found], match: Match) -> Places:
    return Places(images[0].path.parent, masks[0].path.parent, mask_stem=match.rule.change)


def _list(folder: Folder, images: list[Found], masks: list[Found], match: Match, lists: Mapping[str, Listing]) -> None:
    """Divide the pairs as lists say; only what they name is judged."""
    counted = Counter(found.stem for found in images)
    names = [found.where + found.stem if counted[found.stem] > 1 else found.stem for found in images]
    paired = {mask: names[image] for image, mask in match.pairs.items()}
    pictures = {name: found.path for name, found in zip(names, images, strict=True)}
    known = {paired.get(place, found.stem): found.path for place, found in enumerate(masks) if place not in match.spare}
    fill_splits(folder, pictures, known, _places(images, masks, match), lists)


def _sort(folder: Folder, images: list[Found], masks: list[Found], match: Match) -> None:
    """Divide the pairs into splits; a stem that several places have is named with its place."""
    often = Counter(images[place].stem for place in match.pairs)
    splits = {images[place].split for place in match.pairs} - {""}
    outside = 0
    for image, mask in sorted(match.pairs.items(), key=lambda pair: _order(images[pair[0]])):
        found = images[image]
        if splits and not found.split:
            outside += 1
            continue
        title = found.where + found.stem if often[found.stem] > 1 and found.where else ""
        pair = Pair(found.path, masks[mask].path, title=title)
        folder.splits.setdefault(found.split or "all", []).append(pair)
    folder.splits = {split: folder.splits[split] for split in (*SPLIT_ORDER, "all") if split in folder.splits}
    if outside:
        folder.say(f"left out: {counted(outside, 'pair')} outside the folders of the splits")


def _order(found: Found) -> tuple[str, str]:
    return found.where, found.stem


def _leftover(folder: Folder, images: list[Found], masks: list[Found], match: Match) -> None:
    """Say what has no partner; where nothing pairs, the reason is enough."""
    paired = set(match.pairs.values()) | match.spare
    alone = [found for place, found in enumerate(images) if place not in match.pairs]
    orphans = [found for place, found in enumerate(masks) if place not in paired]
    if not alone and not orphans:
        return
    misnamed = misnamed_pairs(_by_stem(images), _by_stem(masks)) if match.rule is SAME else None
    if misnamed is not None:
        folder.problems.append(misnamed)
        if not match.pairs:
            return
    if match.pairs and not {"test", ""} & {found.split for found in masks}:  # of a challenge, which keeps the masks
        kept = [found for found in alone if found.split != "test"]
        if len(kept) < len(alone):
            folder.say(f"left out: {counted(len(alone) - len(kept), 'image')} of split 'test', which has no masks")
        alone = kept
    places = _places(images, masks, match)
    problems = [(found, lonely(found.stem, {found.stem: found.path}, {}, places)) for found in alone]
    problems += [(found, lonely(found.stem, {}, {found.stem: found.path}, places)) for found in orphans]
    for found, problem in sorted(problems, key=lambda each: each[0].stem):
        folder.problems.append(problem)
        folder.lacking.setdefault(found.split or "all", []).append(problem)


def _by_stem(files: Sequence[Found]) -> dict[str, Path]:
    return {found.stem: found.path for found in files}
