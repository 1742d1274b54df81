"""A classifier's head in fully convolutional form: what decided for one picture decides at every position.

(Paper, section 3.1.) Fully connected layers become convolutions of the window they read, global pooling and
flattening their dense counterparts, and normalisation of a vector that of every position's channels. The row of an
operation in the table (``fullyconv.trace.operations``) names its form. While it is written, the dense form of
whatever had positions, on two axes or flattened into one, is a map N x C x H x W, and so is that of a vector.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable
from math import prod
from typing import Any, cast

import torch
from torch import fx, nn
from torch.nn import functional

from fullyconv.surgery.head import Head
from fullyconv.surgery.layers import filled, linear_to_conv
from fullyconv.surgery.promise import HeadDiffers
from fullyconv.surgery.sliding import SlidingHead, head_alone, sliding_max, sliding_mean
from fullyconv.trace.nodes import PATH, SHAPE, VALUE, spelling
from fullyconv.trace.positions import Given, NotFollowed, shape_of

Pair = tuple[int, int]

SLIDING = "sliding_head"  # the name of the layer that runs a head on every window


def recast(
    head: Head, *, slide: bool, pad: bool = False, until: fx.Node | None = None, beside: bool = False
) -> tuple[fx.Node, dict[fx.Node, fx.Node]]:
    """Write a head for every position.

    Args:
        head: It is written behind its maps, into the graph that it is part of.
        slide: Let pooling become a window that moves by one unit; else it is left out and every unit is scored by
            itself.
        pad: Pad the windows of fully connected layers by half.
        until: Stop at the input of this operation.
        beside: Let no layer take the name of the one it is made of, so that both forms run.

    Returns:
        The node of the scores, N x K x h x w, and the dense form of each node of the head.

    Raises:
        HeadDiffers: Naming the operation that has no such form.

    """
    rewriter = _Rewriter(head, slide=slide, pad=pad, beside=beside)
    try:
        return rewriter.run(until), rewriter.dense
    except (NotFollowed, LookupError, TypeError, ValueError, ArithmeticError) as error:
        raise HeadDiffers(str(error) or "the classifier's head has no form at every position") from error


def slide_whole(head: Head, *, pad: bool = False, until: fx.Node | None = None) -> fx.Node:
    """Write a head as it is, run on every window of the map it reads; gives the node of N x K x h x w scores.

    For heads that ``recast`` has no form for; the arguments are those of ``recast``.
    """
    end, start, recorded = head.scores if until is None else head.inputs(until)[0], head.source, head.recorded
    positions, shape = head.walk.positions[start], shape_of(start)
    window = shape[cast("int", positions.rows)], shape[cast("int", positions.columns)]
    recorded.add_submodule(SLIDING, SlidingHead(head_alone(recorded, start, positions, end), window, pad=pad))
    last = next(node for node in recorded.graph.nodes if node.op == "output")
    with recorded.graph.inserting_before(last):
        order = positions.channels_first(len(shape))
        features = start if order == (0, 1, 2, 3) else recorded.graph.call_function(torch.permute, (start, order))
        made = recorded.graph.call_module(SLIDING, (features,))
    made.meta[PATH] = end.meta.get(PATH, "")
    return made


class _Rewriter:
    """Puts the dense form of a head behind its maps, into the same graph."""

    def __init__(self, head: Head, *, slide: bool, pad: bool, beside: bool) -> None:
        self.head, self.slide, self.pad, self.beside = head, slide, pad, beside
        self.graph = head.recorded.graph
        self.dense: dict[fx.Node, fx.Node] = {}

    def run(self, until: fx.Node | None) -> fx.Node:
        end = next(node for node in self.graph.nodes if node.op == "output")
        with self.graph.inserting_before(end):
            for node in self.head.maps:
                self.dense[node] = self._channels_first(node)
            for node in self.head.region:
                if node is until:
                    return self.dense[self._source(node)]
                self.dense[node] = self._write(node)
        return self.dense[self.head.scores]

    def _source(self, node: fx.Node) -> fx.Node:
        return self.head.inputs(node)[0]

    def _dense_source(self, node: fx.Node) -> fx.Node:
        return self.dense[self._source(node)]

    def _channels_first(self, node: fx.Node) -> fx.Node:
        order = self.head.walk.positions[node].channels_first(len(shape_of(node)))
        if order is None:
            raise self._refuse(node, "its maps cannot be brought to N x C x H x W")
        return node if order == (0, 1, 2, 3) else self._call(torch.permute, node, order, like=node)

    def _made(self, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> fx.Node:
        made = self.graph.create_node(node.op, node.target, args, kwargs)
        made.meta[PATH] = node.meta.get(PATH, "")
        return made

    def _call(self, function: Callable[..., Any], *args: Any, like: fx.Node, **kwargs: Any) -> fx.Node:
        node = self.graph.call_function(function, args, kwargs)
        node.meta[PATH] = like.meta.get(PATH, "")
        return node

    def _refuse(self, node: fx.Node, reason: str) -> NotFollowed:
        layer = self.head.layer(node)
        kind = type(layer).__name__ if layer is not None else spelling(node)
        return NotFollowed(f"{node.meta.get(PATH) or node.name} ({kind}): {reason}")

    def _write(self, node: fx.Node) -> fx.Node:
        """Write the dense form that the operation's row names."""
        row = self.head.row(node)
        if self.head.pools(node):
            return self._pool(node)
        forms: dict[str, Callable[[fx.Node], fx.Node]] = {
            "position": self._pointwise,
            "as is": self._as_is,
            "convolution": self._as_is,
            "reshape": self._reshape,
            "reduce": self._reduce,
            "last": self._channels_last,
            "along": self._along,
            "linear": self._linear,
            "product": self._product,
        }
        if row is None or row.head not in forms:
            raise self._refuse(node, "has no counterpart at every position")
        return forms[row.head](node)

    def _entries(self, node: fx.Node) -> int | None:
        """Return the axis of a vector's entries, beside pictures and positions; ``None`` where there is one entry."""
        shape, positions = shape_of(node), self.head.walk.positions[node]
        wide = [axis for axis in range(1, len(shape)) if shape[axis] > 1 and axis - len(shape) not in positions.axes]
        if len(wide) > 1:
            raise self._refuse(node, f"gives {shape[1:]}, which is no vector")
        return wide[0] if wide else None

    def _channels_last(self, node: fx.Node) -> fx.Node:
        """Apply an operation on the last axis to the channels."""
        source = self._source(node)
        if self._entries(source) not in (None, len(shape_of(source)) - 1):
            raise self._refuse(node, "acts on an axis of one unit")
        last = self._call(torch.movedim, self._dense_source(node), 1, -1, like=node)
        made = self._made(node, (last, *node.args[1:]), dict(node.kwargs))
        return self._call(torch.movedim, made, -1, 1, like=node)

    def _along(self, node: fx.Node) -> fx.Node:
        """Apply an operation along the vector's axis to the channels."""
        before, row, layer = shape_of(self._source(node)), self.head.row(node), self.head.layer(node)
        place = row.dim if row is not None else 1
        axis = Given.of(node, layer).argument(place, "dim", 1)
        if not isinstance(axis, int) or axis % len(before) != self._entries(self._source(node)):
            raise self._refuse(node, "does not act along the entries of the vector")
        if layer is not None:
            layer = copy.copy(layer)
            layer.dim = 1  # type: ignore[assignment]
            return self._module(node, layer)
        args, kwargs = [*node.args], {key: value for key, value in node.kwargs.items() if key not in ("dim", "axis")}
        if len(args) > place:
            args[place] = 1
        else:
            kwargs["dim"] = 1
        return self._made(node, (self._dense_source(node), *args[1:]), kwargs)

    def _product(self, node: fx.Node) -> fx.Node:
        """Multiply the channels by a matrix."""
        pair = node.args[:2] if len(node.args) > 1 else (node.args[0], next(iter(node.kwargs.values())))
        first, second = cast("tuple[fx.Node, fx.Node]", pair)
        if first not in self.dense or second in self.dense or self._entries(first) != len(shape_of(first)) - 1:
            raise self._refuse(node, "has no counterpart at every position")
        last = self._call(torch.movedim, self._dense_source(node), 1, -1, like=node)
        return self._call(torch.movedim, self._call(torch.matmul, last, second, like=node), -1, 1, like=node)

    def _reduce(self, node: fx.Node) -> fx.Node:
        made = self._over_channels(node, self._dense_source(node))
        row = self.head.row(node)
        if made is None and (row is None or not row.pools):
            raise self._refuse(node, "has no counterpart at every position")
        return made if made is not None else self._reshape(node)  # of a single unit

    def _over_channels(self, node: fx.Node, source: fx.Node) -> fx.Node | None:
        """Reduce the channels to one, where that is what a mean or sum does with the entries of a vector."""
        before, after = self._source(node), node
        to_one = self._entries(before) is not None and self._entries(after) is None
        if not to_one or len(shape_of(before)) != len(shape_of(after)):
            return None
        kwargs = {key: value for key, value in node.kwargs.items() if key in ("correction", "unbiased")}
        return self.graph.create_node(node.op, node.target, (source, 1), kwargs | {"keepdim": True})

    def _pool(self, node: fx.Node) -> fx.Node:
        """Pool every window of the example's size; leave out the average where every unit is scored by itself."""
        source, row = self._dense_source(node), self.head.row(node)
        kind, (high, wide) = row.pools if row is not None else "", self._window(node)
        if kind == "max":
            return self._call(sliding_max, source, (high, wide), like=node)
        mean = self._call(sliding_mean, source, (high, wide), like=node) if self.slide else source
        if kind == "mean":
            return mean
        units = high * wide if self.slide else self._area(source, high, wide)
        return self._call(torch.mul, mean, units, like=node)

    def _area(self, source: fx.Node, high: int, wide: int) -> fx.Node:
        """Count the units of a map, whatever its size; at the example's it is ``high`` x ``wide``."""
        sides = [self.graph.call_method("size", (source, axis)) for axis in (2, 3)]
        area = self.graph.call_function(operator.mul, tuple(sides))
        for node, value in zip((*sides, area), (high, wide, high * wide), strict=True):
            node.meta[VALUE] = value
        return area

    def _window(self, node: fx.Node) -> Pair:
        """Return the height and width of the map that a pool reads, also where it has been flattened."""
        maps = [node for node in self.head.maps if self.head.walk.positions[node].axes]
        sizes = {tuple(shape_of(each)[axis] for axis in self.head.walk.positions[each].axes) for each in maps}
        source = self._source(node)
        positions, shape = self.head.walk.positions[source], shape_of(source)
        if positions.is_map:
            return shape[cast("int", positions.rows)], shape[cast("int", positions.columns)]
        if len(sizes) != 1:
            raise self._refuse(node, "pools one of several maps")
        return cast("Pair", sizes.pop())

    def _as_is(self, node: fx.Node) -> fx.Node:
        """Apply the same operation to the dense vector; its other arguments stay."""
        layer = self.head.layer(node)
        if layer is not None:
            return self._module(node, _for_maps(layer) if isinstance(layer, nn.BatchNorm1d) else layer)
        return self._copied(node, lambda argument: self.dense.get(argument, argument))

    def _module(self, node: fx.Node, layer: nn.Module) -> fx.Node:
        name = self._free_name(node)
        self.head.recorded.add_submodule(name, layer)
        made = self.graph.call_module(name, (self._dense_source(node),))
        made.meta[PATH] = name
        return made

    def _free_name(self, node: fx.Node) -> str:
        """Return the layer's own name, unless something else uses the layer or its parameters."""
        name = str(node.target)
        others = (each for each in self.graph.nodes if each is not node and each.op in ("call_module", "get_attr"))
        taken = any(f"{each.target}.".startswith(f"{name}.") for each in others)
        return f"{name}_dense" if taken or self.beside else name

    def _linear(self, node: fx.Node) -> fx.Node:
        """Make a convolution of the window that a fully connected layer reads."""
        layer, order = self.head.layer(node), self.head.walk.positions[self._source(node)].flattened
        if layer is None and not order:
            return self._channels_last(node)
        sizes = dict(order)
        window = sizes.get("H", 1), sizes.get("W", 1)
        places = [1 + [axis for axis, _ in order].index(axis) for axis in "CHW"] if order else []
        lengths = tuple(length for _, length in order)
        pad = (window[0] // 2, window[1] // 2) if self.pad else (0, 0)
        if order and prod(lengths) != shape_of(self._source(node))[-1]:  # after a GLU, say
            raise self._refuse(node, "reads a part of a flattened map")
        if not isinstance(layer, nn.Linear):
            return self._functional_convolution(node, (-1, *lengths), (0, *places), pad)
        if places not in ([], [1, 2, 3]):
            weight = layer.weight.reshape(-1, *lengths).permute(0, *places).flatten(1)
            bias, layer = layer.bias, nn.Linear(weight.shape[1], weight.shape[0], device="meta")
            layer = filled(layer, weight, bias)
        conv = linear_to_conv(layer, window)
        conv.padding = pad
        return self._module(node, conv)

    def _functional_convolution(
        self, node: fx.Node, shape: tuple[int, ...], places: tuple[int, ...], pad: Pair
    ) -> fx.Node:
        given = Given.of(node, None)
        weight = self._call(torch.reshape, given.argument(1, "weight"), shape, like=node)
        kernel = self._call(torch.permute, weight, places, like=node)
        bias = given.argument(2, "bias")
        return self._call(functional.conv2d, self._dense_source(node), kernel, bias, 1, pad, like=node)

    def _reshape(self, node: fx.Node) -> fx.Node:
        """Leave out what only moves a vector's entries, or positions, to other axes."""
        source = self._source(node)
        before, after = (self._entries(each) for each in (source, node))
        lengths = [1 if axis is None else shape_of(each)[axis] for axis, each in ((before, source), (after, node))]
        if lengths[0] != lengths[1] and not self.head.walk.positions[node].flattened:
            raise self._refuse(node, f"rearranges the vector {shape_of(source)[1:]} to {shape_of(node)[1:]}")
        return self._dense_source(node)

    def _pointwise(self, node: fx.Node) -> fx.Node:
        layer = self.head.layer(node)
        if layer is not None:
            return self._module(node, layer)
        return self._copied(node, lambda argument: self._beside(node, argument))

    def _beside(self, node: fx.Node, argument: fx.Node) -> fx.Node:
        """Return an argument of what acts on each entry: numbers for the entries become those of a map's channels."""
        if argument in self.dense:
            return self.dense[argument]
        shape = shape_of(argument) if SHAPE in argument.meta else ()
        wide = [len(shape_of(node)) - len(shape) + axis for axis, length in enumerate(shape) if length > 1]
        if wide not in ([], [self._entries(node)]):
            raise self._refuse(node, f"has numbers of {shape} for its entries")
        return self._call(torch.reshape, argument, (-1, 1, 1), like=node) if shape else argument

    def _copied(self, node: fx.Node, given: Callable[[fx.Node], fx.Node]) -> fx.Node:
        made = self.graph.node_copy(node, given)
        made.meta = {PATH: node.meta.get(PATH, "")}  # its shape is another
        return made


def _for_maps(norm: nn.BatchNorm1d) -> nn.BatchNorm2d:
    """Make the same normalisation for maps."""
    with torch.device("meta"):
        made = nn.BatchNorm2d(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
    for name, tensor in {**norm._parameters, **norm._buffers}.items():
        setattr(made, name, tensor)
    return made.train(norm.training)
