"""How each operation of a network is written for pictures that come in bands of rows."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from math import inf, lcm, prod
from typing import Any, cast

from torch import fx, nn
from torch.nn import functional

from fullyconv.geometry import Spread, Window
from fullyconv.predict.carry import Carry, Context, Enlargement, Fill, Keep, Trim
from fullyconv.predict.repeated import Reading
from fullyconv.trace import Walk
from fullyconv.trace.axes import crop_of, entries_of
from fullyconv.trace.frames import Frame
from fullyconv.trace.nodes import KIND, PATH, SHAPE, VALUE
from fullyconv.trace.operations import Operation, operation
from fullyconv.trace.positions import ROWS, Call
from fullyconv.trace.walking import layer_of
from fullyconv.trace.windows import RADIUS, padding

FILLS: dict[str, Fill] = {"zeros": 0.0, "least": -inf, "reflect": "reflect", "replicate": "replicate"}
"""What the padding of a window consists of, by its name in ``trace.frames``."""


class NotStreamed(ValueError):
    """An operation that needs more of a picture than some rows; the message names it and its module."""


@dataclass
class Written:
    """What became of an operation; see ``repeated.Map``.

    Attributes:
        rows: That a first band gives.
        read: The maps that it is made of, and through what they are read.
        cost: Multiply-adds for each number; ``None`` where some rows cannot be computed again.
    """

    rows: int
    read: list[Reading] = field(default_factory=list)
    cost: float | None = None


class Rewriting:
    """A copy of a recorded graph that is changed step by step.

    Args:
        recorded: The network.
        copied: Its copy.
        own: The copy's node for each of the network's.
        found: Where the network's tensors look.
    """

    def __init__(
        self, recorded: fx.GraphModule, copied: fx.GraphModule, own: dict[fx.Node, fx.Node], found: Walk
    ) -> None:
        self.recorded, self.copied, self.own, self.found = recorded, copied, own, found
        self._theirs = {mine: node for node, mine in own.items()}
        scales = [positions.stride[ROWS] for positions in found.positions.values() if positions.axes]
        self.align = lcm(found.multiples[ROWS], *(scale.numerator for scale in scales))
        self._cut: dict[fx.Node, Fraction] = {}  # rows of the picture that the last band loses, of each map
        image = next(node for node in copied.graph.nodes if node.op == "placeholder")
        with copied.graph.inserting_after(image):
            self._flow = copied.graph.placeholder("flow")

    def exact(self, node: fx.Node) -> bool:
        """Return whether a map may have no other rows around its new ones, because something counts them."""
        flat = self.found.positions[node].flat is not None
        return flat or any(self._counts(user) for user in node.users if not self._is_map(user))

    def _counts(self, node: fx.Node) -> bool:
        """Return whether a number that is no map, the size of one, is used by what is not written by factors."""
        resizes = FORMS["resize"]
        return any(
            FORMS.get(getattr(operation(user, layer_of(self.recorded, user)), "stream", "")) is not resizes
            if self._is_map(user)
            else self._counts(user)
            for user in node.users
        )

    def _is_map(self, node: fx.Node) -> bool:
        return node in self.found.positions and bool(self.found.positions[node].axes)

    def row_axis(self, node: fx.Node) -> int:
        """Return the axis of a map's rows, counted from the end."""
        positions = self.found.positions[node]
        if positions.rows is None or positions.flat is not None:
            raise self.refusal(node, "joins positions that were flattened into one axis")
        return positions.rows

    def refusal(self, node: fx.Node, reason: str) -> NotStreamed:
        """Return an error that names an operation."""
        return NotStreamed(f"{node.meta.get(PATH) or node.name}: {reason}")

    def insert(
        self, place: fx.Node, module: nn.Module, given: fx.Node, like: fx.Node, *, after: bool = False
    ) -> fx.Node:
        """Write a step before (or after) a place in the graph; its result has the shape of ``like``."""
        graph = self.copied.graph
        name = f"{type(module).__name__.lower()}_{len(graph.nodes)}_{place.name}"
        self.copied.add_submodule(name, module)
        with graph.inserting_after(place) if after else graph.inserting_before(place):
            made = graph.call_module(name, (given, self._flow))
        made.meta.update({key: like.meta[key] for key in (SHAPE, KIND) if key in like.meta})
        return made

    def through(self, node: fx.Node, source: fx.Node, module: Carry | Context) -> None:
        """Let an operation read a map through what chooses its rows."""
        made = self.insert(self.own[node], module, self.own[source], source)
        self.own[node].replace_input_with(self.own[source], made)

    def keep(self, node: fx.Node, keep: Keep) -> None:
        """Put what keeps a map's rows behind it; who counts its rows counts the new ones."""
        mine = self.own[node]
        kept = self.insert(self._flow if mine.op == "placeholder" else mine, keep, mine, node, after=True)
        for user in list(mine.users):
            theirs = self._theirs.get(user)
            if user is not kept and (theirs is None or self._is_map(theirs)):
                user.replace_input_with(mine, kept)

    def carry(self, call: Call, window: Window, fill: Fill, rows: int) -> Written:
        """Put before an operation what chooses the rows that its window moves over."""
        source = call.sources[0]
        carry = Carry(window, self.row_axis(source), fill)
        if window.after < 0:
            # Rows that are cut off below come with the last band, if it has more of them.
            cut = self._lost(source) - window.after * self.found.positions[source].stride[ROWS]
            carry.eager = cut < self.align
            self._cut[call.node] = cut if carry.eager else self._lost(source)
        self.through(call.node, source, carry)
        return Written(carry.made(rows), [(source, carry)])

    def _lost(self, node: fx.Node) -> Fraction:
        """Return how many rows of the picture fewer the last band gives of a map, because of what was cut off."""
        if node not in self._cut:
            self._cut[node] = max(map(self._lost, filter(self._is_map, node.all_input_nodes)), default=Fraction(0))
        return self._cut[node]

    def bare(self, call: Call, columns: Any, attribute: str = "padding") -> None:
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

    def before(self, node: fx.Node, function: Callable[..., Any], arguments: tuple[Any, ...]) -> fx.Node:
        """Write a function before a step."""
        with self.copied.graph.inserting_before(node):
            return self.copied.graph.call_function(function, arguments)

    def finished(self) -> fx.GraphModule:
        """Take out what does nothing, and return the network."""
        graph = self.copied.graph
        for node in list(graph.nodes):
            step = layer_of(self.copied, node)
            if isinstance(step, Carry) and step.idle:
                node.replace_all_uses_with(node.args[0])
                graph.erase_node(node)
        end = next(node for node in graph.nodes if node.op == "output")
        given = end.args[0]
        end.args = (given if isinstance(given, tuple) else tuple(given) if isinstance(given, list) else (given,),)
        graph.eliminate_dead_code()
        self.copied.delete_all_unused_submodules()
        graph.lint()
        self.copied.recompile()
        return self.copied


def window(writing: Rewriting, call: Call, rows: int) -> Written:
    """Write a convolution or pool."""
    row = cast("Operation", operation(call.node, call.layer))
    frame = cast("Frame", cast("Any", row.frame)(call))
    along = cast("Window", frame.along(ROWS))
    if row.pools == "mean" and along.pad and not call.argument(5, "count_include_pad", True):
        raise writing.refusal(call.node, "averages over what is inside the picture alone")
    done = writing.carry(call, along, FILLS[frame.mode], rows)
    done.cost = max(row.multiply_adds(call) / prod(call.shape), prod(frame.kernel))
    if frame.before[1] == frame.after[1]:
        if frame.before[0] or frame.after[0]:
            writing.bare(call, frame.before[1])
        return done
    node = writing.own[call.node]
    sides, mode = (frame.before[1], frame.after[1], 0, 0), "constant" if frame.mode == "zeros" else frame.mode
    given = node.all_input_nodes[0]
    node.replace_input_with(given, writing.before(node, functional.pad, (given, sides, mode)))
    writing.bare(call, 0)
    return done


def sliding(writing: Rewriting, call: Call, rows: int) -> Written:
    """Write what answers for every window of a map (``SlidingWindow``)."""
    kernel, pad = call.argument(1, "window"), getattr(call.layer, "pad", (0, 0))
    done = writing.carry(call, Window(kernel[0], pad=pad[0]), 0.0, rows)
    if pad[0]:
        writing.bare(call, pad[1], "pad")
    return done


def border(writing: Rewriting, call: Call, rows: int) -> Written:
    """Write padding, or the crop that padding by negative numbers is."""
    ends, mode = padding(call)
    source, node = call.sources[0], writing.own[call.node]
    axis = writing.row_axis(source)
    before, after = ends[axis]
    ends[axis] = 0, 0
    value = call.argument(3, "value", 0.0)
    fill: Fill = float(value or 0) if mode == "constant" else cast("Fill", mode)
    done = writing.carry(call, Window(1, pad=before, pad_end=after), fill, rows)
    made = node.all_input_nodes[0]
    if any(any(each) for each in ends.values()):
        sides = [side for axis in sorted(ends, reverse=True) for side in ends[axis]]
        made = writing.before(node, functional.pad, (made, sides, mode, *((fill,) if mode == "constant" else ())))
        # A tensor of its own, so that padding for the next operation does not show in the map that was padded.
        done.cost = 1.0 if min(before, after) >= 0 else None
    made.meta.setdefault(SHAPE, call.node.meta[SHAPE])
    node.replace_all_uses_with(made)
    writing.own[call.node] = made
    return done


def crop(writing: Rewriting, call: Call, rows: int) -> Written:
    """Write a crop of rows, or one row of several."""
    source, node = call.sources[0], writing.own[call.node]
    axis = writing.row_axis(source)
    if call.name == "getitem":
        entries = entries_of(call)
        place = [number for number, entry in enumerate(entries) if entry is not None][axis]
        cut = crop_of(call, entries[place], call.before[axis])
        kept = [_mine(writing, entry) for entry in entries]
        kept[place] = slice(None, None, entries[place].step)
        done = writing.carry(call, cut, 0.0, rows)
        node.args = (node.args[0], tuple(kept))
        return done
    if call.from_end(call.argument(1, "dim")) != axis:
        return writing.carry(call, Window(1), 0.0, rows)
    bounds = call.argument(2, "start"), call.argument(3, "length")
    start, length = (int(each.meta[VALUE] if isinstance(each, fx.Node) else each) for each in bounds)
    done = writing.carry(call, crop_of(call, slice(start, start + length), call.before[axis]), 0.0, rows)
    made = node.all_input_nodes[0]
    node.replace_all_uses_with(made)
    writing.own[call.node] = made
    return done


def _mine(writing: Rewriting, entry: Any) -> Any:
    """Return an entry of an index with the copy's nodes."""
    if isinstance(entry, slice):
        return slice(*(_mine(writing, each) for each in (entry.start, entry.stop, entry.step)))
    return writing.own[entry] if isinstance(entry, fx.Node) else entry


def spread(writing: Rewriting, call: Call, rows: int) -> Written:
    """Write a transposed convolution."""
    frame = cast("Frame", cast("Any", cast("Operation", operation(call.node, call.layer)).frame)(call))
    layer = cast("Spread", frame.along(ROWS))
    more = layer.kernel - layer.stride - layer.pad
    back = (layer.kernel - 1) // layer.stride
    if layer.pad:
        writing.bare(call, frame.before[1])
    return _enlarge(writing, call, Enlargement(layer.stride, layer.pad, more, back), rows)


def resize(writing: Rewriting, call: Call, rows: int) -> Written:
    """Write an interpolation by whole factors."""
    source = call.sources[0]
    mode, antialias = call.argument(3, "mode", "nearest"), call.argument(6, "antialias")
    strides = (writing.found.positions[each].stride for each in (source, call.node))
    ratios = [before / after for before, after in zip(*strides, strict=True)]
    factor = ratios[ROWS]
    if antialias:
        raise writing.refusal(call.node, "interpolates with antialias, whose edge is another inside a picture")
    if factor < 1:
        block = int(1 / factor)
        done = writing.carry(call, Window(block, block), 0.0, rows)
    else:
        radius = RADIUS.get(mode, 0) if factor > 1 else 0
        done = _enlarge(writing, call, Enlargement(int(factor), back=radius, ahead=radius), rows)
    if call.argument(1, "size") is not None:
        node = writing.own[call.node]
        node = node.all_input_nodes[0] if factor >= 1 else node  # the step before what trims its result
        kept = {key: value for key, value in node.kwargs.items() if key in ("mode", "align_corners")}
        node.target, node.op = functional.interpolate, "call_function"
        node.args = (node.all_input_nodes[0],)
        node.kwargs = {"scale_factor": tuple(map(float, ratios)), "mode": mode} | kept
    return done


def _enlarge(writing: Rewriting, call: Call, by: Enlargement, rows: int) -> Written:
    source, node = call.sources[0], writing.own[call.node]
    context = Context(by, writing.row_axis(source))
    writing.through(call.node, source, context)
    trim = writing.insert(node, Trim(context), node, call.node, after=True)
    node.replace_all_uses_with(trim, delete_user_cb=lambda user: user is not trim)
    writing.own[call.node] = trim
    return Written(context.made(rows), [(source, context)])


Form = Callable[[Rewriting, Call, int], Written]
"""Writes an operation that reads one map, so many rows of which come in a first band."""

FORMS: dict[str, Form] = {
    "window": window,
    "sliding": sliding,
    "border": border,
    "crop": crop,
    "spread": spread,
    "resize": resize,
}


def _set(node: fx.Node, index: int, name: str, value: Any) -> None:
    """Change an argument of a function, wherever it is given."""
    if index < len(node.args):
        node.args = (*node.args[:index], value, *node.args[index + 1 :])
    else:
        node.kwargs = {**node.kwargs, name: value}
