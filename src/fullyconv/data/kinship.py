"""How much of a split is new: its scenes, what is alike in the training split, and the groups that names suggest."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from fullyconv.data.dataset import read_picture
from fullyconv.data.groups import guess_groups
from fullyconv.data.likeness import ALIKE, alike_from, count_scenes, nearest, signature
from fullyconv.data.pairs import Pair
from fullyconv.data.raster import COLOURS
from fullyconv.files import BadFile, counted

MOST = 5000  # pictures of a split that are compared: of more, those at even distances
TRAINING = ("train", "all")

Kin = tuple[Pair, Pair, float]
"""A picture, one that is alike, and their likeness."""


@dataclass(frozen=True)
class Kinship:
    """What one split's pictures have to do with each other and with the training pictures.

    Attributes:
        pictures: How many were compared.
        scenes: About how many different scenes they show.
        alike: Pictures with the training picture that is most alike, the most alike first.
        groups: What their names say, empty if nothing.
        within: Pictures with the one of their own split whose scene they show, the most alike first.
        threshold: The likeness from which two pictures show one scene.
    """

    pictures: int
    scenes: int
    alike: tuple[Kin, ...] = ()
    groups: str = ""
    within: tuple[Kin, ...] = ()
    threshold: float = ALIKE

    def lines(self, split: str) -> list[str]:
        """Say it in sentences.

        >>> Kinship(101, 12, groups="by their names of 1 group (0016E5), which is in train too").lines("val")
        ['val: 101 pictures, about 12 scenes, by their names of 1 group (0016E5), which is in train too']
        """
        said = [f"{split}: {counted(self.pictures, 'picture')}, about {counted(self.scenes, 'scene')}"]
        if self.groups:
            said[0] += f", {self.groups}"
        if self.threshold > ALIKE:
            said[0] += f" (all pictures are laid out alike: one scene from a likeness of {self.threshold:.2f} on)"
        if self.alike:
            one, other, likeness = self.alike[0]
            said.append(
                f"{split}: {len(self.alike)} of them are nearly pictures of train, such as {one.image.name} and "
                f"{other.image.name} (likeness {likeness:.2f}): its scores are flattered"
            )
        return said


def find_kin(
    splits: Mapping[str, Sequence[Pair]], *, progress: Callable[[str, int, int], None] | None = None
) -> dict[str, Kinship]:
    """Compare the pictures within each split, and with those of ``train``.

    Args:
        splits: Pairs by split; pictures that cannot be read are left out.
        progress: Called with (what is being done, done, total).

    Returns:
        What was found, by split.

    >>> find_kin({"val": []})
    {}
    """
    drawn = {split: list(pairs[:: -(-len(pairs) // MOST)]) for split, pairs in splits.items() if pairs}
    total, done = sum(map(len, drawn.values())), 0
    seen: dict[str, tuple[list[Pair], np.ndarray]] = {}
    with ThreadPoolExecutor() as pool:
        for split, pairs in drawn.items():
            known, signatures = [], []
            for pair, one in zip(pairs, pool.map(_signature, pairs), strict=True):
                done += 1
                if progress is not None:
                    progress("comparing pictures", done, total)
                if one is not None:
                    known.append(pair)
                    signatures.append(one)
            if known:
                seen[split] = known, np.stack(signatures)
    names = _groups({split: [pair.name for pair in pairs] for split, (pairs, _) in seen.items()})
    threshold = alike_from(np.concatenate([found for _, found in seen.values()])) if seen else ALIKE
    kin = {}
    for split, (pairs, found) in seen.items():
        leaders = count_scenes(found, alike=threshold)
        within = [
            (pairs[place], pairs[leader], float(found[place] @ found[leader]))
            for place, leader in enumerate(leaders)
            if place != leader
        ]
        kin[split] = Kinship(
            len(pairs),
            len(set(leaders)),
            _alike(split, seen, threshold),
            names.get(split, ""),
            tuple(sorted(within, key=lambda each: -each[2])),
            threshold,
        )
    return kin


def kin_in_words(splits: Mapping[str, Sequence[Pair]], *, most: int = 1000) -> list[str]:
    """Say what the pictures of splits other than ``train`` have to do with each other and with those of ``train``.

    Args:
        splits: Pairs by split; one that holds training pictures is not compared with them.
        most: Pictures; of more nothing is said, for all would have to be read.

    Returns:
        Sentences.

    >>> kin_in_words({"train": [], "val": []})
    []
    """
    training = {pair.image for pair in splits.get("train", ())}
    others = {pair.image for name, pairs in splits.items() if name != "train" for pair in pairs}
    if sum(map(len, splits.values())) > most or others & training:
        return []
    return [line for name, found in find_kin(splits).items() if name != "train" for line in found.lines(name)]


def _signature(pair: Pair) -> np.ndarray | None:
    try:
        return signature(np.ascontiguousarray(read_picture(pair)[..., :COLOURS]))
    except BadFile:
        return None  # whoever reads all pairs has complained of it


def _alike(split: str, seen: Mapping[str, tuple[Sequence[Pair], np.ndarray]], threshold: float) -> tuple[Kin, ...]:
    if split == "train" or "train" not in seen:
        return ()
    (pairs, found), (training, known) = seen[split], seen["train"]
    best = [
        (pair, training[place], likeness)
        for pair, (place, likeness) in zip(pairs, nearest(found, known), strict=True)
        if likeness >= threshold and pair.image != training[place].image  # lists such as trainval hold train's pictures
    ]
    return tuple(sorted(best, key=lambda each: -each[2]))


def _groups(stems: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Say for each split what groups its names suggest, by one rule for all splits."""
    every = guess_groups([stem for names in stems.values() for stem in names])
    if every is None:
        return {}
    left, said, training = iter(every), {}, set[str]()
    by_split = {split: [next(left) for _ in names] for split, names in stems.items()}
    for split in TRAINING:
        training |= set(by_split.get(split, []))
    for split, groups in by_split.items():
        said[split] = describe_groups(groups, () if split in TRAINING else training)
    return said


def describe_groups(groups: Sequence[str], training: Collection[str]) -> str:
    """Say what the names of a split's pictures tell of them; ``training`` are the groups of the training pictures.

    >>> describe_groups(["a", "a"], ["a", "b"])
    'by their names of 1 group (a), which is in train too'
    """
    names = sorted(set(groups))
    shared = [name for name in names if name in training]
    listed = ", ".join(names[:4]) + ", …" * (len(names) > 4)
    said = f"by their names of {counted(len(names), 'group')} ({listed})"
    if not shared:
        return said
    if len(shared) == len(names):
        return f"{said}, which {'is' if len(names) == 1 else 'all are'} in train too"
    return f"{said}, {len(shared)} of them in train too"
