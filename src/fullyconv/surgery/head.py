"""A classifier's head in fully convolutional form: what decided for one picture decides at every position.

(Paper, section 3.1.) Fully connected layers become convolutions of the window they read, global pooling and
flattening their dense counterparts, and normalisation of a vector that of every position's channels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.overrides import handle_torch_function, has_torch_function_unary

from fullyconv.surgery.layers import filled, linear_to_conv
from fullyconv.trace.nodes import PATH, SHAPE, operation
from fullyconv.trace.positions import NotFollowed, Positions, Walk, shape_of
from fullyconv.trace.walk import is_pointwise, layer_of

Pair = tuple[int, int]

RESHAPES = ("flatten", "view", "reshape", "squeeze", "unsqueeze", "permute", "transpose", "getitem", "contiguous", "to")
AVERAGES = ("mean", "adaptive_avg_pool2d", "avg_pool2d")
REDUCTIONS = ("mean", "sum", "amax", "amin", "norm", "var", "std")
POOLS = (*AVERAGES, "amax", "adaptive_max_pool2d")
AFFINE = ("linear", "conv2d", "batch_norm", "add", "sub", "dropout", "clone", "detach", "float", "type_as")
POOL_LAYERS = (nn.AdaptiveAvgPool2d, nn.AvgPool2d, nn.AdaptiveMaxPool2d)
AFFINE_LAYERS = (nn.Linear, nn.Conv2d, nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd, nn.Identity)


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
        averages = operation(node) in AVERAGES or isinstance(self.layer(node), nn.AdaptiveAvgPool2d | nn.AvgPool2d)
        return bool(self.walk.positions[node].axes) and not (averages and shape_of(node)[-2:] == (1, 1))

    def pools(self, node: fx.Node) -> bool:
        """Return whether a node makes a vector of a map."""
        is_pool = operation(node) in POOLS or isinstance(self.layer(node), POOL_LAYERS)
        return is_pool and any(self.walk.positions[source].axes for source in self.inputs(node))

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
        layer, name = self.layer(node), operation(node)
        if isinstance(layer, nn.AdaptiveMaxPool2d) or name in ("amax", "adaptive_max_pool2d"):
            return False
        if layer is not None:
            return (
                isinstance(layer, (*AFFINE_LAYERS, *POOL_LAYERS, nn.Flatten))
                and type(layer).__name__ != "BatchNormAct2d"
            )
        if name in ("mul", "div", "truediv", "true_divide"):
            return sum(source in self.walk.positions for source in node.all_input_nodes) == 1
        return name in (*RESHAPES, *POOLS, *AFFINE, "cat")

    @property
    def last_linear(self) -> fx.Node | None:
        """The layer that makes the scores of the classes."""
        named = (node for node in reversed(self.region) if operation(node) == "linear" or _is_linear(self.layer(node)))
        return next(named, None)

    @property
    def windows(self) -> list[fx.Node]:
        """The fully connected layers that read a flattened map of more than one unit."""
        return [
            node
            for node in self.region
            for source in node.all_input_nodes
            if dict(flattened := self.walk.positions.get(source, Positions()).flattened)
            and _is_linear(self.layer(node))
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


def _is_linear(layer: nn.Module | None) -> bool:
    return isinstance(layer, nn.Linear)


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

    def _channels_first(self, node: fx.Node) -> fx.Node:
        order = self.head.walk.positions[node].channels_first(len(shape_of(node)))
        if order is None:
            raise self._refuse(node, "its maps cannot be brought to N x C x H x W")
        return node if order == (0, 1, 2, 3) else self._call(torch.permute, node, order, like=node)

    def _call(self, function: Callable[..., Any], *args: Any, like: fx.Node, **kwargs: Any) -> fx.Node:
        node = self.graph.call_function(function, args, kwargs)
        node.meta[PATH] = like.meta.get(PATH, "")
        return node

    def _refuse(self, node: fx.Node, reason: str) -> NotFollowed:
        return NotFollowed(f"{node.meta.get(PATH) or node.name} ({operation(node)}): {reason}")

    def _write(self, node: fx.Node) -> fx.Node:
        layer, name = self.head.layer(node), operation(node)
        source = self.dense[self._source(node)]
        if self.head.pools(node):
            return self._pool(node, source)
        if name in POOLS or isinstance(layer, POOL_LAYERS):  # of what is a single unit already
            return self._over_channels(node, source) or self._reshape(node, source)
        if layer is not None:
            return self._layer(node, layer, source)
        if name in RESHAPES:
            return self._reshape(node, source)
        if name in ("linear", "layer_norm", "rms_norm"):
            return self._channels_last(node, source)
        if name in ("softmax", "log_softmax"):
            return self._call(cast("Any", node.target), source, 1, like=node)
        return self._over_channels(node, source) or self._pointwise(node)

    def _channels_last(self, node: fx.Node, source: fx.Node) -> fx.Node:
        """Apply a function or layer of the last axis to the channels."""
        if self.head.walk.positions[self._source(node)].flattened:
            raise self._refuse(node, "reads a flattened map, which only an nn.Linear can do at every position")
        last = self._call(torch.movedim, source, 1, -1, like=node)
        made = self.graph.create_node(node.op, node.target, (last, *node.args[1:]), node.kwargs)
        made.meta[PATH] = node.meta.get(PATH, "")
        return self._call(torch.movedim, made, -1, 1, like=node)

    def _over_channels(self, node: fx.Node, source: fx.Node) -> fx.Node | None:
        """Reduce the channels to one, where that is what a mean or sum does with the entries of a vector."""
        before, after = shape_of(self._source(node)), shape_of(node)
        to_one = len(before) == len(after) and max(before[1:]) > 1 and max(after[1:]) == 1
        if operation(node) not in REDUCTIONS or not to_one:
            return None
        kwargs = {key: value for key, value in node.kwargs.items() if key in ("correction", "unbiased")}
        return self.graph.create_node(node.op, node.target, (source, 1), kwargs | {"keepdim": True})

    def _pool(self, node: fx.Node, source: fx.Node) -> fx.Node:
        window = tuple(self._map_shape(node))
        is_max = "max" in operation(node) or isinstance(self.head.layer(node), nn.AdaptiveMaxPool2d)
        if not is_max and not self.slide:
            return source
        return self._call(sliding_max if is_max else sliding_mean, source, window, like=node)

    def _map_shape(self, node: fx.Node) -> Pair:
        source = self._source(node)
        positions, shape = self.head.walk.positions[source], source.meta[SHAPE]
        return shape[cast("int", positions.rows)], shape[cast("int", positions.columns)]

    def _layer(self, node: fx.Node, layer: nn.Module, source: fx.Node) -> fx.Node:
        if isinstance(layer, nn.Flatten):
            return self._reshape(node, source)
        if isinstance(layer, nn.LayerNorm):
            return self._channels_last(node, source)
        if isinstance(layer, nn.Linear):
            layer = self._convolution(node, layer)
        elif isinstance(layer, nn.BatchNorm1d):
            layer = _for_maps(layer)
        elif isinstance(layer, nn.Softmax):
            layer = nn.Softmax(1)
        name = self._free_name(node)
        self.head.recorded.add_submodule(name, layer)
        made = self.graph.call_module(name, (source,))
        made.meta[PATH] = name
        return made

    def _free_name(self, node: fx.Node) -> str:
        """Return the layer's own name, unless something else uses the layer or its parameters."""
        name = str(node.target)
        others = (each for each in self.graph.nodes if each is not node and each.op in ("call_module", "get_attr"))
        taken = any(f"{each.target}.".startswith(f"{name}.") for each in others)
        return f"{name}_dense" if taken else name

    def _convolution(self, node: fx.Node, linear: nn.Linear) -> nn.Conv2d:
        order = self.head.walk.positions[self._source(node)].flattened
        sizes = dict(order)
        window = sizes.get("H", 1), sizes.get("W", 1)
        if [axis for axis, _ in order] not in ([], ["C", "H", "W"]):
            weight = linear.weight.reshape(-1, *(length for _, length in order))
            places = [0, *(1 + [axis for axis, _ in order].index(axis) for axis in "CHW")]
            linear = filled(nn.Linear(1, 1, device="meta"), weight.permute(places).flatten(1), linear.bias)
            linear.in_features, linear.out_features = linear.weight.shape[1], linear.weight.shape[0]
        conv = linear_to_conv(linear, window)
        if self.pad:
            conv.padding = window[0] // 2, window[1] // 2
        return conv

    def _reshape(self, node: fx.Node, source: fx.Node) -> fx.Node:
        """Leave out what only moves a vector's single unit around."""
        before, after = self._source(node).meta[SHAPE], node.meta[SHAPE]
        kept = [[length for length in shape[1:] if length > 1] for shape in (before, after)]
        flattens = bool(self.head.walk.positions[node].flattened)
        if kept[0] != kept[1] and not flattens:
            raise self._refuse(node, f"rearranges the vector {before[1:]} to {after[1:]}")
        return source

    def _pointwise(self, node: fx.Node) -> fx.Node:
        is_last = shape_of(node)[-1] > 1  # where the vector's entries are

        def given(argument: fx.Node) -> fx.Node:
            if argument in self.dense:
                return self.dense[argument]
            if is_last and SHAPE in argument.meta:  # what multiplies a vector's entries
                return self._call(per_channel, argument, like=node)
            return argument

        if not is_pointwise(node, None) and operation(node) != "conv2d":
            raise self._refuse(node, "has no counterpart at every position")
        made = self.graph.node_copy(node, given)
        made.meta[PATH] = node.meta.get(PATH, "")
        return made


def _for_maps(norm: nn.BatchNorm1d) -> nn.BatchNorm2d:
    """Make the same normalisation for maps."""
    with torch.device("meta"):
        made = nn.BatchNorm2d(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
    for name, tensor in {**norm._parameters, **norm._buffers}.items():
        setattr(made, name, tensor)
    return made.train(norm.training)
