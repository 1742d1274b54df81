"""A network's graph written so that pictures flow through it in bands of rows (``fullyconv.predict.carry``).

Nothing of this knows a network: the windows follow from its trace. Before an operation that moves a window over rows
stands what chooses these, and its own padding above and below is taken away; where branches meet, the faster one is
delayed.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import ceil, prod

import torch
from torch import Tensor, fx

from fullyconv.geometry import Layer, Spread, Window
from fullyconv.predict.carry import Carry, Flow, Keep
from fullyconv.predict.forms import FORMS, NotStreamed, Rewriting, Written
from fullyconv.predict.repeated import Map, Plan, Reading
from fullyconv.trace import walk
from fullyconv.trace.nodes import PATH, SHAPE
from fullyconv.trace.operations import Operation, operation
from fullyconv.trace.positions import ROWS, Call, shape_of
from fullyconv.trace.walking import call_of

__all__ = ["NotStreamed", "Streamed", "cuts", "stream"]

TRIAL = 64  # times the stride: rows of the picture with which delays are counted


@dataclass(frozen=True)
class Streamed:
    """A network through which pictures flow.

    Attributes:
        graph: (N x K x h x w rows, ``Flow``) -> the rows of each map that can be computed now.
        align: Of how many rows each band but the last is a multiple.
        first: The fewest rows of the first band. The last one has at least ``align``.
    """

    graph: fx.GraphModule
    align: int
    first: int

    def run(self, picture: Tensor, rows: int) -> list[Tensor]:
        """Let a whole picture flow through, for comparison.

        Args:
            picture: N x K x H x W.
            rows: Of the bands, rounded up to ``align``.

        Returns:
            The maps.
        """
        flow, maps = Flow(), list[tuple[Tensor, ...]]()
        for start, stop in cuts(picture.shape[2], self.first, -(-rows // self.align) * self.align, self.align):
            flow.last = stop == picture.shape[2]
            maps.append(self.graph(picture[:, :, start:stop], flow))
        return [torch.cat(parts, 2) for parts in zip(*maps, strict=True)]


def cuts(length: int, first: int, step: int, least: int) -> list[tuple[int, int]]:
    """Cut rows into a first band, bands of ``step``, and a last one of at least ``least``.

    >>> cuts(100, 30, 20, 10), cuts(35, 30, 20, 10)
    ([(0, 30), (30, 50), (50, 70), (70, 90), (90, 100)], [(0, 35)])
    """
    ends = [*range(first, length - least + 1, step), length]
    if len(ends) > 1 and ends[-2] == length:
        ends.pop()
    return list(zip([0, *ends[:-1]], ends, strict=True))


def stream(recorded: fx.GraphModule) -> Streamed:
    """Write a recorded network anew.

    Args:
        recorded: What ``fullyconv.trace.record`` made of it; it is left as it is, its layers are shared.

    Returns:
        The network for pictures in bands.

    Raises:
        NotFollowed: For what the trace refuses.
        NotStreamed: For what sees the whole picture, or pads in a way that bands do not allow.

    >>> from fullyconv.trace import record
    >>> from torch import nn
    >>> network = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.MaxPool2d(2, ceil_mode=True)).eval()
    >>> flowing, picture = stream(record(network, (1, 32, 32))), torch.rand(1, 1, 37, 5)
    >>> flowing.align, flowing.first, torch.allclose(flowing.run(picture, 8)[0], network(picture), atol=1e-5)
    (2, 4, True)
    """
    graph = fx.Graph()
    own: dict[fx.Node, fx.Node] = {}
    for node in recorded.graph.nodes:
        own[node] = graph.node_copy(node, lambda each: own[each])
    found = walk(recorded)
    if found.wide:
        node = next(iter(found.wide))
        raise NotStreamed(f"{node.meta.get(PATH) or node.name}: sees the whole picture, not some rows of it")
    # The network itself is the root, for a graph module copies nothing but what its graph names.
    return _Writer(Rewriting(recorded, fx.GraphModule(recorded, graph), own, found)).run()


class _Writer:
    """Goes through a graph from the picture on, writes what chooses rows before each operation, and what keeps them."""

    def __init__(self, writing: Rewriting) -> None:
        self._writing, self._found = writing, writing.found
        self._align = writing.align
        self._trial = TRIAL * self._align
        self._maps: dict[fx.Node, Map] = {}

    def run(self) -> Streamed:
        """Write the whole graph."""
        for node in self._writing.recorded.graph.nodes:
            if node.op == "placeholder":
                self._maps[node] = Map(self._trial, Fraction(1), self._numbers(node))
            elif node.op == "output" or (node in self._found.positions and self._found.positions[node].axes):
                self._write(node)
        plan = Plan(self._maps)
        for node, around in plan.kept.items():
            self._writing.keep(node, Keep(plan.computed(node), around, self._writing.row_axis(node)))
        return Streamed(self._writing.finished(), self._align, self._first())

    def _first(self) -> int:
        """Find the fewest rows of a first band that gives every operation something to compute."""
        least = 1
        for each in self._maps.values():
            late = self._trial / each.scale - each.rows  # rows by which the map is behind, whatever has come
            least = max(least, ceil((late + 1) * each.scale))
            for source, through in each.read:
                if isinstance(through, Carry) and isinstance(through.fill, str):  # which takes rows there are
                    given = self._maps[source]
                    late = self._trial / given.scale - given.rows + max(0, through.window.pad)
                    least = max(least, ceil((late + 1) * given.scale))
        return -(-least // self._align) * self._align

    def _write(self, node: fx.Node) -> None:
        """Write one operation, or the end."""
        if node.op == "output":
            sources, scale = [each for each in node.all_input_nodes if self._maps.get(each)], Fraction(1)
            done = Written(self._trial, [(source, self._wait(node, source, 0)) for source in sources])
        else:
            call, scale = call_of(self._writing.recorded, node, self._found), self._found.positions[node].stride[ROWS]
            sources = list(dict.fromkeys(source for source in call.sources if source in self._maps))
            row = operation(node, call.layer)
            form = (
                None if row is None or len(sources) != 1 or not self._moved(node, sources[0]) else FORMS.get(row.stream)
            )
            rows = self._maps[sources[0]].rows
            done = self._follow(call, row, sources) if form is None else form(self._writing, call, rows)
        self._maps[node] = Map(done.rows, scale, self._numbers(node), done.cost, done.read)
        for source, _ in done.read:
            self._maps[source].readers.add(node)

    def _numbers(self, node: fx.Node) -> float:
        """Count the numbers of a map for each unit."""
        positions = self._found.positions.get(node)
        shape = shape_of(node)
        return prod(shape[1:]) / prod(shape[axis] for axis in positions.axes) if positions else 0.0

    def _moved(self, node: fx.Node, source: fx.Node) -> tuple[Layer, ...]:
        """Return what an operation does to rows."""
        before, after = (self._found.positions[each].trails[ROWS].path for each in (source, node))
        return after[len(before) :] if after[: len(before)] == before else after

    def _wait(self, node: fx.Node, source: fx.Node, lag: int) -> Carry | None:
        """Let a map wait until the slowest that it meets has come as far; nothing but its new rows is read then."""
        if not lag and self._found.positions[source].flat is not None:
            return None
        carry = Carry(Window(1), self._writing.row_axis(source), 0.0, lag=lag)
        self._writing.through(node, source, carry)
        return carry

    def _follow(self, call: Call, row: Operation | None, sources: list[fx.Node]) -> Written:
        """Follow what answers each row from itself, or makes one row of several or several of one: no window."""
        node = call.node
        scales = {self._found.positions[each].stride[ROWS] for each in (*sources, node)}
        if row is None or len(scales) > 1 < len(sources):
            raise self._writing.refusal(node, "enlarges a map by numbers that belong to whole maps")
        counted = self._writing.exact(node)
        if len(sources) > 1:
            slowest = min(self._maps[source].rows for source in sources)
            read: list[Reading] = [
                (source, self._wait(node, source, self._maps[source].rows - slowest)) for source in sources
            ]
            return Written(slowest, read, 0.0 if row.joins and not counted else None)
        (source,) = sources
        moved, rows = self._moved(node, source), self._maps[source].rows
        if not moved:
            counted = counted or self._writing.exact(source)
            several = isinstance(source.meta[SHAPE], list)  # rows of one of them cannot be asked for again
            through = self._wait(node, source, 0) if counted else None
            return Written(rows, [(source, through)], None if counted or several else 0.0)
        layer = moved[0] if len(moved) == 1 else None
        if isinstance(layer, Spread) and layer.kernel == layer.stride:
            return Written(rows * layer.stride, [(source, self._wait(node, source, 0))])
        if isinstance(layer, Window) and layer.kernel == layer.stride and not (layer.pad or layer.after):
            return self._writing.carry(call, layer, 0.0, rows)
        raise self._writing.refusal(node, "moves rows in a way that bands do not allow")
