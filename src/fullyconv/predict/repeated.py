"""Which maps of a network in bands are kept, and which have rows that are computed again instead.

To lay the rows kept of a map above the new ones copies all of it. To compute as many rows again costs what the
operation before takes for them, and asks for more rows of what that reads; so this is followed back until some map is
kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from math import inf

from torch import fx

from fullyconv.predict.carry import Around, Carry, Context, Fill

USUAL_ROWS = 512  # of the picture in a band, for this choice
COPYING = 200  # multiply-adds that take as long as copying a number

Reading = tuple[fx.Node, Carry | Context | None]
"""A map that is read, and through what; ``None`` where each row is answered from itself, those around as well."""


@dataclass
class Map:
    """A map on its way through a network.

    Attributes:
        rows: That a first band gives.
        scale: Rows of the picture to each.
        numbers: That each of its units consists of.
        cost: Multiply-adds for each of them; ``None`` where some rows cannot be computed again.
        read: The maps that it is made of.
        readers: Those that are made of it.
    """

    rows: int
    scale: Fraction
    numbers: float = 0.0
    cost: float | None = None
    read: list[Reading] = field(default_factory=list)
    readers: set[fx.Node] = field(default_factory=set)

    @property
    def copying(self) -> float:
        """What laying kept rows above the new ones takes, by columns of the picture."""
        return float(USUAL_ROWS / self.scale**2) * self.numbers * COPYING


class Plan:
    """What lies around the new rows of each map.

    Every ``Carry`` and ``Context`` is told what it is given, and what shall lie around its result.

    Args:
        maps: All of them, in the order in which they are computed.

    Attributes:
        kept: What maps are kept, and so what their readers are given.
    """

    def __init__(self, maps: dict[fx.Node, Map]) -> None:
        self._maps = maps
        self.kept: dict[fx.Node, Around] = {}
        self._computed: dict[fx.Node, Around] = {}
        self._prices: dict[tuple[fx.Node, Around], float] = {}
        for node in reversed(maps):
            demand = Around()
            for through, reader in self._readings(node):
                demand |= _needs(through, maps[node], self._computed[reader])
            if demand and self._repeating(node, demand) > maps[node].copying:
                self.kept[node], demand = demand, Around()
            self._computed[node] = demand
        for node, each in maps.items():
            wanted = self._computed[node]
            passed = [self.given(source) for source, through in each.read if through is None]
            self._computed[node] = passed[0] if passed else wanted
            for _, through in each.read:
                if isinstance(through, Carry):
                    through.wanted = wanted
        self._tell()

    def computed(self, node: fx.Node) -> Around:
        """Return what lies around a map's new rows as it is computed."""
        return self._computed[node]

    def given(self, node: fx.Node) -> Around:
        """Return what lies around a map's new rows for those who read it."""
        return self.kept.get(node) or self._computed[node]

    def _readings(self, node: fx.Node) -> Iterator[tuple[Carry | Context | None, fx.Node]]:
        for reader in self._maps[node].readers:
            yield from ((through, reader) for source, through in self._maps[reader].read if source is node)

    def _repeating(self, node: fx.Node, demand: Around) -> float:
        """Return what computing rows of a map again takes, with what that asks of the maps that it is made of."""
        if (node, demand) not in self._prices:
            self._prices[node, demand] = self._measured(node, demand)
        return self._prices[node, demand]

    def _measured(self, node: fx.Node, demand: Around) -> float:
        each = self._maps[node]
        if each.cost is None or not each.read:
            return inf
        total = float(demand.above / each.scale) * each.numbers * each.cost
        for source, through in each.read:
            if total > each.copying or isinstance(through, Context):
                return inf
            if through is not None and through.window.ceil_mode and demand.below:
                return inf  # its last window may lie beyond
            below = self._maps[source]
            before, after = (_needs(through, below, wanted) for wanted in (Around(), demand))
            if not each.cost and len(below.readers) == 1:
                # Computed together with the operation before: nothing is kept between the two.
                total += self._repeating(source, after)
            else:
                total += self._price(source, after) - self._price(source, before)
        return total

    def _price(self, node: fx.Node, demand: Around) -> float:
        """Return what rows around a map take in the cheaper way."""
        return min(self._repeating(node, demand), self._maps[node].copying) if demand else 0.0

    def _tell(self) -> None:
        padded: dict[fx.Node, Fill] = {}  # with what the first who pads a map pads it
        root: dict[fx.Node, fx.Node] = {}
        for node, each in self._maps.items():
            root[node] = node
            for source, through in each.read:
                if through is None:
                    root[node] = root[source]  # perhaps the same memory
                    continue
                through.given = self.given(source)
                if isinstance(through, Carry) and max(through.window.pad, through.window.after) > 0:
                    through.alone = padded.setdefault(root[source], through.fill) != through.fill


def _needs(through: Carry | Context | None, source: Map, wanted: Around) -> Around:
    """Return what a reader needs around the new rows of a map."""
    return wanted if through is None else through.needs(source.rows, wanted)
