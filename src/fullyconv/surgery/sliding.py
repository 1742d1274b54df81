"""What is run on every window of a map: pooling, and heads with no cheaper form at every position."""

from __future__ import annotations

import operator

import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.overrides import handle_torch_function, has_torch_function_unary
from torch.utils.flop_counter import FlopCounterMode

from fullyconv.machine import evaluating
from fullyconv.trace.nodes import SHAPE, VALUE, spelling
from fullyconv.trace.positions import NotFollowed, Positions, shape_of
from fullyconv.trace.windows import SlidingWindow

Pair = tuple[int, int]

MOST_NUMBERS = 1 << 24  # of windows that are laid out at a time: 64 MB in single precision


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


class SlidingHead(SlidingWindow):
    """The head of a classifier at every position: N x C x H x W in, N x K x (H - h + 1) x (W - w + 1) out.

    ``head`` takes N x C x h x w windows, ``window`` = (h, w), and gives N x K. With ``pad`` the map is padded by half
    a window. Windows overlap, so this takes h * w times the memory of the map, a row of windows or more at a time.
    """

    def __init__(self, head: nn.Module, window: tuple[int, int], *, pad: bool) -> None:
        super().__init__()
        self.head, self.window, self.pad = head, window, (window[0] // 2, window[1] // 2) if pad else (0, 0)

    def forward(self, features: Tensor) -> Tensor:
        """Run the head on every window."""
        (high, wide), (down, across) = self.window, self.pad
        padded = functional.pad(features, (across, across, down, down)) if any(self.pad) else features
        windows = padded.unfold(2, high, 1).unfold(3, wide, 1).permute(2, 0, 3, 1, 4, 5)  # h x N x w x C x window
        rows = max(1, MOST_NUMBERS // max(1, windows[0].numel()))
        scores = [self._rows(windows[start : start + rows]) for start in range(0, len(windows), rows)]
        return torch.cat(scores).permute(1, 3, 0, 2)

    def multiply_adds(self, channels: int) -> int:
        """Return the multiply-adds of the head on one window: half the operations that PyTorch counts."""
        like = next(self.head.parameters(), torch.empty(0))
        counter = FlopCounterMode(display=False)
        with evaluating(self), counter:
            self.head.forward(torch.zeros(1, channels, *self.window, dtype=like.dtype, device=like.device))
        return int(counter.get_total_flops()) // 2

    def _rows(self, windows: Tensor) -> Tensor:
        """Score some rows of windows, h x N x w x K."""
        # A GraphModule that is called prints to stderr where an error arose, and takes that from the error.
        scores: Tensor = self.head.forward(windows.flatten(0, 2))
        return scores.reshape(*windows.shape[:3], -1)


def head_alone(recorded: fx.GraphModule, start: fx.Node, positions: Positions, end: fx.Node) -> fx.GraphModule:
    """Cut a head out of a recorded network: a graph of its own that takes maps of the example's size.

    Lengths keep the values they have at the example's size, but for the number of pictures. Raises ``NotFollowed``
    where the head reads more of the picture than the map ``start``.
    """
    order = positions.channels_first(len(shape_of(start)))
    if order is None:
        raise NotFollowed("the head reads a map that cannot be brought to N x C x H x W")
    graph = fx.Graph()
    given = graph.placeholder("features")
    back = tuple(order.index(axis) for axis in range(4))
    own = {start: given if back == (0, 1, 2, 3) else graph.call_function(torch.permute, (given, back))}
    for node in _behind(end, start):
        if node.op == "placeholder":
            raise NotFollowed("the head reads more of the picture than one map")
        if VALUE in node.meta and not _counts_pictures(node):
            continue
        if spelling(node) == "size":
            own[node] = graph.call_method("size", (given, 0))
            continue
        own[node] = graph.node_copy(node, lambda each: own[each] if each in own else each.meta[VALUE])
    graph.output(own[end])
    return fx.GraphModule(recorded, graph)


def _behind(end: fx.Node, start: fx.Node) -> list[fx.Node]:
    """List what ``end`` is computed from, in the order of execution, but for what is before ``start``."""
    found, waiting = {start}, [end]
    while waiting:
        node = waiting.pop()
        if node in found:
            continue
        found.add(node)
        if spelling(node) not in ("size", "numel") or SHAPE in node.meta:
            waiting.extend(node.all_input_nodes)
    return [node for node in end.graph.nodes if node in found and node is not start]


def _counts_pictures(node: fx.Node) -> bool:
    """Return whether a length is, or is computed from, the number of pictures."""
    if spelling(node) == "size":
        return node.args[1:] == (0,)
    if node.op == "call_function" and getattr(operator, spelling(node), None) is not None:
        return any(_counts_pictures(each) for each in node.all_input_nodes)
    return False
