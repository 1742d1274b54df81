"""The form in which a network trains: the same tensors, computed with in other ways."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.split_module import split_module
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from fullyconv.machine import twin
from fullyconv.networks.fcn import FCN

Pair = tuple[int, int]
LARGE = 1 << 23  # weights: the fully connected layers of VGG and AlexNet; a 3 x 3 convolution of 512 channels has 2.4 M
WIDE, FEW = 1024, 16  # channels
SEGMENTS = 8  # of a recorded trunk


class FusedScores(nn.Module):
    """An FCN without its last step: N x K x H x W in, fused scores out, N x C x h x w.

    The loss upsamples them itself (``fullyconv.losses.upsampled_loss``).

    Args:
        network: Has the tensors that train; its modules are left alone.
        checkpointing: Forget what the trunk's units compute and compute it again for the gradient.
    """

    def __init__(self, network: FCN, *, checkpointing: bool = False) -> None:
        super().__init__()
        self.network = twin(network)
        _multiply_large(self.network)
        _by_channel(self.network)
        _guard_strides(self.network)
        if checkpointing:
            _forget(self.network)

    def forward(self, image: Tensor) -> Tensor:
        """Score N x K x H x W pixels up to the finest map that is scored."""
        return self.network.fused(self.network.score_maps(image))


class WholeScores(FusedScores):
    """An FCN in its form for training with the last step: N x K x H x W in, N x C x H x W scores out."""

    def forward(self, image: Tensor) -> Tensor:
        """Score every pixel."""
        return self.network.upsampled(super().forward(image), (image.shape[2], image.shape[3]))


class Columns(nn.Module):
    """A convolution as one matrix product under bfloat16 autocast on a CPU, where its own gradient is slow or wrong.

    Its windows are laid out as rows of a matrix (im2col). Weights and their gradient stay in float32. Elsewhere it is
    the convolution itself.
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.convolution = convolution

    def forward(self, features: Tensor) -> Tensor:
        """Convolve N x C x h x w."""
        own = self.convolution
        if features.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
            return cast("Tensor", own(features))
        (down, across), (top, left) = own.kernel_size, cast("tuple[int, int]", own.padding)
        rows = functional.pad(features.permute(0, 2, 3, 1), (0, 0, left, left, top, top))
        height, width = rows.shape[1] - down + 1, rows.shape[2] - across + 1
        windows = [rows[:, y : y + height, x : x + width] for y in range(down) for x in range(across)]
        matrix = own.weight.permute(0, 2, 3, 1).flatten(1)  # as it lies in memory, channels last
        # The cast would be autocast's own, whose cache keeps a copy until the step's end.
        half = functional.linear(torch.cat(windows, 3), matrix.to(torch.bfloat16), own.bias)
        return half.permute(0, 3, 1, 2)


def conv_by_channel(
    features: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair, dilation: Pair
) -> Tensor:
    """Convolve each channel of N x C x h x w by itself, with a gradient in float32 under bfloat16 on a CPU.

    PyTorch's own gradient is three to six times slower in bfloat16 there (3 x 3, stride 2, 96 x 180 x 240, batch 8: 206
    against 61 ms). Elsewhere it is the usual convolution.
    """
    if features.device.type != "cpu" or not torch.is_autocast_enabled("cpu") or not torch.is_grad_enabled():
        return functional.conv2d(features, weight, bias, stride, padding, dilation, weight.shape[0])
    half = features.to(torch.bfloat16)
    return cast("Tensor", _ByChannel.apply(half, weight, bias, stride, padding, dilation))  # type: ignore[no-untyped-call]


class ByChannel(nn.Module):
    """``conv_by_channel`` in the place of a layer, whose tensors it takes.

    What a layer of a kind of its own does before it convolves, such as to pad unevenly, it still does.
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.convolution = twin(convolution)
        self.convolution._conv_forward = self._convolve  # type: ignore[assignment, method-assign]

    def forward(self, features: Tensor) -> Tensor:
        """Convolve N x C x h x w."""
        return cast("Tensor", self.convolution(features))

    def _convolve(self, features: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        own = self.convolution
        window = cast("tuple[Pair, Pair, Pair]", (own.stride, own.padding, own.dilation))
        return conv_by_channel(features, weight, bias, *window)


class _ByChannel(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, bias: Tensor | None, *window: Any) -> Tensor:
        ctx.save_for_backward(features, weight)
        ctx.window, ctx.biased = window, bias is not None
        half = None if bias is None else bias.to(features.dtype)
        stride, padding, dilation = window
        return functional.conv2d(features, weight.to(features.dtype), half, stride, padding, dilation, weight.shape[0])

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        features, weight = ctx.saved_tensors
        stride, padding, dilation = ctx.window
        channels = weight.shape[0]
        wanted = [ctx.needs_input_grad[0], ctx.needs_input_grad[1], ctx.biased and ctx.needs_input_grad[2]]
        by_features, by_weight, by_bias = torch.ops.aten.convolution_backward(
            slopes[0].float(), features.float(), weight, [channels] if ctx.biased else None,
            stride, padding, dilation, False, [0, 0], channels, wanted,
        )  # fmt: skip
        return (
            by_features if by_features is None else by_features.to(features.dtype),
            by_weight,
            by_bias,
            None,
            None,
            None,
        )


def _by_channel(network: nn.Module) -> None:
    """Let convolutions of single channels take the quicker gradient, be they modules or calls in a recording."""
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.Conv2d) and module.groups == module.in_channels == module.out_channels > 1:
            if module.padding_mode == "zeros" and not isinstance(module.padding, str):
                network.set_submodule(name, ByChannel(module))
        elif isinstance(module, fx.GraphModule):
            calls = [node for node in module.graph.nodes if node.target in (torch.conv2d, functional.conv2d)]
            for node in calls:
                _call_by_channel(module, node)
            if calls:
                module.recompile()


def _call_by_channel(module: fx.GraphModule, node: fx.Node) -> None:
    """Replace one recorded call, if each of its channels is convolved by itself."""
    names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
    given = dict.fromkeys(names[2:], None) | dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
    weight = given["weight"]
    if not isinstance(weight, fx.Node) or weight.op != "get_attr" or isinstance(given["padding"], str):
        return
    shape = module.get_parameter(str(weight.target)).shape
    if given["groups"] != shape[0] or shape[1] != 1 or shape[0] == 1:
        return
    window = [
        value if isinstance(value, tuple) else (usual if value is None else value,) * 2
        for value, usual in ((given["stride"], 1), (given["padding"], 0), (given["dilation"], 1))
    ]
    node.target = conv_by_channel
    node.args, node.kwargs = (given["input"], weight, given["bias"], *window), {}


def _multiply_large(network: nn.Module) -> None:
    for name, module in list(network.named_modules()):
        if type(module) is not nn.Conv2d or module.groups > 1 or module.padding_mode != "zeros":
            continue
        if module.weight.numel() < LARGE and not _narrows(module):
            continue
        if set(module.stride) == set(module.dilation) == {1} and not isinstance(module.padding, str):
            network.set_submodule(name, Columns(module))


def strided_conv(
    features: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, *rest: Any, **named: Any
) -> Tensor:
    """Convolve as ``conv2d`` does, in float32 where the map is less wide than one stride.

    There the gradient of the weights that PyTorch 2.13 computes in bfloat16 holds whatever lay in memory, NaN too, for
    taps that see padding alone (3 x 3, stride 2, on one column).
    """
    step = stride if isinstance(stride, int) else stride[-1]
    if features.device.type != "cpu" or features.shape[-1] >= step or not torch.is_autocast_enabled("cpu"):
        return functional.conv2d(features, weight, bias, stride, *rest, **named)
    with torch.autocast("cpu", enabled=False):
        return functional.conv2d(features.float(), weight, bias, stride, *rest, **named)


class Strided(nn.Module):
    """A convolution of a stride, by ``strided_conv``."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.convolution = convolution

    def forward(self, features: Tensor) -> Tensor:
        """Convolve N x C x h x w."""
        own = self.convolution
        return strided_conv(features, own.weight, own.bias, own.stride, own.padding, own.dilation, own.groups)


def _guard_strides(network: nn.Module) -> None:
    """Let convolutions of a stride beware of maps less wide than that, be they modules or calls in a recording."""
    for name, module in list(network.named_modules()):
        if type(module) is nn.Conv2d and module.stride[1] > 1 and module.padding_mode == "zeros":
            if not name.endswith(".convolution"):  # of a form already
                network.set_submodule(name, Strided(module))
        elif isinstance(module, fx.GraphModule):
            for node in module.graph.nodes:
                if node.target in (torch.conv2d, functional.conv2d) and len(node.args) > 3:
                    node.target = strided_conv
            module.recompile()


def _narrows(convolution: nn.Conv2d) -> bool:
    """Return whether a convolution scores few classes of very many channels.

    In bfloat16 on CPUs with matrix units PyTorch 2.13 writes beyond its memory in the gradient of such a one (1 x 1,
    4096 channels to 5 or 11; not to 16 or 21).
    """
    return convolution.kernel_size == (1, 1) and convolution.in_channels >= WIDE and convolution.out_channels < FEW


class Checkpointed(nn.Module):
    """A unit whose results between its input and its output are forgotten, and computed again for the gradient.

    The second time draws the same random numbers and leaves running averages alone: training is the same.
    """

    def __init__(self, unit: nn.Module) -> None:
        super().__init__()
        self.unit = unit

    def forward(self, *features: Tensor) -> Any:
        """Compute the unit."""
        if not torch.is_grad_enabled():
            return self.unit(*features)
        return checkpoint(self.unit, *features, use_reentrant=False, context_fn=self._contexts)

    def _contexts(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _without_averages(self.unit)


@contextmanager
def _without_averages(unit: nn.Module) -> Iterator[None]:
    layers = [module for module in unit.modules() if isinstance(module, _BatchNorm) and module.training]
    kept = [(layer.momentum, None if (seen := layer.num_batches_tracked) is None else seen.clone()) for layer in layers]
    for layer in layers:
        layer.momentum = 0.0  # not without averages: as many tensors must be recorded as the first time
    try:
        yield
    finally:
        for layer, (momentum, seen) in zip(layers, kept, strict=True):
            layer.momentum = momentum
            if seen is not None:
                layer.num_batches_tracked.copy_(seen)  # type: ignore[union-attr]


def _forget(network: FCN) -> None:
    """Checkpoint the units of each trunk: blocks, runs of layers, or pieces of a recording."""
    for name in network.streams:
        trunk = network.get_submodule(name)
        for path, module in list(trunk.named_modules()):
            if isinstance(module, fx.GraphModule) and path:
                trunk.set_submodule(path, _in_segments(module))
                return
        for path in _units(trunk):
            trunk.set_submodule(path, Checkpointed(trunk.get_submodule(path)))


def _units(module: nn.Module, path: str = "") -> list[str]:
    """Name the units of a trunk: modules that have parts, down through sequences of such."""
    found: list[str] = []
    for name, child in module.named_children():
        inside = f"{path}.{name}" if path else name
        parts = list(child.children())
        blocks = isinstance(child, nn.Sequential) and all(list(part.children()) for part in parts)
        if blocks or isinstance(child, nn.ModuleList):  # a list computes nothing itself
            found += _units(child, inside)
        elif parts:
            found.append(inside)
    return found


def _in_segments(recorded: fx.GraphModule) -> nn.Module:
    """Cut a recording into segments, each of which begins with a convolution of the only map that is passed on.

    So nothing that one segment computes is changed in place by another.
    """
    starts = _narrow(recorded)
    bounds = {starts[len(starts) * part // SEGMENTS] for part in range(1, SEGMENTS)} if starts else set()
    places: dict[fx.Node, int] = {}
    place = 0
    for node in recorded.graph.nodes:
        place += node in bounds
        places[node] = place
    parted = split_module(recorded, recorded, lambda node: places[node])
    for name, segment in list(parted.named_children()):
        if isinstance(segment, fx.GraphModule):
            parted.set_submodule(name, Checkpointed(segment))
    return parted


def _narrow(recorded: fx.GraphModule) -> list[fx.Node]:
    """Find the convolutions that read all that is still of use, maps that are only given out left aside."""
    modules, nodes = dict(recorded.named_modules()), list(recorded.graph.nodes)
    number = {node: place for place, node in enumerate(nodes)}
    last_use = {node: max((number[user] for user in node.users if user.op != "output"), default=-1) for node in nodes}
    found = []
    for place, node in enumerate(nodes):
        convolves = node.op == "call_module" and isinstance(modules[str(node.target)], nn.Conv2d | Columns)
        if convolves and sum(last_use[other] >= place for other in nodes[:place]) == 1:
            found.append(node)
    return found
