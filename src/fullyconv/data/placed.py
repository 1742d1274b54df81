"""Names of tiles: what is left of them without the tile's place in the picture that it was cut from."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

# Places that say so, x512_y0, r3-c12, tile 7: behind a blank or a number, for fox12 is a name.
SAID = re.compile(r"(?:(?:[_\-. ]+|(?<=\d))(?:[xyrcij]|row|col|tile|patch|crop)[_\-]?\d+)+$", re.IGNORECASE)
BRACKETS = re.compile(r"[_\-. ]*\[(?:[a-z]=[\d.]+,?)+\]$")  # QuPath's: [x=0,y=512,w=512,h=512]
LAST = re.compile(r"(.*?)[_\-. ](\d+)")
WORD = re.compile(r"[_\-. ](?=[^_\-. ]*[a-z])[^_\-. ]+$", re.IGNORECASE)
MOSTLY = 0.8  # of the pictures are so called where a rule holds
FILLED = 0.5  # of a grid's places, where numbers are rows and columns; dates fill hardly any
STEPS = (16, 25)  # of which places in pixels are multiples
WINDOW, PLACE = 4, 2  # numbers


def strip_places(stems: Sequence[str]) -> list[str]:
    """Take the places of tiles away from names.

    Args:
        stems: The names of all pictures.

    Returns:
        The names of what tiles were cut from; the names themselves where most are no tiles'.

    >>> strip_places(["a_0_0", "a_0_1", "a_1_0", "a_1_1"]), strip_places(["a_x0_y0", "a_x0_y9"])
    (['a', 'a', 'a', 'a'], ['a', 'a'])
    """
    names = _without_last_word(stems)
    for pattern in (BRACKETS, SAID):
        cut = [pattern.sub("", name) for name in names]
        if sum(map(bool, cut)) and sum(
            short != name and bool(short) for short, name in zip(cut, names, strict=True)
        ) >= (MOSTLY * len(names)):
            return cut
    for count in (WINDOW, PLACE):
        parts = [_numbers(name, count) for name in names]
        if sum(len(numbers) == count for _, numbers in parts) >= MOSTLY * max(1, len(names)) and _are_places(
            parts, count
        ):
            return [
                before if len(numbers) == count else name for name, (before, numbers) in zip(names, parts, strict=True)
            ]
    return names


def _without_last_word(stems: Sequence[str]) -> list[str]:
    """Take away the words that all names end with, ``_leftImg8bit``."""
    names = list(stems)
    while len(ends := {found[0] if (found := WORD.search(name)) else "" for name in names}) == 1 and (
        end := ends.pop()
    ):
        names = [name.removesuffix(end) for name in names]
    return names


def _numbers(name: str, count: int) -> tuple[str, tuple[int, ...]]:
    """Split the last numbers, so many if there are, from a name that does not consist of them alone."""
    numbers: list[int] = []
    while len(numbers) < count and (found := LAST.fullmatch(name)) and found[1]:
        name, number = found[1], found[2]
        numbers.insert(0, int(number[-9:]))
    return name, tuple(numbers)


def _are_places(parts: Sequence[tuple[str, tuple[int, ...]]], count: int) -> bool:
    """Return whether the last numbers of names say where tiles lie."""
    numbers = np.array([each for _, each in parts if len(each) == count])
    if count == WINDOW:  # left, right, top, bottom; or left, top, right, bottom; or left, top, width, height
        one, two, three, four = numbers.T
        sizes = ((two - one, four - three), (three - one, four - two), (three, four))
        return any(_mostly_one(width) and _mostly_one(height) for width, height in sizes)
    whole: dict[str, set[tuple[int, ...]]] = defaultdict(set)
    for before, each in parts:
        if len(each) == count:
            whole[before].add(each)
    axes = [[len(set(axis)) for axis in zip(*places, strict=True)] for places in whole.values()]
    wide = [rows > 1 and columns > 1 for rows, columns in axes]
    tiles = [len(places) for places in whole.values()]
    in_grids = sum(count for count, grid in zip(tiles, wide, strict=True) if grid)
    room = sum(rows * columns for rows, columns in axes)
    steps = any((numbers % step == 0).all(1).mean() >= MOSTLY for step in STEPS)
    return in_grids >= MOSTLY * sum(tiles) and (steps or sum(tiles) >= FILLED * room)


def _mostly_one(numbers: np.ndarray) -> bool:
    """Return whether most numbers are one and the same, above 0."""
    values, counts = np.unique(numbers, return_counts=True)
    return bool(counts.max() >= MOSTLY * len(numbers) and values[counts.argmax()] > 0)
