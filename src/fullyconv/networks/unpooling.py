"""Trunks that remember where their pools found each maximum, and what puts units back there (Zeiler et al. 2011)."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from fractions import Fraction
from typing import cast

import torch
from torch import Tensor, fx, nn

from fullyconv.surgery.head import ways_to
from fullyconv.surgery.trunk import Trunk
from fullyconv.trace import Walk, complete, input_channels, record, walk
from fullyconv.trace.frames import Frame, convolution, max_pool
from fullyconv.trace.nodes import KIND, PATH, SHAPE
from fullyconv.trace.operations import operation
from fullyconv.trace.positions import Call, Given
from fullyconv.trace.recording import usual_size
from fullyconv.trace.walking import call_of, layer_of


class Unpool(nn.MaxUnpool2d):
    """Puts each unit where a pool of separate windows found the largest; zeros elsewhere.

    The same numbers as PyTorch's own layer, by an operation that can be exported.

    >>> import torch
    >>> values, places = nn.MaxPool2d(2, return_indices=True)(torch.tensor([[[[1.0, 5.0], [2.0, 3.0]]]]))
    >>> Unpool(2)(values, places).tolist()
    [[[[0.0, 5.0], [0.0, 0.0]]]]
    """

    def forward(self, input: Tensor, indices: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Return N x C x s h x s w for N x C x h x w values and places."""
        high, wide = (int(step) for step in cast("tuple[int, int]", self.stride))
        count, channels, rows, columns = input.shape
        flat = input.new_zeros(count, channels, rows * high * columns * wide)
        filled = flat.scatter(2, indices.flatten(2), input.flatten(2))
        return filled.view(count, channels, rows * high, columns * wide)


@dataclass(frozen=True)
class Convolved:
    """A convolution between two pools: its channels in and out, and its window."""

    inputs: int
    outputs: int
    frame: Frame

    @property
    def mirrored_pad(self) -> tuple[int, int]:
        """The padding of the convolution that gives back as many rows and columns as this one took."""
        frame = self.frame
        rows, columns = (frame.dilation[axis] * (frame.kernel[axis] - 1) - frame.before[axis] for axis in (0, 1))
        return rows, columns


class Pooled(Trunk):
    """A trunk with the places of its pools' maxima: N x K x H x W in, its coarsest map and those places out.

    Its layers are shared with the trunk. ``pools`` are the sides of the pools' windows, fine to coarse, ``between`` the
    convolutions before each pool, and those behind the last.

    Args:
        trunk: Gives feature maps fine to coarse; everything that makes maps smaller has to be a max pool of windows
            that meet without overlap.

    Raises:
        ValueError: Naming the layer that does it otherwise.
    """

    pools: tuple[tuple[int, int], ...]

    def __init__(self, trunk: Trunk) -> None:
        super().__init__()
        recorded = record(trunk)
        found = walk(recorded)
        end = next(node for node in recorded.graph.nodes if node.op == "output")
        coarsest = end.args[0][-1]
        calls = [call_of(recorded, node, found) for node in ways_to(coarsest, found)[0] if node.op != "placeholder"]
        reducing = [call for call in calls if call.sources and _finer(call) is not None]
        self.pools = tuple(_pool(call) for call in reducing)
        if not reducing:
            raise ValueError("this decoder undoes max pools, and the trunk has none")
        self.between = _between(recorded, found, calls, reducing)
        channels = coarsest.meta[SHAPE][1]
        made = {call.node: _remember(recorded, call.node) for call in reducing}
        last = made[coarsest][0] if coarsest in made else coarsest
        end.args = ((last, *(places for _, places in made.values())),)
        recorded.graph.eliminate_dead_code()
        recorded.delete_all_unused_submodules()
        recorded.recompile()
        complete(recorded)
        self.layers, self.channels = recorded, (channels,)
        self.in_channels, self.example = input_channels(trunk), (input_channels(trunk), *usual_size(trunk))
        self.layers.train(trunk.training)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return the coarsest map and the places of each pool, fine to coarse."""
        return cast("tuple[Tensor, ...]", self.layers(image))


def _finer(call: Call) -> Fraction | None:
    """Return the stride before an operation that makes a map smaller; else ``None``."""
    before, after = call.source.stride[0], call.walk.positions[call.node].stride[0]
    return before if call.walk.positions[call.node].axes and after > before else None


def _pool(call: Call) -> tuple[int, int]:
    """Return the window of a pool that can be undone; raises ``ValueError`` for what else makes a map smaller."""
    row = operation(call.node, call.layer)
    frame = row.frame(call) if row is not None and row.frame is max_pool else None
    reason = "this decoder undoes max pools, and here something else makes the map smaller"
    if frame is not None:
        reason = "this decoder undoes max pools whose windows meet without overlap, and these do not"
    if frame is None or frame.kernel != frame.stride or any((*frame.before, *frame.after)) or frame.dilation != (1, 1):
        raise call.refuse(reason)
    return frame.kernel


def _between(
    recorded: fx.GraphModule, found: Walk, calls: list[Call], reducing: list[Call]
) -> tuple[tuple[Convolved, ...], ...]:
    """Sort the convolutions by the pools that they come before."""
    strides = [cast("Fraction", _finer(call)) for call in reducing]
    strides.append(found.positions[reducing[-1].node].stride[0])
    made: dict[Fraction, list[Convolved]] = {stride: [] for stride in strides}
    for call in calls:
        row = operation(call.node, call.layer)
        if row is not None and row.frame is convolution and call.source.axes:
            made[call.source.stride[0]].append(Convolved(call.before[1], call.shape[1], convolution(call)))
    return tuple(tuple(made[stride]) for stride in strides)


def _remember(recorded: fx.GraphModule, node: fx.Node) -> tuple[fx.Node, fx.Node]:
    """Let a max pool give the places of its maxima, too; returns what now gives its map and its places."""
    frame, graph, source = max_pool(Given.of(node, layer_of(recorded, node))), recorded.graph, node.all_input_nodes[0]
    name, shape, kind = f"{node.name}_places", node.meta[SHAPE], node.meta[KIND]
    recorded.add_submodule(
        name, nn.MaxPool2d(frame.kernel, frame.stride, ceil_mode=frame.ceil_mode, return_indices=True)
    )
    with graph.inserting_before(node):
        pool = graph.call_module(name, (source,))
        pool.meta.update({PATH: node.meta.get(PATH, ""), SHAPE: [shape, shape], KIND: [kind, torch.int64]})
        maxima, places = (graph.call_function(operator.getitem, (pool, index)) for index in (0, 1))
    for made, each in ((maxima, kind), (places, torch.int64)):
        made.meta.update({PATH: pool.meta[PATH], SHAPE: shape, KIND: each})
    node.replace_all_uses_with(maxima)
    graph.erase_node(node)
    return maxima, places
