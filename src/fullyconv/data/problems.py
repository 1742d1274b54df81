"""Problems of many files as a few lines: grouped by kind, with a count and some examples."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from fullyconv.files import BadFile

EXAMPLES = 3
PARTICULARS = re.compile(
    r"'[^']*'|\"[^\"]*\"|[-+]?\d[\d.,]*"
)  # quoted names and numbers, which differ from file to file


@dataclass(frozen=True)
class Group:
    """Problems of one kind, in the order in which they were found."""

    problems: tuple[BadFile, ...]

    def lines(self) -> Iterator[str]:
        """Yield the first problem in full, then what differs in two more, then how many there are besides."""
        first, *others = self.problems
        yield f"{first} ({len(self.problems)} like this)" if others else str(first)
        for other in others[: EXAMPLES - 1]:
            yield f"  also {other.path}" + ("" if other.what == first.what else f": {other.what}")
        if len(self.problems) > EXAMPLES:
            yield f"  and {len(self.problems) - EXAMPLES} more"


def group(problems: Iterable[BadFile]) -> list[Group]:
    """Put together the problems that say the same but for names and numbers.

    >>> sizes = [BadFile(f"{n}.png", f"the mask is {n} x 20", "save both at one size") for n in (31, 32)]
    >>> [len(each.problems) for each in group([*sizes, BadFile("c.png", "truncated", "copy it again")])]
    [2, 1]
    >>> list(group(sizes)[0].lines())[1]
    '  also 32.png: the mask is 32 x 20'
    """
    kinds: dict[str, list[BadFile]] = {}
    for problem in problems:
        kinds.setdefault(PARTICULARS.sub("…", problem.what), []).append(problem)
    return [Group(tuple(each)) for each in kinds.values()]
