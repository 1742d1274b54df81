"""A classifier's head in fully convolutional form: what decided for one picture decides at every position.

(Paper, section 3.1.) Fully connected layers become convolutions of the window they read, global pooling and
flattening their dense counterparts, and normalisation of a vector that of every position's channels.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.overrides import handle_torch_function, has_torch_function_unary

from fullyconv.surgery.layers import filled, linear_to_conv
from fullyconv.trace.nodes import PATH, SHAPE, spelling
from fullyconv.trace.operations import Operation, operation
from fullyconv.trace.positions import Given, NotFollowed, Positions, Walk, shape_of
from fullyconv.trace.walking import layer_of

Pair = tuple[int, int]


def sliding_mean(features: Tensor, window: Pair) -> Tensor:
    """Average over every window of N x C x H x W, or over the whole map where that is smaller."""
    if has_torch_function_unary(features):  # one step for whoever records it
        return handle_torch_function(sliding_mean, (features,), features, window)
    height, width = features.shape[-2:]
    return functional.avg_pool2d(features, (min(height, window[0]), min(width, window[1])), 1)


def sliding_max(features: Tensor, window: Pair) -> Tensor:
    """Take the maximum over every window of N x C x H x W, or over the whole map where that is smaller."""
    if has_torch_function_unary(features):
        return handle_torch_function(sliding_max, (features,), features, window)
    height, width = features.shape[-2:]
    return functional.max_pool2d(features, (min(height, window[0]), min(width, window[1])), 1)


def per_channel(values: Tensor) -> Tensor:
    """Return what belongs to the entries of a vector to the channels of a map: two more axes behind."""
    return values[..., None, None] if values.ndim else values


@dataclass
class Head:
    """The operations between a classifier's last maps and its scores."""

    recorded: fx.GraphModule
    walk: Walk
    scores: fx.Node
    region: list[fx.Node] = field(default_factory=list)  # in the order of execution
    maps: list[fx.Node] = field(default_factory=list)  # what they read

    @classmethod
    def of(cls, recorded: fx.GraphModule, walk: Walk) -> Head:
        """Find the head; raises ``NotFollowed`` where the network gives no scores of the picture."""
        head = cls(recorded, walk, _scores(recorded))
        if head.scores not in walk.positions:
            raise NotFollowed("the network's output does not depend on the picture")
        found, waiting = set(), [head.scores]
        while waiting:
            node = waiting.pop()
            if node in found:
                continue
            found.add(node)
            if not head._is_map(node):
                waiting.extend(head.inputs(node))
        head.region = [node for node in recorded.graph.nodes if node in found and not head._is_map(node)]
        head.maps = [node for node in recorded.graph.nodes if node in found and head._is_map(node)]
        return head

    def _is_map(self, node: fx.Node) -> bool:
        """Return whether a node is before the head; averaging to a single unit is the head's."""
        row = self.row(node)
        averages = row is not None and row.pools == "mean"
        return bool(self.walk.positions[node].axes) and not (averages and shape_of(node)[-2:] == (1, 1))

    def pools(self, node: fx.Node) -> bool:
        """Return whether a node makes a vector of a map."""
        row = self.row(node)
        is_pool = row is not None and bool(row.pools)
        return is_pool and any(self.walk.positions[source].axes for source in self.inputs(node))

    def row(self, node: fx.Node) -> Operation | None:
        """Return the row of a node in the table of operations."""
        return operation(node, self.layer(node))

    def inputs(self, node: fx.Node) -> list[fx.Node]:
        """Return the arguments that depend on the picture."""
        return [source for source in node.all_input_nodes if source in self.walk.positions]

    def layer(self, node: fx.Node) -> nn.Module | None:
        """Return the module that a node calls."""
        return layer_of(self.recorded, node)

    @property
    def is_affine(self) -> bool:
        """Return whether nothing but averages and affine maps make the scores: then the mean of scores is the score."""
        return all(self._is_affine(node) for node in self.region)

    def _is_affine(self, node: fx.Node) -> bool:
        row, layer = self.row(node), self.layer(node)
        if row is None or (
            layer is not None and not type(layer).__module__.startswith("torch.nn") and row.role != "drop"
        ):
            return False  # a normalisation of one's own may have an activation in it
        if row.affine in ("one", "first"):
            first = node.args[0] in self.walk.positions
            return len(self.inputs(node)) == 1 and (first or row.affine == "one")
        return row.affine == "always"

    @property
    def last_linear(self) -> fx.Node | None:
        """The layer that makes the scores of the classes."""
        return next((node for node in reversed(self.region) if _is_linear(self.row(node))), None)

    @property
    def windows(self) -> list[fx.Node]:
        """The fully connected layers that read a flattened map of more than one unit."""
        return [
            node
            for node in self.region
            for source in node.all_input_nodes
            if dict(flattened := self.walk.positions.get(source, Positions()).flattened)
            and _is_linear(self.row(node))
            and dict(flattened)["H"] * dict(flattened)["W"] > 1
        ]

    def make_dense(self, *, slide: bool, pad: bool = False, until: fx.Node | None = None) -> fx.Node:
        """Write the head for every position; gives the node of the scores, N x K x h x w.

        With ``slide`` pooling becomes a window that moves by one unit, else it is left out and every unit is
        scored by itself. With ``pad`` windows of fully connected layers are padded by half. ``until`` stops
        at the input of that operation.
        """
        return _Rewriter(self, slide=slide, pad=pad).run(until)


def _scores(recorded: fx.GraphModule) -> fx.Node:
    given = next(node for node in recorded.graph.nodes if node.op == "output").args[0]
    if isinstance(given, dict):
        given = given.get("logits", given.get("out"))
    if isinstance(given, tuple | list):
        given = given[0] if given else None
    if not isinstance(given, fx.Node):
        raise NotFollowed("the network gives no tensor of scores")
    return given


def _is_linear(row: Operation | None) -> bool:
    return row is not None and row.head == "linear"


class _Rewriter:
    """Puts the dense form of a head behind its maps, into the same graph."""

    def __init__(self, head: Head, *, slide: bool, pad: bool) -> None:
        self.head, self.slide, self.pad = head, slide, pad
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

    def _channels_last(self, node: fx.Node) -> fx.Node:
        """Apply an operation on the last axis to the channels."""
        if shape_of(self._source(node))[-1] == 1 < self._length(node):
            raise self._refuse(node, "acts on an axis of one unit")
        last = self._call(torch.movedim, self._dense_source(node), 1, -1, like=node)
        made = self._made(node, (last, *node.args[1:]), dict(node.kwargs))
        return self._call(torch.movedim, made, -1, 1, like=node)

    def _along(self, node: fx.Node) -> fx.Node:
        """Apply an operation along the vector's axis to the channels."""
        before, row, layer = shape_of(self._source(node)), self.head.row(node), self.head.layer(node)
        place = row.dim if row is not None else 1
        axis = Given.of(node, layer).argument(place, "dim", 1)
        if not isinstance(axis, int) or before[axis] != self._length(node):
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

    def _length(self, node: fx.Node) -> int:
        """Return how many entries the vector has that an operation reads."""
        return max(shape_of(self._source(node))[1:])

    def _product(self, node: fx.Node) -> fx.Node:
        """Multiply the channels by a matrix."""
        first, second = node.args[:2] if len(node.args) > 1 else (node.args[0], next(iter(node.kwargs.values())))
        if first not in self.dense or second in self.dense or shape_of(cast("fx.Node", first))[-1] == 1:
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
        before, after = shape_of(self._source(node)), shape_of(node)
        to_one = len(before) == len(after) and max(before[1:]) > 1 and max(after[1:]) == 1
        if not to_one:
            return None
        kwargs = {key: value for key, value in node.kwargs.items() if key in ("correction", "unbiased")}
        return self.graph.create_node(node.op, node.target, (source, 1), kwargs | {"keepdim": True})

    def _pool(self, node: fx.Node) -> fx.Node:
        window, source, row = self._map_shape(node), self._dense_source(node), self.head.row(node)
        is_max = row is not None and row.pools == "max"
        if not is_max and not self.slide:
            return source
        return self._call(sliding_max if is_max else sliding_mean, source, window, like=node)

    def _map_shape(self, node: fx.Node) -> Pair:
        source = self._source(node)
        positions, shape = self.head.walk.positions[source], source.meta[SHAPE]
        return shape[cast("int", positions.rows)], shape[cast("int", positions.columns)]

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
        return f"{name}_dense" if taken else name

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
        """Leave out what only moves a vector's single unit around."""
        before, after = self._source(node).meta[SHAPE], node.meta[SHAPE]
        kept = [[length for length in shape[1:] if length > 1] for shape in (before, after)]
        flattens = bool(self.head.walk.positions[node].flattened)
        if kept[0] != kept[1] and not flattens:
            raise self._refuse(node, f"rearranges the vector {before[1:]} to {after[1:]}")
        return self._dense_source(node)

    def _pointwise(self, node: fx.Node) -> fx.Node:
        layer, is_last = self.head.layer(node), shape_of(node)[-1] > 1  # where the vector's entries are
        if layer is not None:
            return self._module(node, layer)

        def given(argument: fx.Node) -> fx.Node:
            if argument in self.dense:
                return self.dense[argument]
            if is_last and SHAPE in argument.meta:  # what multiplies a vector's entries
                return self._call(per_channel, argument, like=node)
            return argument

        return self._copied(node, given)

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
