"""Further masks of a picture, one for each head of a network, where ``classes.yaml`` says that there are any."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from fullyconv.data.arrays import SUFFIXES as ARRAYS
from fullyconv.data.channels import of_stem, places_beside
from fullyconv.data.classes import FILE_NAME, StatedHead, stating
from fullyconv.data.pairs import Folder, OtherMask, Pair
from fullyconv.files import BadFile


def find_further(folder: Folder, heads: Mapping[str, StatedHead]) -> None:
    """Let the pictures of a data set have further masks; one that lacks any is a problem, and left out.

    Args:
        folder: The data set, whose pairs have their first masks.
        heads: What is stated of the further ones.

    Raises:
        BadFile: Where no picture at all has a mask of a head.
    """
    for name, head in heads.items():
        folder.heads[name] = head.classes
        missing: dict[str, list[BadFile]] = {}
        for split, pairs in folder.splits.items():
            found = [(pair, _mask_of(pair, head)) for pair in pairs]
            folder.splits[split] = [
                replace(pair, further=(*pair.further, OtherMask(name, mask, classes=head.classes)))
                for pair, mask in found
                if mask is not None
            ]
            missing[split] = [_lacks(pair, name, head) for pair, mask in found if mask is None]
        if not any(folder.splits.values()) and any(missing.values()):
            where = f"no name ends with {head.suffix!r}" if head.suffix else f"no folder {head.folder}/ has one"
            fix = f"add them, or take {name} out of 'heads'"
            raise BadFile(stating(folder.root) or folder.root / FILE_NAME, f"heads.{name}: {where}", fix)
        for split, problems in missing.items():
            folder.problems += problems
            folder.lacking.setdefault(split, []).extend(problems)


def is_further(path: Path, root: Path, heads: Mapping[str, StatedHead]) -> bool:
    """Return whether a file below a folder is, by its folders or its name, a mask of a further head."""
    folders = set(path.relative_to(root).parts[:-1])
    return any(head.folder in folders or (head.suffix and path.stem.endswith(head.suffix)) for head in heads.values())


def _mask_of(pair: Pair, head: StatedHead) -> Path | None:
    suffixes = (pair.mask.suffix, *ARRAYS)
    found = (of_stem(stem, suffix) for stem in _stems(pair, head) for suffix in suffixes)
    return next((file for file in found if file is not None and file not in (pair.image, pair.mask)), None)


def _stems(pair: Pair, head: StatedHead) -> Iterator[Path]:
    """Yield where a further mask may lie, without its suffix: named as the first mask is, or as the image."""
    if head.suffix:
        for place in (pair.mask.parent, pair.image.parent):
            for stem in (pair.image.stem, pair.mask.stem):
                yield place / (stem + head.suffix)
        return
    for like in (pair.mask, pair.mask.with_name(pair.image.name), pair.image):
        yield from places_beside(like, head.folder)


def _lacks(pair: Pair, name: str, head: StatedHead) -> BadFile:
    wanted = f"{pair.image.stem}{head.suffix}.png" if head.suffix else f"{head.folder}/{pair.mask.stem}.png"
    return BadFile(pair.image, f"has no mask of the head {name!r}", f"add {wanted}, or leave the picture out")
