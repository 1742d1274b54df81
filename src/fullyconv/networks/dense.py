"""Scores at every pixel from a strided network, without upsampling: shift-and-stitch and à trous (paper, section 3.2).

A network of output stride f answers on every f-th pixel. Shift-and-stitch runs it f x f times, on
inputs shifted by 0..f-1 pixels, and interlaces the answers. À trous computes the same numbers in one
pass: every stride becomes 1, and the filters of later layers are spread out ("rarefied") by the
product of the strides removed before them.

Both pad first and shift then: each strided layer pads its map as always and starts at the shift's
share for that layer. Without inner padding this is the network on cropped images; with it, shifting
the image alone would move zeros into the picture, and the two would differ at the borders.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from fullyconv.networks.fcn import FCN
from fullyconv.trace import record
from fullyconv.trace.operations import operation

Pair = tuple[int, int]


class ScoreMap(nn.Module):
    """The coarsest scores of an FCN, before any upsampling or fusion: N x 3 x H x W -> N x C x h x w."""

    def __init__(self, network: FCN) -> None:
        super().__init__()
        self.trunk, self.head = network.trunk, network.heads[0]

    def forward(self, image: Tensor) -> Tensor:
        """Score the units of the trunk's last map."""
        return cast("Tensor", self.head(self.trunk(image)[-1]))


@dataclass(frozen=True)
class _Window:
    """A convolution or max pool on (rows, columns); ``before`` is the product of the strides before it."""

    layer: nn.Conv2d | nn.MaxPool2d
    before: Pair
    kernel: Pair
    stride: Pair
    pad: Pair
    dilation: Pair

    @property
    def ceil_mode(self) -> bool:
        return bool(getattr(self.layer, "ceil_mode", False))

    @property
    def filler(self) -> float:
        """What its padding consists of."""
        return 0.0 if isinstance(self.layer, nn.Conv2d) else -torch.inf

    @property
    def overhang(self) -> Pair:
        """By how many units windows of the stride-free layer may stick out at the end: ceil mode's partial windows."""
        extra = (
            before * (stride - 1) * self.ceil_mode for before, stride in zip(self.before, self.stride, strict=True)
        )
        return cast("Pair", tuple(extra))

    def dense_size(self, units: Pair) -> Pair:
        """Count the outputs of the stride-free layer."""
        axes = zip(units, self.before, self.kernel, self.pad, self.dilation, self.overhang, strict=True)
        return cast(
            "Pair", tuple(n + before * (2 * pad - dil * (k - 1)) + over for n, before, k, pad, dil, over in axes)
        )

    def rarefied(self) -> nn.Module:
        """Make the layer with stride 1, its taps and its padding spread out by the strides before it."""
        dilation = _times(self.dilation, self.before)
        pad = _times(self.pad, self.before)
        if isinstance(self.layer, nn.MaxPool2d):
            (high, wide), (down, across) = pad, self.overhang
            # A pool of PyTorch's own pads by at most half its kernel.
            border = nn.ConstantPad2d((wide, wide + across, high, high + down), self.filler)
            pool = nn.MaxPool2d(self.kernel, 1, dilation=dilation)
            return nn.Sequential(border, pool) if any(border.padding) else pool
        conv = copy.copy(self.layer)  # the same parameters
        conv.stride, conv.padding, conv.dilation = (1, 1), pad, dilation
        return conv

    def shifted(self, features: Tensor, phase: Pair) -> Tensor:
        """Apply the layer as it is, but starting ``phase`` (in pixels of the image) later."""
        top, left = (
            shift // before % stride for shift, before, stride in zip(phase, self.before, self.stride, strict=True)
        )
        (high, wide), layer = self.pad, self.layer
        padded = functional.pad(features, (wide, wide, high, high), value=self.filler)[..., top:, left:]
        if isinstance(layer, nn.Conv2d):
            return functional.conv2d(padded, layer.weight, layer.bias, self.stride, 0, self.dilation, layer.groups)
        return functional.max_pool2d(padded, self.kernel, self.stride, 0, self.dilation, ceil_mode=self.ceil_mode)


@dataclass(frozen=True)
class _Plan:
    """A network's graph with its strided and windowed layers measured; module names are node names."""

    module: fx.GraphModule
    windows: dict[str, _Window]
    stride: Pair

    def dense_size(self, image: Pair) -> Pair:
        """Count the rows and columns of the stride-free network's output."""
        sizes: dict[fx.Node, Pair] = {}
        size = image
        for node in self.module.graph.nodes:
            size = sizes[node.all_input_nodes[0]] if node.all_input_nodes else image
            if node.name in self.windows:
                size = self.windows[node.name].dense_size(size)
            sizes[node] = size
        return size


class _Shifted(fx.Interpreter):
    """Runs a plan's network as on an image shifted by ``phase`` pixels."""

    def __init__(self, plan: _Plan, phase: Pair) -> None:
        super().__init__(plan.module)
        self._plan, self._phase = plan, phase

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        window = self._plan.windows.get(target)
        if window is None:
            return super().call_module(target, args, kwargs)
        return window.shifted(args[0], self._phase)


def shift_and_stitch(model: nn.Module, image: Tensor) -> Tensor:
    """Run a strided network on every shift of N x C x H x W and interlace its answers, N x K x h x w.

    Output (y, x) of shift (dy, dx) lands at (dy + f*y, dx + f*x), where f is the network's stride: a
    map of stride 1 whose every f-th unit is the network's own answer. ``model`` gives one map made by
    convolutions, max pools and layers that act on each unit alone; an ``FCN`` stands for its coarsest
    score map. Dropout is off and no gradient is recorded. f x f passes, so 1024 for VGG. Raises
    ``ValueError`` for other layers and for images that are too small for one answer.
    """
    plan = _plan(model)
    plan.module.eval()  # copies: the model itself keeps its mode
    height, width = plan.dense_size(cast("Pair", tuple(image.shape[-2:])))
    if min(height, width) < 1:
        raise ValueError(f"an image of {image.shape[-2]} x {image.shape[-1]} is too small for this network: enlarge it")
    rows, columns = plan.stride
    stitched: Tensor | None = None
    with torch.no_grad():
        for dy in range(min(rows, height)):
            for dx in range(min(columns, width)):
                scores: Tensor = _Shifted(plan, (dy, dx)).run(image)
                if stitched is None:
                    stitched = scores.new_empty(*scores.shape[:2], height, width)
                stitched[..., dy::rows, dx::columns] = scores
    return cast("Tensor", stitched)


def to_atrous(model: nn.Module) -> nn.Module:
    """Remove a network's strides and rarefy its later filters: the result of ``shift_and_stitch`` in one pass.

    Convolutions and pools get stride 1, and dilation and padding times the strides removed before
    them; where a pool kept partial windows at the end (ceil mode), so does the new one. Takes
    what ``shift_and_stitch`` takes and raises what it raises. The new network shares its parameters with
    ``model``: training one trains the other.

    >>> net = nn.Sequential(nn.Conv2d(1, 1, 3, stride=2, padding=1), nn.MaxPool2d(2, 2), nn.Conv2d(1, 1, 3))
    >>> [layer.dilation for layer in to_atrous(net).children()]
    [(1, 1), (2, 2), (4, 4)]
    """
    plan = _plan(model)
    for name, window in plan.windows.items():
        plan.module.add_module(name, window.rarefied().train(window.layer.training))
    plan.module.training = model.training
    return plan.module


def _plan(model: nn.Module) -> _Plan:
    if isinstance(model, FCN):
        model = ScoreMap(model)
    elif isinstance(model, (nn.Conv2d, nn.MaxPool2d)):
        model = nn.Sequential(model)
    recorded = record(model)
    graph, layers, root = recorded.graph, dict(recorded.named_modules()), nn.Module()
    windows: dict[str, _Window] = {}
    strides: dict[fx.Node, Pair] = {}
    for node in graph.nodes:
        _check_operation(node)
        stride = _common_stride([strides[source] for source in node.all_input_nodes], node.name)
        if node.op == "call_module":
            layer = copy.copy(layers[str(node.target)])
            node.target = node.name  # a layer used twice may need two dilations
            root.add_module(node.name, layer)
            if isinstance(layer, nn.Conv2d | nn.MaxPool2d):
                windows[node.name] = _window(layer, stride, node.name)
                stride = _times(stride, windows[node.name].stride)
            elif not _is_pointwise(node, layer):
                raise ValueError(f"{node.name} ({type(layer).__name__}): no dense form of this layer is known")
        strides[node] = stride
    return _Plan(fx.GraphModule(root, graph), windows, stride)


def _common_stride(strides: list[Pair], where: str) -> Pair:
    if len(set(strides)) > 1:
        raise ValueError(f"{where} joins maps of different strides: {', '.join(map(str, strides))}")
    return strides[0] if strides else (1, 1)


def _check_operation(node: fx.Node) -> None:
    if node.op == "output" and not isinstance(node.args[0], fx.Node):
        raise ValueError("the network gives several maps: give a network with one, for example ScoreMap(fcn)")
    if node.op not in ("placeholder", "output", "call_module") and not _is_pointwise(node, None):
        raise ValueError(f"{node.name} ({node.op} {node.target}): no dense form of this operation is known")


def _window(layer: nn.Conv2d | nn.MaxPool2d, before: Pair, name: str) -> _Window:
    padding = layer.padding
    if isinstance(padding, str) or getattr(layer, "padding_mode", "zeros") != "zeros":
        raise ValueError(f"{name}: only padding with a number of zeros has a dense form, not {layer}")
    window = _Window(
        layer, before, _pair(layer.kernel_size), _pair(layer.stride), _pair(padding), _pair(layer.dilation)
    )
    if window.ceil_mode:
        for kernel, stride, pad, dilation in zip(
            window.kernel, window.stride, window.pad, window.dilation, strict=True
        ):
            if stride + pad > dilation * (kernel - 1) + 1:
                raise ValueError(
                    f"{name}: ceil mode with stride + padding beyond the kernel has no dense form: {layer}"
                )
    return window


def _pair(value: int | tuple[int, ...]) -> Pair:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _times(first: Pair, second: Pair) -> Pair:
    return first[0] * second[0], first[1] * second[1]


def _is_pointwise(node: fx.Node, layer: nn.Module | None) -> bool:
    row = operation(node, layer)
    return row is not None and row.joins
