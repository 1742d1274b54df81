"""A network's graph written so that pictures flow through it in bands of rows (``fullyconv.predict.carry``).

Nothing of this knows a network: the windows follow from its trace. Before an operation that moves a window over rows
stands what keeps the rows that its next window begins with, and its own padding above and below is taken away; where
branches meet, the faster one is delayed.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from math import ceil, inf, lcm
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from fullyconv.geometry import Spread, Window
from fullyconv.predict.carry import Carry, Context, Delay, Enlargement, Fill, Flow, Trim
from fullyconv.trace import Walk, walk
from fullyconv.trace.axes import crop_of, entries_of
from fullyconv.trace.frames import Frame
from fullyconv.trace.nodes import KIND, PATH, SHAPE, VALUE
from fullyconv.trace.operations import Operation, operation
from fullyconv.trace.positions import ROWS, Call
from fullyconv.trace.walking import call_of, layer_of
from fullyconv.trace.windows import RADIUS, padding

TRIAL = 64  # times the stride: rows of the picture with which delays are counted
REPEATED = 4  # rows of a map that are computed again rather than kept
FILLS: dict[str, Fill] = {"zeros": 0.0, "least": -inf, "reflect": "reflect", "replicate": "replicate"}
"""What the padding of a window consists of, by its name in ``trace.frames``."""


class NotStreamed(ValueError):
    """An operation that needs more of a picture than some rows; the message names it and its module."""


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
    >>> network = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.MaxPool2d(2, ceil_mode=True)).eval()
    >>> flowing, picture = stream(record(network, (1, 32, 32))), torch.rand(1, 1, 37, 5)
    >>> flowing.align, flowing.first, torch.allclose(flowing.run(picture, 8)[0], network(picture))
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
    return _Writer(recorded, fx.GraphModule(recorded, graph), own, found).run()


class _Writer:
    """Goes through a graph from the picture on and writes what carries rows before each operation that needs it."""

    def __init__(
        self, recorded: fx.GraphModule, copied: fx.GraphModule, own: dict[fx.Node, fx.Node], found: Walk
    ) -> None:
        self.recorded, self.copied, self.own, self.found = recorded, copied, own, found
        scales = [positions.stride[ROWS] for positions in found.positions.values() if positions.axes]
        self.align = lcm(found.multiples[ROWS], *(scale.numerator for scale in scales))
        self.trial = TRIAL * self.align
        self.made: dict[fx.Node, int] = {}  # the rows of each map after a first band of ``trial`` rows
        self.flow: Any = None
        self.carriers: dict[fx.Node, tuple[Carry, int, fx.Node]] = {}  # with the rows each keeps, and of what

    def run(self) -> Streamed:
        graph = self.copied.graph
        image = next(node for node in graph.nodes if node.op == "placeholder")
        with graph.inserting_after(image):
            self.flow = graph.placeholder("flow")
        for node in self.recorded.graph.nodes:
            if node.op == "placeholder":
                self.made[node] = self.trial
            elif node in self.found.positions and self.found.positions[node].axes:
                self._write(node)
        self._repeat()
        end = next(node for node in graph.nodes if node.op == "output")
        given = end.args[0]
        end.args = (given if isinstance(given, tuple) else tuple(given) if isinstance(given, list) else (given,),)
        graph.eliminate_dead_code()
        self.copied.delete_all_unused_submodules()
        graph.lint()
        self.copied.recompile()
        return Streamed(self.copied, self.align, self._first())

    def _repeat(self) -> None:
        """Let operations repeat their last rows where the next one alone needs these, instead of keeping them."""
        for place, (carry, rest, _) in reversed(self.carriers.items()):
            kept = rest + carry.again * carry.window.stride
            before = self._carrier_before(place.args[0]) if 0 < kept <= REPEATED else None
            if before is not None:
                carry.given = before.again = kept

    def _carrier_before(self, node: Any) -> Carry | None:
        """Return the carrier of the operation whose result, and what is made of it unit by unit, is used here alone."""
        while len(node.users) == 1 and node.op in ("call_module", "call_function", "call_method"):
            row = operation(node, layer_of(self.copied, node))
            inputs = [each for each in node.all_input_nodes if each.op != "get_attr"]
            if row is None or len(inputs) != 1:
                return None
            if row.stream == "window":
                return self.carriers[inputs[0]][0] if inputs[0] in self.carriers else None
            if not row.unitwise:
                return None
            node = inputs[0]
        return None

    def _first(self) -> int:
        """Find the fewest rows of a first band that gives every operation something to compute."""
        least = 1
        for node, made in self.made.items():
            scale = self.found.positions[node].stride[ROWS]
            late = self.trial / scale - made  # rows by which the map is behind, whatever has come
            least = max(least, ceil((late + 1) * scale))
        for carry, _, source in self.carriers.values():
            scale = self.found.positions[source].stride[ROWS]
            least = max(least, ceil((self.trial / scale - self.made[source] + carry.given) * scale))
        return -(-least // self.align) * self.align

    def _write(self, node: fx.Node) -> None:
        call = call_of(self.recorded, node, self.found)
        row = operation(node, call.layer)
        sources = [source for source in call.sources if self.found.positions[source].axes]
        form = None if row is None else FORMS.get(row.stream)
        if form is not None and len(sources) == 1 and not _only_channels(call, sources[0], self.found):
            form(self, call)
            return
        self.made[node] = self._together(node, sources)
        self._follow(call, row, sources)

    def _together(self, node: fx.Node, sources: list[fx.Node]) -> int:
        """Let the maps that an operation joins wait for the slowest; returns how many rows all have."""
        slowest = min(self.made[source] for source in sources)
        for source in dict.fromkeys(sources):
            if (lag := self.made[source] - slowest) > 0:
                axis = self._row_axis(source)
                delay = self._insert(self.own[node], Delay(lag, axis), self.own[source], source)
                self.own[node].replace_input_with(self.own[source], delay)
        return slowest

    def _follow(self, call: Call, row: Operation | None, sources: list[fx.Node]) -> None:
        """Follow what makes one row of several or several of one without a window: reshaping."""
        strides = {self.found.positions[node].stride[ROWS] for node in (*sources, call.node)}
        if row is None or len(strides) > 1 < len(sources):
            raise self._refusal(call.node, "enlarges a map by numbers that belong to whole maps")
        if len(sources) != 1 or row.joins:
            return
        before, after = (self.found.positions[node].trails[ROWS].path for node in (sources[0], call.node))
        for layer in after[len(before) :]:
            if isinstance(layer, Spread) and layer.kernel == layer.stride:
                self.made[call.node] *= layer.stride
            elif isinstance(layer, Window) and layer.kernel == layer.stride and not (layer.pad or layer.after):
                self._carry(call, layer, 0.0)
            else:
                raise self._refusal(call.node, "moves rows in a way that bands do not allow")

    def _row_axis(self, node: fx.Node) -> int:
        positions = self.found.positions[node]
        axis = positions.rows if positions.rows is not None else positions.flat
        if axis is None or positions.flat is not None:
            raise self._refusal(node, "joins positions that were flattened into one axis")
        return axis

    def _refusal(self, node: fx.Node, reason: str) -> NotStreamed:
        return NotStreamed(f"{node.meta.get(PATH) or node.name}: {reason}")

    def _insert(
        self, place: fx.Node, module: nn.Module, given: fx.Node, like: fx.Node, *, after: bool = False
    ) -> fx.Node:
        """Write a step before (or after) a place in the graph; its result has the shape of ``like``."""
        graph = self.copied.graph
        name = f"{type(module).__name__.lower()}_{len(graph.nodes)}_{place.name}"
        self.copied.add_submodule(name, module)
        with graph.inserting_after(place) if after else graph.inserting_before(place):
            made = graph.call_module(name, (given, self.flow))
        made.meta.update({key: like.meta[key] for key in (SHAPE, KIND) if key in like.meta})
        return made

    def _carry(self, call: Call, window: Window, fill: Fill) -> None:
        """Put a carrier before an operation that moves a window over rows."""
        source = call.sources[0]
        self.made[call.node] = self.made[source]
        if (window.extent, window.stride, window.pad, window.after) == (1, 1, 0, 0):
            return
        axis = self._row_axis(source)
        carry = Carry(window, axis, fill)
        self.made[call.node] = carry.made(self.made[source])
        made = self._insert(self.own[call.node], carry, self.own[source], source)
        self.own[call.node].replace_input_with(self.own[source], made)
        rest = self.made[source] + window.pad - self.made[call.node] * window.stride
        self.carriers[made] = carry, rest, source

    def _bare(self, call: Call, columns: Any, attribute: str = "padding") -> None:
        """Take the padding above and below from an operation; ``columns`` is what is left along columns."""
        node, layer = self.own[call.node], call.layer
        if layer is None:
            index = {"conv2d": 4, "conv_transpose2d": 4}.get(call.name, 3)
            _set(node, index, "padding", (0, columns))
            return
        bare = copy.copy(layer)
        bare._modules, bare._parameters, bare._buffers = (
            dict(layer._modules),
            dict(layer._parameters),
            dict(layer._buffers),
        )
        setattr(bare, attribute, (0, columns))
        if hasattr(bare, "_reversed_padding_repeated_twice"):
            cast("Any", bare)._reversed_padding_repeated_twice = [columns, columns, 0, 0]
        name = f"bare_{node.name}"
        self.copied.add_submodule(name, bare)
        node.target = name

    def window(self, call: Call) -> None:
        """Write a convolution or pool."""
        row = cast("Operation", operation(call.node, call.layer))
        frame = cast("Frame", cast("Any", row.frame)(call))
        window = cast("Window", frame.along(ROWS))
        if row.pools == "mean" and window.pad and not call.argument(5, "count_include_pad", True):
            raise self._refusal(call.node, "averages over what is inside the picture alone")
        self._carry(call, window, FILLS[frame.mode])
        if frame.before[1] == frame.after[1]:
            if frame.before[0] or frame.after[0]:
                self._bare(call, frame.before[1])
            return
        node = self.own[call.node]
        with self.copied.graph.inserting_before(node):
            sides = (frame.before[1], frame.after[1], 0, 0)
            mode = "constant" if frame.mode == "zeros" else frame.mode
            wide = self.copied.graph.call_function(functional.pad, (node.all_input_nodes[0], sides, mode))
        node.replace_input_with(node.all_input_nodes[0], wide)
        self._bare(call, 0)

    def sliding(self, call: Call) -> None:
        """Write what answers for every window of a map (``SlidingWindow``)."""
        kernel, pad = call.argument(1, "window"), getattr(call.layer, "pad", (0, 0))
        self._carry(call, Window(kernel[0], pad=pad[0]), 0.0)
        if pad[0]:
            self._bare(call, pad[1], "pad")

    def border(self, call: Call) -> None:
        """Write padding, or the crop that padding by negative numbers is."""
        ends, mode = padding(call)
        source, node = call.sources[0], self.own[call.node]
        axis = self._row_axis(source)
        before, after = ends[axis]
        ends[axis] = 0, 0
        value = call.argument(3, "value", 0.0)
        fill: Fill = float(value or 0) if mode == "constant" else cast("Fill", mode)
        self._carry(call, Window(1, pad=before, pad_end=after), fill)
        given = node.all_input_nodes[0]
        with self.copied.graph.inserting_before(node):
            sides = [side for axis in sorted(ends, reverse=True) for side in ends[axis]]
            rest = (given, sides, mode, *((fill,) if mode == "constant" else ()))
            made = self.copied.graph.call_function(functional.pad, rest) if any(sides) else given
        made.meta.setdefault(SHAPE, call.node.meta[SHAPE])
        node.replace_all_uses_with(made)
        self.own[call.node] = made

    def crop(self, call: Call) -> None:
        """Write a crop of rows, or one row of several."""
        source, node = call.sources[0], self.own[call.node]
        axis = self._row_axis(source)
        if call.name == "getitem":
            entries = entries_of(call)
            place = [number for number, entry in enumerate(entries) if entry is not None][axis]
            window = crop_of(call, entries[place], call.before[axis])
            step = entries[place].step
            kept = [self._mine(entry) for entry in entries]
            kept[place] = slice(None, None, step)
            self._carry(call, window, 0.0)
            node.args = (node.args[0], tuple(kept))
            return
        if call.from_end(call.argument(1, "dim")) != axis:
            self.made[call.node] = self.made[source]
            return
        bounds = call.argument(2, "start"), call.argument(3, "length")
        start, length = (int(each.meta[VALUE] if isinstance(each, fx.Node) else each) for each in bounds)
        self._carry(call, crop_of(call, slice(start, start + length), call.before[axis]), 0.0)
        made = node.all_input_nodes[0]
        node.replace_all_uses_with(made)
        self.own[call.node] = made

    def _mine(self, entry: Any) -> Any:
        """Return an entry of an index with this graph's nodes."""
        if isinstance(entry, slice):
            return slice(*(self._mine(each) for each in (entry.start, entry.stop, entry.step)))
        return self.own[entry] if isinstance(entry, fx.Node) else entry

    def spread(self, call: Call) -> None:
        """Write a transposed convolution."""
        frame = cast("Frame", cast("Any", cast("Operation", operation(call.node, call.layer)).frame)(call))
        layer = cast("Spread", frame.along(ROWS))
        more = layer.kernel - layer.stride - layer.pad
        back = (layer.kernel - 1) // layer.stride
        if layer.pad:
            self._bare(call, frame.before[1])
        self._enlarge(call, Enlargement(layer.stride, layer.pad, more, back))

    def resize(self, call: Call) -> None:
        """Write an interpolation by whole factors."""
        source = call.sources[0]
        mode, antialias = call.argument(3, "mode", "nearest"), call.argument(6, "antialias")
        ratios = [
            before / after
            for before, after in zip(
                self.found.positions[source].stride, self.found.positions[call.node].stride, strict=True
            )
        ]
        factor = ratios[ROWS]
        if antialias:
            raise self._refusal(call.node, "interpolates with antialias, whose edge is another inside a picture")
        if factor < 1:
            block = int(1 / factor)
            self._carry(call, Window(block, block), 0.0)
            self.made[call.node] = self.made[source] // block
        else:
            radius = RADIUS.get(mode, 0) if factor > 1 else 0
            self._enlarge(call, Enlargement(int(factor), back=radius, ahead=radius))
        if call.argument(1, "size") is not None:
            node = self.own[call.node]
            scale = tuple(map(float, ratios))
            kept = {key: value for key, value in node.kwargs.items() if key in ("mode", "align_corners")}
            mine = {"mode": mode} | kept
            node.target, node.op = functional.interpolate, "call_function"
            node.args, node.kwargs = (node.all_input_nodes[0],), {"scale_factor": scale} | mine

    def _enlarge(self, call: Call, by: Enlargement) -> None:
        source, node = call.sources[0], self.own[call.node]
        axis = self._row_axis(source)
        context = Context(by, axis)
        self.made[call.node] = context.made(self.made[source])
        node.replace_input_with(self.own[source], self._insert(node, context, self.own[source], source))
        trim = self._insert(node, Trim(context), node, call.node, after=True)
        node.replace_all_uses_with(trim, delete_user_cb=lambda user: user is not trim)
        self.own[call.node] = trim


FORMS: dict[str, Any] = {
    "window": _Writer.window,
    "sliding": _Writer.sliding,
    "border": _Writer.border,
    "crop": _Writer.crop,
    "spread": _Writer.spread,
    "resize": _Writer.resize,
}


def _only_channels(call: Call, source: fx.Node, found: Walk) -> bool:
    """Return whether an operation that could move rows leaves them as they are."""
    before, after = (found.positions[node].trails[ROWS].path for node in (source, call.node))
    return before == after


def _set(node: fx.Node, index: int, name: str, value: Any) -> None:
    """Change an argument of a function, wherever it is given."""
    if index < len(node.args):
        node.args = (*node.args[:index], value, *node.args[index + 1 :])
    else:
        node.kwargs = {**node.kwargs, name: value}
